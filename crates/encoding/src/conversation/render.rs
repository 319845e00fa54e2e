//! Turns to prompt text, one after the other.

use serde_json::{Map, Value};

use super::ConversationError;
use super::message::{Arguments, Content, Message, Part, Role, Tool, ToolCall};
use super::turns::{Block, Turn, last_user};
use crate::control::{Control, Task};
use crate::prompt::Prompt;
use crate::python_json::to_python_json;

/// What the whole conversation decides for every turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    /// The model thinks before it answers.
    pub(super) thinks: bool,
    /// What it thought in earlier turns is not shown to it again.
    pub(super) drops_reasoning: bool,
}

/// What surrounds the schemas of the tools. The marks in it are control tokens; those in a schema are not.
///
/// Source: `TOOLS_TEMPLATE` in `encoding/encoding_dsv4.py` of the V4 release.
const TOOLS: (&str, &str) = (
    r#"## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<｜DSML｜tool_calls>" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name="$TOOL_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$TOOL_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

"#,
    "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n",
);

pub(super) fn write_turns(
    prompt: &mut Prompt,
    turns: &[Turn<'_>],
    mode: Mode,
) -> Result<(), ConversationError> {
    let last_user = last_user(turns);
    for (index, turn) in turns.iter().enumerate() {
        let is_current = last_user.is_none_or(|last| index > last);
        match turn {
            Turn::User { blocks, .. } => {
                prompt.push_control(Control::User);
                write_blocks(prompt, blocks);
            }
            Turn::Message(message) => match message.role {
                Role::Assistant => {
                    let follows_task = index > 0 && turns[index - 1].task().is_some();
                    if mode.thinks && !follows_task && (!mode.drops_reasoning || is_current) {
                        match &message.sampled {
                            Some(sampled) => prompt.push_sampled(&sampled.reasoning),
                            None => {
                                prompt.push_text(message.reasoning_content.as_deref().unwrap_or_default());
                            }
                        }
                        prompt.push_control(Control::ThinkEnd);
                    }
                    write_answer(prompt, message);
                }
                _ => write_instruction(prompt, index, message)?,
            },
        }
        let next = turns.get(index + 1).map(Turn::role);
        if matches!(next, None | Some(Role::Assistant | Role::LatestReminder)) {
            let opens_thinking =
                mode.thinks && (!mode.drops_reasoning || last_user.is_none_or(|last| index >= last));
            write_header(prompt, turn, opens_thinking, mode);
        }
    }
    Ok(())
}

/// What follows a turn when the model, or nobody, speaks next.
fn write_header(prompt: &mut Prompt, turn: &Turn<'_>, opens_thinking: bool, mode: Mode) {
    let think = |on: bool| if on { Control::ThinkStart } else { Control::ThinkEnd };
    match (turn.task(), turn.role()) {
        (Some(Task::Action), _) => {
            prompt.push_control(Control::Assistant);
            prompt.push_control(think(mode.thinks));
            prompt.push_control(Control::Task(Task::Action));
        }
        (Some(task), _) => prompt.push_control(Control::Task(task)),
        (None, Role::User | Role::Developer) => {
            prompt.push_control(Control::Assistant);
            prompt.push_control(think(opens_thinking));
        }
        (None, _) => {}
    }
}

fn write_blocks(prompt: &mut Prompt, blocks: &[Block<'_>]) {
    for (i, block) in blocks.iter().enumerate() {
        prompt.push_text(if i == 0 { "" } else { "\n\n" });
        match block {
            Block::Text(content) => write_content(prompt, content),
            Block::Result { content, .. } => {
                prompt.push_text("<tool_result>");
                write_content(prompt, content);
                prompt.push_text("</tool_result>");
            }
        }
    }
}

fn write_content(prompt: &mut Prompt, content: &Content) {
    prompt.push_text(&content.text());
}

/// A system, developer or reminder message.
fn write_instruction(prompt: &mut Prompt, index: usize, message: &Message) -> Result<(), ConversationError> {
    if message.role == Role::LatestReminder {
        prompt.push_control(Control::LatestReminder);
        write_content(prompt, &message.content);
        return Ok(());
    }
    if message.role == Role::Developer {
        if is_empty(&message.content) {
            return Err(ConversationError::EmptyDeveloper { message: index });
        }
        prompt.push_control(Control::User);
    }
    write_content(prompt, &message.content);
    if !message.tools.is_empty() {
        write_tools(prompt, &message.tools);
    }
    if let Some(schema) = &message.response_format {
        prompt.push_text(
            "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n",
        );
        prompt.push_text(&to_python_json(schema));
    }
    Ok(())
}

fn is_empty(content: &Content) -> bool {
    match content {
        Content::Text(text) => text.is_empty(),
        Content::Parts(parts) => parts.iter().all(|part| matches!(part, Part::Text(text) if text.is_empty())),
    }
}

fn write_tools(prompt: &mut Prompt, tools: &[Tool]) {
    prompt.push_text("\n\n");
    prompt.push_markup(TOOLS.0);
    for (i, tool) in tools.iter().enumerate() {
        prompt.push_text(if i == 0 { "" } else { "\n" });
        prompt.push_text(&to_python_json(&tool.function));
    }
    prompt.push_text(TOOLS.1);
}

/// What the assistant said and called, and the end of its turn.
fn write_answer(prompt: &mut Prompt, message: &Message) {
    if let Some(sampled) = &message.sampled {
        prompt.push_sampled(&sampled.answer);
    } else {
        write_content(prompt, &message.content);
        write_calls(prompt, message);
    }
    if !message.wo_eos {
        prompt.push_control(Control::Eos);
    }
}

fn write_calls(prompt: &mut Prompt, message: &Message) {
    if !message.tool_calls.is_empty() {
        prompt.push_markup("\n\n<｜DSML｜tool_calls>\n");
        for call in &message.tool_calls {
            write_call(prompt, call);
            prompt.push_text("\n");
        }
        prompt.push_markup("</｜DSML｜tool_calls>");
    }
}

fn write_call(prompt: &mut Prompt, call: &ToolCall) {
    prompt.push_markup("<｜DSML｜invoke name=\"");
    prompt.push_text(&call.name);
    prompt.push_text("\">\n");
    for (i, (key, value)) in parameters(&call.arguments).iter().enumerate() {
        prompt.push_text(if i == 0 { "" } else { "\n" });
        prompt.push_markup("<｜DSML｜parameter name=\"");
        prompt.push_text(key);
        // A string stands as it is: the format has no escapes.
        match value {
            Value::String(text) => {
                prompt.push_text("\" string=\"true\">");
                prompt.push_text(text);
            }
            other => {
                prompt.push_text("\" string=\"false\">");
                prompt.push_text(&to_python_json(other));
            }
        }
        prompt.push_markup("</｜DSML｜parameter>");
    }
    prompt.push_markup("\n</｜DSML｜invoke>");
}

/// What is not an object becomes the one parameter `arguments`, so that the model sees what it once wrote.
fn parameters(arguments: &Arguments) -> Map<String, Value> {
    let wrapped = |value: Value| Map::from_iter([("arguments".to_owned(), value)]);
    match arguments {
        Arguments::Value(Value::Object(fields)) => fields.clone(),
        Arguments::Value(other) => wrapped(other.clone()),
        Arguments::Text(text) => match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => fields,
            // Some proxies encode the arguments twice.
            Ok(Value::String(inner)) => {
                serde_json::from_str(&inner).unwrap_or_else(|_| wrapped(Value::String(text.clone())))
            }
            _ => wrapped(Value::String(text.clone())),
        },
    }
}
