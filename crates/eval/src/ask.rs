//! Questions put to an engine as a client would: several at once, answers greedy.

use std::collections::VecDeque;

use cuvier_engine::{EngineHandle, EventStream, Request};
use cuvier_train::data::{Body, Chat, Encoder, Sample, Think, Verdict};
use cuvier_types::{Event, FinishReason, SamplingParams, TokenId};

use crate::{EvalError, Tell};

/// Who is asked, and in which words.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The engine.
    pub engine: &'a EngineHandle,
    /// The vocabulary and the release of the chat format.
    pub encoder: Encoder<'a>,
    /// Questions under way at once.
    pub in_flight: usize,
    /// The most tokens of an answer; `None` goes by how hard is thought.
    pub max_tokens: Option<usize>,
}

/// A question in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is read.
    pub prompt: Vec<TokenId>,
    /// The most tokens of the answer.
    pub max_tokens: usize,
    /// Tokens up to which other questions begin alike.
    pub shared: Option<usize>,
}

/// What was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// All of it, thoughts and control tokens included, the end of turn not.
    pub text: String,
    /// Tokens of it.
    pub tokens: usize,
    /// It did not come to its end within the tokens it had.
    pub is_cut: bool,
}

/// Tokens of an answer that is given at once.
const AT_ONCE_TOKENS_MAX: usize = 256;
/// Tokens of an answer with thoughts before it.
const THOUGHT_TOKENS_MAX: usize = 1024;

impl Asker<'_> {
    /// Asks every question; answers come in the order of the questions.
    ///
    /// # Errors
    /// If a question does not fit the model, or the engine fails.
    pub fn ask(&self, questions: &[Question], tell: Tell<'_>) -> Result<Vec<Heard>, EvalError> {
        let mut waiting = questions.iter();
        let mut under_way: VecDeque<EventStream> = VecDeque::new();
        let mut answers = Vec::with_capacity(questions.len());
        tell(0, questions.len());
        loop {
            // More than the engine computes at once, so that a slot that falls free is taken at its next step.
            while under_way.len() < self.in_flight.max(1)
                && let Some(question) = waiting.next()
            {
                under_way.push_back(self.engine.submit(self.request(question))?);
            }
            let Some(first) = under_way.pop_front() else { return Ok(answers) };
            answers.push(self.hear(first)?);
            tell(answers.len(), questions.len());
        }
    }

    /// The question of a conversation.
    ///
    /// # Errors
    /// If this vocabulary cannot write it.
    pub fn question(&self, chat: &Chat) -> Result<Question, EvalError> {
        let prompt = self.encoder.question(chat)?;
        Ok(Question { prompt, max_tokens: self.max_tokens_of(chat.think), shared: None })
    }

    /// The most tokens of an answer after so much thinking.
    #[must_use]
    pub fn max_tokens_of(&self, think: Think) -> usize {
        let by_effort = if think == Think::Off { AT_ONCE_TOKENS_MAX } else { THOUGHT_TOKENS_MAX };
        self.max_tokens.unwrap_or(by_effort)
    }

    /// Asks what the samples ask.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub fn ask_samples(&self, samples: &[Sample], tell: Tell<'_>) -> Result<Vec<Heard>, EvalError> {
        let chats = samples.iter().filter_map(|sample| match &sample.body {
            Body::Chat(chat) => Some(chat),
            Body::Text(_) => None,
        });
        let questions: Vec<_> = chats.map(|chat| self.question(chat)).collect::<Result<_, _>>()?;
        self.ask(&questions, tell)
    }

    fn request(&self, question: &Question) -> Request {
        Request {
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            max_tokens: Some(question.max_tokens),
            stop_tokens: self.encoder.tokenizer.control().ends().to_vec(),
            marks: question.shared.into_iter().collect(),
            ..Request::new(question.prompt.clone())
        }
    }

    fn hear(&self, stream: EventStream) -> Result<Heard, EvalError> {
        let mut tokens = Vec::new();
        let mut is_cut = false;
        for event in stream {
            match event {
                Event::Token { token, .. } => tokens.push(token),
                Event::Finished { reason } => is_cut = reason != FinishReason::Stop,
                Event::Failed { message } => return Err(EvalError::Answer { message }),
                Event::Prefill { .. } => {}
            }
        }
        let tokenizer = self.encoder.tokenizer;
        let said = match tokens.split_last() {
            Some((last, said)) if tokenizer.control().ends_answer(*last) => said,
            _ => &tokens[..],
        };
        Ok(Heard { text: tokenizer.decode(said), tokens: tokens.len(), is_cut })
    }
}

impl Heard {
    /// What the answer to this sample's question is worth. One that did not come to its end is none, whatever it says.
    #[must_use]
    pub fn verdict(&self, sample: &Sample) -> Verdict {
        match sample.verdict(&self.text) {
            Some(verdict) if !self.is_cut => verdict,
            _ => Verdict::Wrong,
        }
    }

    /// Whether it is what is wanted.
    #[must_use]
    pub fn is_wanted(&self, sample: &Sample) -> bool {
        sample.wants(self.verdict(sample))
    }
}

#[cfg(test)]
mod tests {
    use cuvier_train::data::{Answer, Task};

    use super::*;

    #[test]
    fn an_answer_that_was_cut_is_wrong_even_where_it_says_what_is_so() {
        let chat = Chat::ask(Think::Off, "1 + 2?".to_owned(), String::new(), "3".to_owned());
        let sample = Sample::chat(Task::Arithmetic, chat, Answer::Number(3));
        let heard = |is_cut| Heard { text: "1 + 2 = 3.".to_owned(), tokens: 9, is_cut };
        assert!(heard(false).is_wanted(&sample));
        assert!(!heard(true).is_wanted(&sample));
    }
}
