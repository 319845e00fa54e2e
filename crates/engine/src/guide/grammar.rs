//! A text grammar, followed token by token.

use std::fmt;
use std::thread;

use cuvier_types::TokenId;
use llguidance::Matcher;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};

use super::nesting::Nesting;
use super::spelling::Spelled;
use super::{Allowed, Guide, GuideError, TokenSet, Vocabulary};

/// A compiled grammar at one place of a text. A clone is independent, and cheap beside compiling: keep one at the
/// beginning for requests that ask for the same.
pub struct Grammar {
    vocabulary: Vocabulary,
    matcher: Matcher,
    spelled: Spelled,
    nesting: Nesting,
}

/// What the texts of a grammar are, as far as bounding their depth needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// Anything; depth is not bounded.
    Text,
    /// JSON, up to the first tag.
    Json,
    /// A block of calls, from behind its first mark on.
    Calls,
}

/// Why a grammar cannot be used: the request is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// More text than anyone needs.
    #[error("the grammar has {len} bytes, at most {max}")]
    TooLong {
        /// Bytes of the grammar.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// It does not compile, or not within the limits.
    #[error("the grammar cannot be compiled: {0}")]
    Invalid(String),
}

/// Bytes of a grammar's text.
const TEXT_MAX: usize = 2 << 20;

/// Grammars nest by recursion; a hostile one must not reach the end of the stack.
const COMPILER_STACK: usize = 64 << 20;

impl Grammar {
    /// Compiles a grammar in llguidance's variant of Lark. Control tokens are written by id, as `<[128825]>`.
    ///
    /// Takes some milliseconds, and a second or two for the largest, so it is no work for the engine's thread.
    ///
    /// Source of the language: `docs/syntax.md` of llguidance.
    ///
    /// # Errors
    /// If the grammar is wrong, or too large.
    pub fn new(vocabulary: &Vocabulary, lark: &str, structure: Structure) -> Result<Self, GrammarError> {
        if lark.len() > TEXT_MAX {
            return Err(GrammarError::TooLong { len: lark.len(), max: TEXT_MAX });
        }
        let matcher = compile(vocabulary, lark)?;
        let nesting = Nesting::new(structure);
        Ok(Self { vocabulary: vocabulary.clone(), matcher, spelled: Spelled::default(), nesting })
    }

    /// Whether the text could end here.
    ///
    /// # Errors
    /// If the grammar cannot be followed.
    pub fn is_complete(&mut self) -> Result<bool, GuideError> {
        self.matcher.is_accepting().map_err(failed)
    }

    fn banned(&self) -> Vec<TokenId> {
        let inner = self.vocabulary.inner();
        let openers = inner.openers.iter().map(|&token| (token, inner.bytes(token)));
        let mut banned = self.nesting.too_deep(openers, inner.opens_max, inner.parts.json_header.as_bytes());
        banned.extend_from_slice(inner.in_grammar.completing(self.spelled));
        banned
    }
}

impl Guide for Grammar {
    /// Whatever goes on with a text of the grammar; the end token where the text is one; nothing but the end token
    /// when nothing can follow.
    fn allowed(&mut self) -> Result<Allowed, GuideError> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(Allowed::One(self.vocabulary.inner().parts.end));
        }
        let mask = self.matcher.compute_mask().map_err(failed)?;
        let mut set = TokenSet::from_words(mask.as_slice());
        self.banned().into_iter().for_each(|token| set.remove(token));
        if set.is_empty() { Err(GuideError::Stuck) } else { Ok(Allowed::Only(set)) }
    }

    fn allows(&mut self, token: TokenId) -> Result<bool, GuideError> {
        let inner = self.vocabulary.inner();
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(token == inner.parts.end);
        }
        if token.0 as usize >= inner.parts.tokens.len() {
            return Ok(false);
        }
        let is_next = self.matcher.validate_tokens(&[token.0]).map_err(failed)? == 1;
        Ok(is_next && !self.banned().contains(&token))
    }

    fn observe(&mut self, token: TokenId) -> Result<(), GuideError> {
        let inner = self.vocabulary.inner();
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return if token == inner.parts.end { Ok(()) } else { Err(GuideError::NotAllowed(token)) };
        }
        self.matcher.consume_token(token.0).map_err(failed)?;
        let bytes = inner.bytes(token);
        self.spelled = inner.in_grammar.run(self.spelled, bytes).0;
        if token == inner.parts.mark {
            self.nesting.mark();
        } else {
            self.nesting.push(bytes, inner.parts.json_header.as_bytes());
        }
        Ok(())
    }
}

impl Clone for Grammar {
    fn clone(&self) -> Self {
        Self {
            vocabulary: self.vocabulary.clone(),
            matcher: self.matcher.deep_clone(),
            spelled: self.spelled,
            nesting: self.nesting.clone(),
        }
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("stop", &self.matcher.stop_reason()).finish_non_exhaustive()
    }
}

fn compile(vocabulary: &Vocabulary, lark: &str) -> Result<Matcher, GrammarError> {
    let work = || {
        let grammar = TopLevelGrammar::from_grammar(GrammarWithLexer::from_lark(lark.to_owned()));
        let parser = vocabulary.inner().factory.create_parser(grammar);
        parser.map(|parser| Matcher::new(Ok(parser))).map_err(|error| error.to_string())
    };
    let result = thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(COMPILER_STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| error.to_string())?;
        thread.join().unwrap_or_else(|_| Err("the compiler panicked".to_owned()))
    });
    result.map_err(|message| GrammarError::Invalid(first_line(&message)))
}

/// The library adds the place and the grammar's text to its messages; what is wrong is in the first line.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().chars().take(400).collect()
}

fn failed(error: impl fmt::Display) -> GuideError {
    GuideError::Grammar(first_line(&error.to_string()))
}
