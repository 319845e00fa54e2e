//! `cuvier chat` without a prompt: message by message, until the end of input.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::ValueEnum;
use cuvier_encoding::{Conversation, Message, Role};
use cuvier_engine::{LayerReads, with_causes};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};

use crate::dialogue::{Answer, Dialogue};
use crate::options::Think;
use crate::planning;

const HELP: &str = "/think off|low|high|max   how hard to think
/system TEXT              what the model is told before the conversation; without TEXT: nothing
/load FILE                go on with a saved conversation, or put a text file into the next message
/save FILE                write the conversation down
/new                      forget the conversation
/quit                     leave (so does the end of input)
Ctrl-C                    end the answer; twice: leave
A line that ends in \\ goes on in the next; \"\"\" opens and closes a message of many lines.";

/// Longest file that `/load` takes, in bytes.
const LOAD_MAX: u64 = 16 << 20;

/// Reads messages and answers them.
pub fn run(dialogue: &mut Dialogue, name: &str) -> anyhow::Result<()> {
    eprintln!("{name}; /help lists the commands");
    let mut editor = DefaultEditor::new().context("opening the terminal")?;
    let mut attached = String::new();
    while let Some(text) = read_message(&mut editor)? {
        dialogue.interrupt.clear();
        match Input::of(&text) {
            Input::Empty => {}
            Input::Quit => break,
            Input::Help => eprintln!("{HELP}"),
            Input::New => dialogue.reset()?,
            Input::Think(effort) => think(dialogue, effort),
            Input::System(text) => dialogue.set_system(text),
            Input::Load(file) => report(load(dialogue, Path::new(file), &mut attached)),
            Input::Save(file) => report(save(&dialogue.history, Path::new(file))),
            Input::Unknown(command) => eprintln!("there is no {command}; /help lists the commands"),
            Input::Say(text) => {
                let message = format!("{}{text}", std::mem::take(&mut attached));
                answer(dialogue, &message);
            }
        }
    }
    eprintln!();
    Ok(())
}

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input<'a> {
    Empty,
    Quit,
    Help,
    New,
    Think(&'a str),
    System(&'a str),
    Load(&'a str),
    Save(&'a str),
    Unknown(&'a str),
    Say(&'a str),
}

impl<'a> Input<'a> {
    fn of(text: &'a str) -> Self {
        let text = text.trim();
        if !text.starts_with('/') {
            return if text.is_empty() { Self::Empty } else { Self::Say(text) };
        }
        let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        match command {
            "/quit" | "/exit" => Self::Quit,
            "/help" => Self::Help,
            "/new" => Self::New,
            "/think" => Self::Think(rest),
            "/system" => Self::System(rest),
            "/load" => Self::Load(rest),
            "/save" => Self::Save(rest),
            other => Self::Unknown(other),
        }
    }
}

/// The next line; `None` at the end of input.
fn read_line(editor: &mut DefaultEditor, prompt: &str) -> anyhow::Result<Option<String>> {
    match editor.readline(prompt) {
        Ok(line) => Ok(Some(line)),
        Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
        Err(error) => Err(error).context("reading the terminal"),
    }
}

/// One message, of one line or many.
fn read_message(editor: &mut DefaultEditor) -> anyhow::Result<Option<String>> {
    let Some(first) = read_line(editor, "> ")? else { return Ok(None) };
    let mut message = Joined::default();
    let mut is_open = message.add(&first);
    while is_open {
        match read_line(editor, "… ")? {
            Some(line) => is_open = message.add(&line),
            None => break,
        }
    }
    if !message.text.trim().is_empty() {
        // Arrow keys call it back. A history that is full forgets its oldest; nothing to tell.
        let _ = editor.add_history_entry(&message.text);
    }
    Ok(Some(message.text))
}

/// Lines that make one message.
#[derive(Debug, Default)]
struct Joined {
    text: String,
    in_quotes: bool,
    has_begun: bool,
}

impl Joined {
    const QUOTES: &str = "\"\"\"";

    /// Adds a line and says whether the message goes on.
    fn add(&mut self, line: &str) -> bool {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let mut line = line;
        if is_first && let Some(rest) = line.strip_prefix(Self::QUOTES) {
            self.in_quotes = true;
            line = rest;
        } else if !is_first {
            self.text.push('\n');
        }
        if self.in_quotes {
            let end = line.strip_suffix(Self::QUOTES);
            self.text.push_str(end.unwrap_or(line));
            return end.is_none();
        }
        let more = line.strip_suffix('\\');
        self.text.push_str(more.unwrap_or(line));
        more.is_some()
    }
}

fn think(dialogue: &mut Dialogue, effort: &str) {
    match Think::from_str(effort, true) {
        Ok(think) => dialogue.prompt_options.thinking = think.into(),
        Err(_) => eprintln!("/think off, low, high or max"),
    }
}

fn report(result: anyhow::Result<String>) {
    match result {
        Ok(what) => eprintln!("{what}"),
        Err(error) => eprintln!("error: {}", with_causes(error.as_ref())),
    }
}

fn save(history: &Conversation, file: &Path) -> anyhow::Result<String> {
    if file.as_os_str().is_empty() {
        bail!("/save needs the name of a file");
    }
    let messages: Vec<Value> = history.messages.iter().map(saved).collect();
    let text = serde_json::to_string_pretty(&json!({"messages": messages}))?;
    // Beside it first, so that a full disk leaves what was there.
    let beside = file.with_extension("part");
    std::fs::write(&beside, text + "\n").with_context(|| beside.display().to_string())?;
    std::fs::rename(&beside, file).with_context(|| file.display().to_string())?;
    Ok(format!("{} messages in {}", messages.len(), file.display()))
}

fn saved(message: &Message) -> Value {
    let mut value = json!({"role": message.role.name(), "content": message.content.text()});
    if let Some(reasoning) = &message.reasoning_content {
        value["reasoning_content"] = json!(reasoning);
    }
    value
}

fn load(dialogue: &mut Dialogue, file: &Path, attached: &mut String) -> anyhow::Result<String> {
    let name = file.display();
    if file.as_os_str().is_empty() {
        bail!("/load needs the name of a file");
    }
    let bytes = std::fs::metadata(file).with_context(|| name.to_string())?.len();
    if bytes > LOAD_MAX {
        bail!("{name}: {bytes} bytes; at most {LOAD_MAX} can be loaded");
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("{name} is not a text file"))?;
    if let Some(history) = saved_conversation(&text) {
        let n = history.messages.len();
        dialogue.history = history;
        return Ok(format!("{n} messages from {name}"));
    }
    let lines = text.lines().count();
    attached.push_str(&format!("`{name}`:\n```\n{}\n```\n\n", text.trim_end()));
    Ok(format!("{name}, {lines} lines, goes with the next message"))
}

/// The conversation in a file that `/save` wrote.
fn saved_conversation(text: &str) -> Option<Conversation> {
    let value: Value = serde_json::from_str(text).ok()?;
    let conversation = Conversation::from_json(value.get("messages")?).ok()?;
    let is_ours = |message: &Message| matches!(message.role, Role::System | Role::User | Role::Assistant);
    conversation.messages.iter().all(is_ours).then_some(conversation)
}

/// A failed answer does not end the conversation.
fn answer(dialogue: &mut Dialogue, text: &str) {
    let start = Instant::now();
    let before = total(&dialogue.engine.expert_reads());
    match dialogue.answer(text) {
        Ok(answer) => {
            eprintln!("[{}]", speed(&answer, start));
            let reads = total(&dialogue.engine.expert_reads()).since(before);
            if reads.hits + reads.misses > 0 {
                let computed = answer.prompt_tokens - answer.cached_tokens + answer.tokens;
                eprintln!("[{}]", planning::reads(&reads, computed));
            }
        }
        Err(error) => eprintln!("error: {}", with_causes(error.as_ref())),
    }
}

fn total(layers: &[LayerReads]) -> LayerReads {
    layers.iter().copied().fold(LayerReads::default(), LayerReads::and)
}

/// What the answer took, in a line.
fn speed(answer: &Answer, start: Instant) -> String {
    let first = answer.first_token.unwrap_or_else(Instant::now);
    let decode = first.elapsed().as_secs_f64();
    // The first token comes with the prompt; what is timed are those after it.
    let rate = if answer.tokens > 1 { (answer.tokens - 1) as f64 / decode } else { 0.0 };
    let cut = if answer.was_cut() { ", cut for want of room" } else { "" };
    format!(
        "{} tokens, {rate:.1} tokens/s; prompt {} tokens, {} of them computed before; first token after {:.2} s{cut}",
        answer.tokens,
        answer.prompt_tokens,
        answer.cached_tokens,
        (first - start).as_secs_f64(),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn joined(lines: &[&str]) -> (String, bool) {
        let mut message = Joined::default();
        let open = lines.iter().fold(true, |_, line| message.add(line));
        (message.text, open)
    }

    #[test]
    fn a_backslash_and_three_quotes_make_messages_of_many_lines() {
        assert_eq!(joined(&["a"]), ("a".to_owned(), false));
        assert_eq!(joined(&["a\\", "b"]), ("a\nb".to_owned(), false));
        assert_eq!(joined(&["\"\"\"a", "", "b\"\"\""]), ("a\n\nb".to_owned(), false));
        assert_eq!(joined(&["\"\"\"", "a"]), ("\na".to_owned(), true));
    }

    #[test]
    fn commands_are_told_from_messages() {
        assert_eq!(Input::of(" /think  max "), Input::Think("max"));
        assert_eq!(Input::of("/system You are\nterse."), Input::System("You are\nterse."));
        assert_eq!(Input::of("/load"), Input::Load(""));
        assert_eq!(Input::of("/thinking"), Input::Unknown("/thinking"));
        assert_eq!(Input::of("1/2"), Input::Say("1/2"));
        assert_eq!(Input::of("  "), Input::Empty);
    }

    #[test]
    fn a_saved_conversation_is_read_back_and_other_text_is_not_one() {
        let mut said = Message::text(Role::Assistant, "b");
        said.reasoning_content = Some("r".to_owned());
        let history = Conversation { messages: vec![Message::text(Role::User, "a"), said] };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("talk.json");
        save(&history, &file).unwrap();
        assert_eq!(saved_conversation(&std::fs::read_to_string(&file).unwrap()), Some(history));
        assert_eq!(saved_conversation("{\"messages\": 3}"), None);
        assert_eq!(saved_conversation("plain"), None);
    }
}
