//! Tools as responses writes them: flat functions, functions in namespaces, tools that take plain text.

use std::collections::HashMap;

use cuvier_encoding::Tool;
use serde_json::{Map, Value, json};

use crate::ApiError;
use crate::ask::ToolChoice;
use crate::wire::{Fields, json_kind};

/// The tools of a request, and what each was to its client.
#[derive(Clone, Debug, Default)]
pub(super) struct Tools {
    /// For the prompt.
    pub(super) tools: Vec<Tool>,
    kinds: HashMap<String, Kind>,
}

/// What a tool is to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A function, in a namespace or not.
    Function { namespace: Option<String>, name: String },
    /// Takes a text, which stands in the one parameter `input`.
    Custom,
}

impl Tools {
    /// Reads `tools`; those that only OpenAI's own servers run are passed over.
    ///
    /// # Errors
    /// If one has no name.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, ApiError> {
        let mut tools = Self::default();
        for tool in fields.objects("tools")? {
            match tool.string("type")?.unwrap_or("function") {
                "function" => tools.add_function(&tool, None)?,
                "namespace" => {
                    let namespace = tool.need_string("name")?;
                    for inner in tool.objects("tools")? {
                        tools.add_function(&inner, Some(namespace))?;
                    }
                }
                "custom" => tools.add_custom(&tool)?,
                _ => {}
            }
        }
        Ok(tools)
    }

    fn add_function(&mut self, tool: &Fields<'_>, namespace: Option<&str>) -> Result<(), ApiError> {
        let name = tool.need_string("name")?.to_owned();
        let full = full_name(namespace, &name);
        let mut function = Map::new();
        function.insert("name".to_owned(), json!(full));
        for key in ["description", "parameters", "strict"] {
            if let Some(value) = tool.get(key) {
                function.insert(key.to_owned(), value.clone());
            }
        }
        self.tools.push(Tool { function: Value::Object(function) });
        self.kinds.insert(full, Kind::Function { namespace: namespace.map(str::to_owned), name });
        Ok(())
    }

    fn add_custom(&mut self, tool: &Fields<'_>) -> Result<(), ApiError> {
        let name = tool.need_string("name")?;
        let input =
            json!({"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]});
        let description = tool.string("description")?.unwrap_or_default();
        let function = json!({"name": name, "description": description, "parameters": input});
        self.tools.push(Tool { function });
        self.kinds.insert(name.to_owned(), Kind::Custom);
        Ok(())
    }

    /// What a tool was, by the name that the model knows; a name that nobody sent is a function's.
    pub(super) fn kind(&self, name: &str) -> Kind {
        let unknown = || Kind::Function { namespace: None, name: name.to_owned() };
        self.kinds.get(name).cloned().unwrap_or_else(unknown)
    }
}

/// The name under which the model knows a function of a namespace.
pub(super) fn full_name(namespace: Option<&str>, name: &str) -> String {
    namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}__{name}"))
}

/// `tool_choice`.
///
/// # Errors
/// If it is no choice.
pub(super) fn read_choice(fields: &Fields<'_>) -> Result<ToolChoice, ApiError> {
    let key = "tool_choice";
    match fields.get(key) {
        None => Ok(ToolChoice::Auto),
        Some(Value::String(choice)) => match choice.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => Ok(ToolChoice::Required),
            other => Err(fields.refuse(key, format!("must be auto, none or required, not `{other}`"))),
        },
        Some(value) => {
            let choice = Fields::of(value, fields.path(key))?;
            match choice.need_string("type")? {
                "function" | "custom" => Ok(ToolChoice::Named(choice.need_string("name")?.to_owned())),
                "allowed_tools" => Ok(ToolChoice::Auto),
                other => {
                    Err(choice.refuse("type", format!("`{other}` is not served here ({})", json_kind(value))))
                }
            }
        }
    }
}
