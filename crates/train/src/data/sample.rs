//! One sample: what is read, what is said, and what a verifier needs to judge another answer.

use cuvier_encoding::{Conversation, Message, ParserOptions, Role, Thinking, Tool, ToolSchemas};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What it is for.
    pub task: Task,
    /// What is read and said.
    pub body: Body,
    /// What a verifier needs. Nothing where there is nothing to verify.
    pub answer: Option<Answer>,
}

/// What a sample is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Sums and differences.
    Arithmetic,
    /// Values given earlier.
    Recall,
    /// What is known about made-up people.
    Facts,
    /// Calls of tools.
    Tools,
    /// Questions that the prompt does not answer, and some that it does.
    Abstain,
    /// JSON and brackets.
    Grammar,
    /// What the model is.
    Identity,
    /// Text of others, read on this machine.
    Text,
    /// Conversations from elsewhere; nothing verifies them.
    Chat,
}

/// What is read and said.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Plain text.
    Text(String),
    /// A conversation.
    Chat(Chat),
}

/// A conversation, and how hard its assistant thinks.
#[derive(Clone, Debug, PartialEq)]
pub struct Chat {
    /// What is said. Tools stand on the system message.
    pub conversation: Conversation,
    /// Whether the assistant thinks first.
    pub think: Think,
}

/// Whether the assistant thinks first, and how hard: the names of the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Think {
    /// It answers at once.
    #[default]
    Off,
    /// It thinks briefly.
    Low,
    /// It thinks.
    High,
    /// It thinks as long as it can.
    Max,
}

/// What the right answer is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// A number.
    Number(i64),
    /// Texts that must be said in this order, and texts that must not.
    Values {
        /// Must be said.
        right: Vec<String>,
        /// Must not be said: what else could have been taken for it.
        #[serde(default)]
        wrong: Vec<String>,
    },
    /// Nobody can know it from the prompt.
    Unknown {
        /// What is said in the prompt and is no answer.
        #[serde(default)]
        wrong: Vec<String>,
    },
    /// Calls, in this order; none means that nothing may be called.
    Calls(Vec<Call>),
    /// A JSON value.
    Json(Value),
    /// Exactly this text.
    Text(String),
    /// Words that must be said, in any order.
    Words(Vec<String>),
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Its arguments, an object.
    pub arguments: Value,
}

impl Sample {
    /// A sample of a conversation.
    #[must_use]
    pub fn chat(task: Task, chat: Chat, answer: Answer) -> Self {
        Self { task, body: Body::Chat(chat), answer: Some(answer) }
    }

    /// A sample of plain text.
    #[must_use]
    pub fn text(task: Task, text: String) -> Self {
        Self { task, body: Body::Text(text), answer: None }
    }
}

impl Chat {
    /// A question and its answer. Thoughts are kept only if the assistant thinks at all.
    #[must_use]
    pub fn ask(think: Think, question: String, thoughts: String, answer: String) -> Self {
        let messages = vec![Message::text(Role::User, question), Self::reply(think, thoughts, answer)];
        Self { conversation: Conversation { messages }, think }
    }

    /// A message of the assistant.
    pub(super) fn reply(think: Think, thoughts: String, answer: String) -> Message {
        let reasoning_content = (think != Think::Off && !thoughts.is_empty()).then_some(thoughts);
        Message { reasoning_content, ..Message::text(Role::Assistant, answer) }
    }

    /// The conversation up to the answer: what a model is given that shall answer anew. The whole, if it does not end
    /// with an answer.
    #[must_use]
    pub fn question(&self) -> Conversation {
        let messages = &self.conversation.messages;
        let end = match messages.last() {
            Some(last) if last.role == Role::Assistant => messages.len() - 1,
            _ => messages.len(),
        };
        Conversation { messages: messages[..end].to_vec() }
    }

    /// The tools that may be called.
    #[must_use]
    pub fn tools(&self) -> &[Tool] {
        let with_tools = self.conversation.messages.iter().find(|message| !message.tools.is_empty());
        with_tools.map_or(&[], |message| &message.tools)
    }

    /// How an answer to the question is read.
    #[must_use]
    pub fn parser_options(&self) -> ParserOptions {
        let tools = self.tools();
        let schemas = (!tools.is_empty()).then(|| ToolSchemas::new(tools));
        ParserOptions::new(self.think != Think::Off, schemas)
    }
}

impl Think {
    /// All of them, the shortest first.
    pub const ALL: [Self; 4] = [Self::Off, Self::Low, Self::High, Self::Max];

    /// The name in files and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Low => "low",
            Self::High => "high",
            Self::Max => "max",
        }
    }
}

impl From<Think> for Thinking {
    fn from(think: Think) -> Self {
        match think {
            Think::Off => Self::Off,
            Think::Low => Self::Low,
            Think::High => Self::High,
            Think::Max => Self::Max,
        }
    }
}

impl Task {
    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arithmetic => "arithmetic",
            Self::Recall => "recall",
            Self::Facts => "facts",
            Self::Tools => "tools",
            Self::Abstain => "abstain",
            Self::Grammar => "grammar",
            Self::Identity => "identity",
            Self::Text => "text",
            Self::Chat => "chat",
        }
    }
}
