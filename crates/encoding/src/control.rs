//! The control tokens of DeepSeek-V4, by name and by text.
//!
//! Their ids differ between vocabularies, and moved from V3 to V4 and again to V4.1. So nothing in Cuvier
//! names an id: a tokenizer file is asked for each token by its text.

use cuvier_types::TokenId;

/// A token that steers the model and is never the content of a message.
///
/// Source: `encoding/encoding_dsv4.py` of the V4 release for the chat tokens, the added tokens of its
/// `tokenizer.json` for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Control {
    /// Opens every prompt.
    Bos,
    /// Closes every turn of the assistant.
    Eos,
    /// Opens a turn of the user.
    User,
    /// Opens a turn of the assistant.
    Assistant,
    /// Opens the reasoning.
    ThinkStart,
    /// Closes the reasoning.
    ThinkEnd,
    /// Stands in every tag of a tool call.
    Dsml,
    /// Opens a reminder.
    LatestReminder,
    /// Asks for one of the short internal tasks.
    Task(Task),
    /// Stands where a completion in the middle is wanted.
    FimHole,
    /// Precedes the text before the hole.
    FimBegin,
    /// Follows the text after the hole.
    FimEnd,
}

/// The short tasks that V4 was trained to answer after a single token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// Which action to take.
    Action,
    /// Which query to search for.
    Query,
    /// How authoritative a source is.
    Authority,
    /// Which domain a request belongs to.
    Domain,
    /// A title for the conversation.
    Title,
    /// Which address to read.
    ReadUrl,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Action, Self::Query, Self::Authority, Self::Domain, Self::Title, Self::ReadUrl];

    /// The name in a message's `task` field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Query => "query",
            Self::Authority => "authority",
            Self::Domain => "domain",
            Self::Title => "title",
            Self::ReadUrl => "read_url",
        }
    }

    /// The task of that name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.name() == name)
    }
}

impl Control {
    /// All of them; the first seven are those without which no conversation can be held.
    pub const ALL: [Self; 17] = [
        Self::Bos,
        Self::Eos,
        Self::User,
        Self::Assistant,
        Self::ThinkStart,
        Self::ThinkEnd,
        Self::Dsml,
        Self::LatestReminder,
        Self::Task(Task::Action),
        Self::Task(Task::Query),
        Self::Task(Task::Authority),
        Self::Task(Task::Domain),
        Self::Task(Task::Title),
        Self::Task(Task::ReadUrl),
        Self::FimHole,
        Self::FimBegin,
        Self::FimEnd,
    ];

    /// The token's text. Bars are U+FF5C and low bars U+2581, never their ASCII look-alikes.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Bos => "<｜begin▁of▁sentence｜>",
            Self::Eos => "<｜end▁of▁sentence｜>",
            Self::User => "<｜User｜>",
            Self::Assistant => "<｜Assistant｜>",
            Self::ThinkStart => "<think>",
            Self::ThinkEnd => "</think>",
            Self::Dsml => "｜DSML｜",
            Self::LatestReminder => "<｜latest_reminder｜>",
            Self::Task(Task::Action) => "<｜action｜>",
            Self::Task(Task::Query) => "<｜query｜>",
            Self::Task(Task::Authority) => "<｜authority｜>",
            Self::Task(Task::Domain) => "<｜domain｜>",
            Self::Task(Task::Title) => "<｜title｜>",
            Self::Task(Task::ReadUrl) => "<｜read_url｜>",
            Self::FimHole => "<｜fim▁hole｜>",
            Self::FimBegin => "<｜fim▁begin｜>",
            Self::FimEnd => "<｜fim▁end｜>",
        }
    }
}

/// The ids of the control tokens in one vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlIds {
    /// Of [`Control::Bos`].
    pub bos: TokenId,
    /// Of [`Control::Eos`].
    pub eos: TokenId,
    /// Of [`Control::User`].
    pub user: TokenId,
    /// Of [`Control::Assistant`].
    pub assistant: TokenId,
    /// Of [`Control::ThinkStart`].
    pub think_start: TokenId,
    /// Of [`Control::ThinkEnd`].
    pub think_end: TokenId,
    /// Of [`Control::Dsml`].
    pub dsml: TokenId,
    optional: [Option<TokenId>; OPTIONAL.len()],
}

/// What a small vocabulary may do without.
const OPTIONAL: [Control; 10] = [
    Control::LatestReminder,
    Control::Task(Task::Action),
    Control::Task(Task::Query),
    Control::Task(Task::Authority),
    Control::Task(Task::Domain),
    Control::Task(Task::Title),
    Control::Task(Task::ReadUrl),
    Control::FimHole,
    Control::FimBegin,
    Control::FimEnd,
];

impl ControlIds {
    /// Asks `id_of` for every control token.
    ///
    /// # Errors
    /// The first token that is missing and that no conversation can do without.
    pub(crate) fn look_up(mut id_of: impl FnMut(Control) -> Option<TokenId>) -> Result<Self, Control> {
        let mut required = |control| id_of(control).ok_or(control);
        Ok(Self {
            bos: required(Control::Bos)?,
            eos: required(Control::Eos)?,
            user: required(Control::User)?,
            assistant: required(Control::Assistant)?,
            think_start: required(Control::ThinkStart)?,
            think_end: required(Control::ThinkEnd)?,
            dsml: required(Control::Dsml)?,
            optional: OPTIONAL.map(id_of),
        })
    }

    /// The id of `control`, if this vocabulary has it.
    #[must_use]
    pub fn id(&self, control: Control) -> Option<TokenId> {
        match control {
            Control::Bos => Some(self.bos),
            Control::Eos => Some(self.eos),
            Control::User => Some(self.user),
            Control::Assistant => Some(self.assistant),
            Control::ThinkStart => Some(self.think_start),
            Control::ThinkEnd => Some(self.think_end),
            Control::Dsml => Some(self.dsml),
            other => {
                OPTIONAL.iter().zip(&self.optional).find_map(|(&c, &id)| if c == other { id } else { None })
            }
        }
    }

    /// Which control token `id` is, if it is one.
    #[must_use]
    pub fn control(&self, id: TokenId) -> Option<Control> {
        Control::ALL.into_iter().find(|&control| self.id(control) == Some(id))
    }

    /// Whether sampling `id` ends the answer: the end of the turn, or the opening of another one.
    #[must_use]
    pub fn ends_answer(&self, id: TokenId) -> bool {
        self.ends().contains(&id)
    }

    /// The tokens of which any ends an answer.
    #[must_use]
    pub fn ends(&self) -> [TokenId; 4] {
        [self.eos, self.bos, self.user, self.assistant]
    }
}
