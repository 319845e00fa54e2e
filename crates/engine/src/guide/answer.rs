//! A constraint in its place: after the reasoning, from the first tag of a call on, or for the whole answer.

use cuvier_types::TokenId;

use super::spelling::{Spelled, Spelling};
use super::vocabulary::Inner;
use super::{Allowed, Grammar, Guide, GuideError, Vocabulary};

/// What an answer has to be.
#[derive(Clone, Debug)]
pub struct AnswerPlan {
    /// What the prompt ended with.
    pub opening: Opening,
    /// What may be said after the reasoning.
    pub rule: Rule,
    /// Tokens of reasoning after which it is closed.
    pub thinking_max: Option<usize>,
    /// Tokens of the whole answer, if they are bounded.
    pub tokens_max: Option<usize>,
    /// Tokens of `tokens_max` that the reasoning must leave.
    pub reserve: usize,
}

/// Where an answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// In the reasoning.
    Reasoning,
    /// Behind it.
    Content,
}

/// What may be said.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Anything; a block of calls is not looked for.
    Free,
    /// Anything that has no mark of calls in it.
    NoCalls,
    /// Anything, up to the mark of a block of calls; the rest is a text of this grammar, then the end.
    Calls(Box<Grammar>),
    /// A text of this grammar, then the end.
    Whole(Box<Grammar>),
}

/// Follows an answer through its parts.
#[derive(Clone, Debug)]
pub struct Answer {
    vocabulary: Vocabulary,
    phase: Phase,
    rule: Rule,
    /// Tokens of reasoning that are left, if they are counted.
    thinking_left: Option<usize>,
}

#[derive(Clone, Debug)]
enum Phase {
    Reasoning {
        spelled: Spelled,
        tail: Tail,
    },
    Content {
        spelled: Spelled,
        tail: Tail,
    },
    /// The rule's grammar governs.
    Grammar,
    Ended,
}

/// The last bytes of the text, as many as decide whether a mark opens a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tail([u8; 3]);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = [self.0[1], self.0[2], byte];
        }
    }

    fn opens_tag(self) -> bool {
        self.0[2] == b'<'
    }

    fn opens_tag_after_blank_line(self) -> bool {
        self.0 == *b"\n\n<"
    }
}

impl Answer {
    /// The beginning of an answer.
    pub fn new(vocabulary: &Vocabulary, plan: AnswerPlan) -> Self {
        let AnswerPlan { opening, rule, thinking_max, tokens_max, reserve } = plan;
        let room =
            tokens_max.map(|max| max.saturating_sub(reserve).saturating_sub(1)).filter(|_| reserve > 0);
        let thinking_left = [thinking_max, room].into_iter().flatten().min();
        let mut answer = Self { vocabulary: vocabulary.clone(), phase: Phase::Ended, rule, thinking_left };
        answer.phase = match opening {
            Opening::Reasoning => Phase::Reasoning { spelled: Spelled::default(), tail: Tail::default() },
            Opening::Content => answer.after_reasoning(),
        };
        answer
    }

    fn after_reasoning(&self) -> Phase {
        let inner = self.vocabulary.inner();
        match self.rule {
            Rule::Whole(_) => Phase::Grammar,
            Rule::Free | Rule::NoCalls | Rule::Calls(_) => Phase::Content {
                spelled: inner.in_content.run(Spelled::default(), b"\n").0,
                tail: Tail::default(),
            },
        }
    }

    fn grammar(&mut self) -> Option<&mut Grammar> {
        match &mut self.rule {
            Rule::Calls(grammar) | Rule::Whole(grammar) => Some(grammar),
            Rule::Free | Rule::NoCalls => None,
        }
    }

    fn looks_for_calls(&self) -> bool {
        matches!(self.rule, Rule::Calls(_))
    }

    /// Not the end, nor any turn but this; no `mark` that would open a block which is not governed.
    fn banned_in_reasoning(&self, inner: &Inner, spelled: Spelled, tail: Tail) -> Vec<TokenId> {
        let mut banned = banned(inner, &inner.in_reasoning, spelled);
        banned.push(inner.parts.end);
        if tail.opens_tag_after_blank_line() && !self.looks_for_calls() {
            banned.push(inner.parts.mark);
        }
        banned
    }

    fn banned_in_content(&self, inner: &Inner, spelled: Spelled) -> Vec<TokenId> {
        let mut banned = if self.looks_for_calls() {
            banned(inner, &inner.in_content, spelled)
        } else {
            inner.never.clone()
        };
        banned.extend([inner.parts.reasoning_start, inner.parts.reasoning_end]);
        if matches!(self.rule, Rule::NoCalls) {
            banned.push(inner.parts.mark);
        }
        banned
    }
}

impl Guide for Answer {
    fn allowed(&mut self) -> Result<Allowed, GuideError> {
        let inner = self.vocabulary.inner();
        match self.phase {
            Phase::Reasoning { .. } if self.thinking_left == Some(0) => {
                Ok(Allowed::One(inner.parts.reasoning_end))
            }
            Phase::Reasoning { spelled, tail } => {
                Ok(Allowed::AllBut(self.banned_in_reasoning(inner, spelled, tail)))
            }
            Phase::Content { spelled, .. } => Ok(Allowed::AllBut(self.banned_in_content(inner, spelled))),
            Phase::Grammar => self.grammar().ok_or(GuideError::Stuck)?.allowed(),
            Phase::Ended => Ok(Allowed::One(inner.parts.end)),
        }
    }

    fn allows(&mut self, token: TokenId) -> Result<bool, GuideError> {
        match self.phase {
            Phase::Grammar => self.grammar().ok_or(GuideError::Stuck)?.allows(token),
            _ => Ok(self.allowed()?.contains(token)),
        }
    }

    fn observe(&mut self, token: TokenId) -> Result<(), GuideError> {
        let vocabulary = self.vocabulary.clone();
        let inner = vocabulary.inner();
        let looks_for_calls = self.looks_for_calls();
        let is_mark = token == inner.parts.mark;
        let bytes = inner.bytes(token);
        match &mut self.phase {
            Phase::Grammar => self.grammar().ok_or(GuideError::Stuck)?.observe(token)?,
            Phase::Ended => {}
            Phase::Reasoning { .. } if token == inner.parts.reasoning_end => {
                self.phase = self.after_reasoning();
            }
            Phase::Reasoning { tail, .. }
                if is_mark && looks_for_calls && tail.opens_tag_after_blank_line() =>
            {
                self.phase = Phase::Grammar;
            }
            Phase::Reasoning { spelled, tail } => {
                *spelled = inner.in_reasoning.run(*spelled, bytes).0;
                tail.push(bytes);
                self.thinking_left = self.thinking_left.map(|left| left.saturating_sub(1));
            }
            Phase::Content { tail, .. } if is_mark && looks_for_calls && tail.opens_tag() => {
                self.phase = Phase::Grammar;
            }
            Phase::Content { spelled, tail } => {
                *spelled = inner.in_content.run(*spelled, bytes).0;
                tail.push(bytes);
            }
        }
        if token == inner.parts.end {
            self.phase = Phase::Ended;
        }
        Ok(())
    }
}

fn banned(inner: &Inner, spelling: &Spelling, spelled: Spelled) -> Vec<TokenId> {
    [&inner.never, spelling.completing(spelled)].concat()
}
