//! A block of calls, as the format has it.
//!
//! Source: section "Tools" of the V4 prompt; `encode_arguments_to_dsml` in `encoding/encoding_dsv4.py`.

use cuvier_types::TokenId;
use serde_json::Value;

use super::lark::{MARK_END, Rules, literal, regex, token};
use super::schema::{Cleaner, Strictness, constraints, is_refused, wrong};
use super::value::{Form, forms};
use super::{CallChoice, CallOptions, GrammarTextError};
use crate::conversation::Tool;
use crate::parser::{reads_as_invoke, reads_as_parameter};

/// Bits of the number that remembers which parameters were written. The last one means: any that the schema does not
/// name.
const BITS: usize = 63;

/// Any text up to the closing tag's mark. A text has no mark, so this ends where the tag begins.
const TEXT: &str = "TEXT";

/// What follows the mark of the block's opening tag, to the end of the block.
pub(super) fn block(
    rules: &mut Rules,
    tools: &[Tool],
    options: &CallOptions<'_>,
) -> Result<String, GrammarTextError> {
    let mark = token(options.mark);
    rules.rule(TEXT, &regex("(?s:.*)</"));
    let mut names = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        let name = tool.function["name"].as_str().unwrap_or_default();
        if !matches!(options.choice, CallChoice::Named(wanted) if wanted != name) {
            names.push(ToolRules::new(tool, index, &mark).write(rules, name)?);
        }
    }
    match options.choice {
        CallChoice::Named(name) if names.is_empty() => {
            return Err(GrammarTextError::UnknownTool { name: name.to_owned() });
        }
        _ if names.is_empty() => return Err(GrammarTextError::NoTools),
        _ => {}
    }
    rules.rule("call", &names.join(" | "));
    let is_one = !options.is_parallel || matches!(options.choice, CallChoice::Named(_));
    // A line's end belongs to what stands before it: the lexer takes the longest terminal and never goes back, so
    // two that begin alike, such as `\n` and `\n</`, would leave only the longer one.
    let calls = if is_one { "call" } else { "call+" };
    let (open, close) = (literal("tool_calls>\n"), literal("tool_calls>"));
    Ok(format!("{open} {calls} \"</\" {mark} {close}"))
}

/// A block with what stands before it in an answer.
pub(super) fn opened(mark: TokenId, block: &str) -> String {
    format!("{} {} {block}", literal("\n\n<"), token(mark))
}

/// Writes the rules of one tool.
struct ToolRules<'a> {
    tool: &'a Tool,
    /// What its rules' names begin with.
    prefix: String,
    place: String,
    mark: String,
    strictness: Strictness,
}

/// A parameter that can be written.
struct Parameter {
    rule: String,
    is_required: bool,
}

static NO_PARAMETERS: Value = Value::Null;

impl<'a> ToolRules<'a> {
    fn new(tool: &'a Tool, index: usize, mark: &str) -> Self {
        let strictness = if tool.function["strict"] == true { Strictness::Strict } else { Strictness::Lax };
        let place = format!("tools[{index}].function.parameters");
        Self { tool, prefix: format!("t{index}"), place, mark: mark.to_owned(), strictness }
    }

    fn write(&self, rules: &mut Rules, name: &str) -> Result<String, GrammarTextError> {
        if name.contains(MARK_END) || !reads_as_invoke(name) {
            return Err(self.unwritable(name));
        }
        let document = self.tool.function.get("parameters").unwrap_or(&NO_PARAMETERS);
        let mut cleaner = Cleaner::new(document, &self.place, self.strictness);
        let schema = self.object(&cleaner, document)?;
        let parameters = self.parameters(rules, &mut cleaner, schema)?;
        let extra = self.extra(rules, &mut cleaner, schema)?;
        let body = match self.strictness {
            Strictness::Lax if parameters.len() < BITS => self.in_any_order(rules, parameters, extra),
            _ => self.in_order(rules, &parameters, extra),
        };
        let mark = &self.mark;
        let open = literal(&format!("invoke name=\"{name}\">\n"));
        let close = literal("invoke>\n");
        Ok(rules.rule(&self.prefix, &format!("\"<\" {mark} {open} {body} \"</\" {mark} {close}")))
    }

    /// The schema of the arguments, references resolved; null for a tool that takes none.
    fn object(&self, cleaner: &Cleaner<'a>, document: &'a Value) -> Result<&'a Value, GrammarTextError> {
        let mut schema = document;
        if let Some(reference) = document.get("$ref").and_then(Value::as_str) {
            match cleaner.target(reference) {
                Some(target) => schema = target,
                None => cleaner.refuse(&self.place, "$ref")?,
            }
        }
        match schema {
            Value::Null | Value::Object(_) => {}
            _ => return Err(wrong(&self.place, "must be an object")),
        }
        let known = ["type", "properties", "required", "additionalProperties", "$ref"];
        for keyword in constraints(schema) {
            if is_refused(keyword, &schema[keyword]) || !known.contains(&keyword) {
                cleaner.refuse(&format!("{}.{keyword}", self.place), keyword)?;
            }
        }
        let is_object = |name: &Value| name == "object";
        match &schema["type"] {
            Value::Null => {}
            Value::Array(names) if names.iter().any(is_object) => {}
            name if is_object(name) => {}
            _ => return Err(wrong(&self.place, "`type` must be `object`")),
        }
        Ok(schema)
    }

    fn parameters(
        &self,
        rules: &mut Rules,
        cleaner: &mut Cleaner<'a>,
        schema: &'a Value,
    ) -> Result<Vec<Parameter>, GrammarTextError> {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = schema["properties"].as_object();
        let mut named: Vec<(&str, &'a Value)> =
            properties.into_iter().flatten().map(|(name, schema)| (name.as_str(), schema)).collect();
        for name in &required {
            if !named.iter().any(|(known, _)| known == name) {
                named.push((name, schema.get("additionalProperties").unwrap_or(&Value::Bool(true))));
            }
        }
        let mut out = Vec::new();
        for (index, (name, schema)) in named.into_iter().enumerate() {
            let is_required = required.contains(&name);
            let place = format!("{}.properties.{name}", self.place);
            let can_be_read = !name.contains(MARK_END) && reads_as_parameter(name);
            let forms = if can_be_read { forms(cleaner, schema, &place)? } else { Vec::new() };
            if !forms.is_empty() {
                let rule = format!("{}p{index}", self.prefix);
                let rule = self.parameter(rules, &rule, &literal(name), &forms);
                out.push(Parameter { rule, is_required });
            } else if is_required || self.strictness == Strictness::Strict && !can_be_read {
                return Err(self.unwritable(name));
            }
        }
        Ok(out)
    }

    /// The rule of parameters that the schema allows without naming them. Nobody is told that a tool without
    /// `properties` takes none.
    fn extra(
        &self,
        rules: &mut Rules,
        cleaner: &mut Cleaner<'a>,
        schema: &'a Value,
    ) -> Result<Option<String>, GrammarTextError> {
        let allowed = match (schema.get("additionalProperties"), schema.get("properties")) {
            _ if schema.is_null() => None,
            (Some(allowed), _) => Some(allowed),
            (None, None) => Some(&Value::Bool(true)),
            (None, Some(_)) if self.strictness == Strictness::Strict => Some(&Value::Bool(true)),
            (None, Some(_)) => None,
        };
        let Some(allowed) = allowed else { return Ok(None) };
        let forms = forms(cleaner, allowed, &format!("{}.additionalProperties", self.place))?;
        if forms.is_empty() {
            return Ok(None);
        }
        // Those of the schema have their own rules; the other two the parser may take for all arguments at once.
        let properties =
            schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let taken: Vec<String> =
            properties.chain(required).chain(["arguments", "input"]).map(literal).collect();
        let key = format!("{} & ~({})", regex("[^\"'<>=\\s\\x00-\\x1f\\x7f]{1,64}"), taken.join(" | "));
        let key = rules.rule(&format!("{}KEY", self.prefix.to_uppercase()), &key);
        let rule = format!("{}extra", self.prefix);
        Ok(Some(self.parameter(rules, &rule, &key, &forms)))
    }

    /// A parameter with a line's end. `name` is a literal or a terminal.
    fn parameter(&self, rules: &mut Rules, rule: &str, name: &str, forms: &[Form]) -> String {
        let mark = &self.mark;
        let mut texts = Vec::new();
        let mut jsons = Vec::new();
        for (index, form) in forms.iter().enumerate() {
            match form {
                Form::Text => texts.push(TEXT.to_owned()),
                Form::Terminal(expression) => {
                    let terminal = format!("{}V{index}", rule.to_uppercase());
                    texts.push(rules.rule(&terminal, &format!("({expression}) \"</\"")));
                }
                Form::Json(part) => {
                    jsons.push(rules.rule(&format!("{rule}j{index}"), part));
                }
            }
        }
        let open = literal("parameter name=\"");
        let close = literal("parameter>\n");
        let mut out = Vec::new();
        if !texts.is_empty() {
            let header = literal("\" string=\"true\">");
            let texts = texts.join(" | ");
            out.push(format!("\"<\" {mark} {open} {name} {header} ({texts}) {mark} {close}"));
        }
        if !jsons.is_empty() {
            let header = literal("\" string=\"false\">");
            let jsons = jsons.join(" | ");
            out.push(format!("\"<\" {mark} {open} {name} {header} ({jsons}) \"</\" {mark} {close}"));
        }
        rules.rule(rule, &out.join(" | "))
    }

    /// In the order of the schema. A call without parameters has an empty line in their place.
    fn in_order(&self, rules: &mut Rules, parameters: &[Parameter], extra: Option<String>) -> String {
        let one = |parameter: &Parameter| {
            let suffix = if parameter.is_required { "" } else { "?" };
            format!("{}{suffix}", parameter.rule)
        };
        let more = extra.map(|rule| format!("{rule}*"));
        if parameters.iter().any(|parameter| parameter.is_required) {
            let all: Vec<String> = parameters.iter().map(one).chain(more).collect();
            return all.join(" ");
        }
        // At least one of those from here on, for each of them; the first rule written is the last parameter's.
        let mut at_least_one =
            more.map(|more| rules.rule(&format!("{}some", self.prefix), &more.replace('*', "+")));
        for (index, parameter) in parameters.iter().enumerate().rev() {
            let rule = &parameter.rule;
            let body = match &at_least_one {
                Some(rest) => format!("{rule} {rest}? | {rest}"),
                None => rule.clone(),
            };
            at_least_one = Some(rules.rule(&format!("{}from{index}", self.prefix), &body));
        }
        match at_least_one {
            Some(rule) => format!("({rule} | \"\\n\")"),
            None => "\"\\n\"".to_owned(),
        }
    }

    /// In any order, none twice, the required ones in any case.
    fn in_any_order(
        &self,
        rules: &mut Rules,
        mut parameters: Vec<Parameter>,
        extra: Option<String>,
    ) -> String {
        // The required ones have the low bits, so that one comparison sees them all.
        parameters.sort_by_key(|parameter| !parameter.is_required);
        let n_required = parameters.iter().filter(|parameter| parameter.is_required).count();
        if parameters.is_empty() && extra.is_none() {
            return "\"\\n\"".to_owned();
        }
        let set = format!("{}set", self.prefix);
        let mut options = if n_required > 0 {
            vec![format!("\"\" %if is_ones([0:{n_required}])")]
        } else {
            vec!["\"\\n\" %if is_zeros([0:64])".to_owned(), "\"\" %if not(is_zeros([0:64]))".to_owned()]
        };
        for (bit, Parameter { rule, .. }) in parameters.iter().enumerate() {
            options.push(format!("{rule} {set}::set_bit({bit}) %if bit_clear({bit})"));
        }
        if let Some(rule) = extra {
            options.push(format!("{rule} {set}::set_bit({BITS})"));
        }
        rules.rule(&format!("{set}::_"), &options.join(" | "));
        format!("{set}::0x0")
    }

    fn unwritable(&self, text: &str) -> GrammarTextError {
        GrammarTextError::Unwritable { place: self.place.clone(), text: text.to_owned() }
    }
}
