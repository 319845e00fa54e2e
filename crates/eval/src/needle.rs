//! Recall over a distance: values at several depths of a text that is made as long as asked for.

use cuvier_train::data::generators::recall::{Haystack, haystack};
use cuvier_train::data::{Body, Chat, Rng, Ruler, Sample, Split, Think};
use cuvier_types::TokenId;
use serde_json::json;

use crate::questions::asked;
use crate::{Asker, Cell, EvalError, Heard, Layout, Question, Report, Row, Share, Tell};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tokens of text, question and answer together.
    pub lengths: Vec<usize>,
    /// Where values stand, in hundredths of the text.
    pub depths: Vec<u8>,
    /// Texts of each length; each holds a value at every depth, and is asked for all of them one by one.
    pub samples: usize,
    /// What they follow from.
    pub seed: u64,
    /// How hard is thought.
    pub think: Think,
}

/// Tokens of a question and of an answer that is given at once, each with room to spare.
const QUESTION_TOKENS: usize = 48;
const ANSWER_TOKENS: usize = 48;
/// Tokens of the thoughts before it.
const THOUGHT_TOKENS: usize = 128;
/// Tokens of a sentence that gives a value, with room to spare.
const STATEMENT_TOKENS: usize = 40;

/// Asks for every value and counts the right answers by length and depth.
///
/// All questions about a text begin alike, so the engine computes the text once.
///
/// # Errors
/// If a length does not fit the model or has no room for the values, or the engine fails.
pub fn run(asker: &Asker<'_>, options: &Options, tell: Tell<'_>) -> Result<Report, EvalError> {
    for (option, is_empty) in [("lengths", options.lengths.is_empty()), ("depths", options.depths.is_empty())]
    {
        if is_empty {
            return Err(EvalError::Empty { option });
        }
    }
    let context_max = asker.engine.context_max();
    if let Some(&length) = options.lengths.iter().find(|&&length| length > context_max) {
        return Err(EvalError::TooLong { length, context_max });
    }
    let total = options.lengths.len() * options.samples;
    let mut rows = Vec::new();
    for (at, &length) in options.lengths.iter().enumerate() {
        let mut right = vec![Share::default(); options.depths.len()];
        let mut prompt_tokens = 0;
        for text in 0..options.samples {
            tell(at * options.samples + text, total);
            let samples = samples(asker, options, length, text)?;
            let questions = questions(asker, options.think, &samples)?;
            prompt_tokens = questions.iter().map(|q| q.prompt.len()).fold(prompt_tokens, usize::max);
            let heard = asker.ask(&questions, &mut |_, _| {})?;
            for ((right, sample), heard) in right.iter_mut().zip(&samples).zip(&heard) {
                right.add(Heard::is_wanted(heard, sample));
            }
        }
        rows.extend(options.depths.iter().zip(right).map(|(&depth, right)| {
            Row::new()
                .with("length", Cell::Count(length as u64))
                .named("depth", format!("{depth} %"))
                .with("right", Cell::Share(right))
                .with("prompt tokens", Cell::Count(prompt_tokens as u64))
        }));
    }
    tell(total, total);
    let mut asked = asked(options.samples, options.seed);
    asked.insert("lengths".to_owned(), json!(options.lengths));
    asked.insert("depths".to_owned(), json!(options.depths));
    asked.insert("think".to_owned(), json!(options.think));
    let layout = Layout::Grid { line: "length", column: "depth", shown: "right" };
    Ok(Report { name: "needle", asked, rows, layout })
}

/// Tokens of the answer.
fn answer_tokens(asker: &Asker<'_>, think: Think) -> usize {
    let thoughts = if think == Think::Off { 0 } else { THOUGHT_TOKENS };
    asker.max_tokens.unwrap_or(ANSWER_TOKENS + thoughts)
}

/// The samples of one text.
fn samples(
    asker: &Asker<'_>,
    options: &Options,
    length: usize,
    text: usize,
) -> Result<Vec<Sample>, EvalError> {
    let frame = Chat::ask(options.think, String::new(), String::new(), String::new());
    let frame_tokens = asker.encoder.question(&frame)?.len();
    let around = frame_tokens + QUESTION_TOKENS + answer_tokens(asker, options.think);
    let depths = options.depths.len();
    let too_short = || EvalError::TooShort { length, depths, least: around + depths * STATEMENT_TOKENS };
    let tokens = length.checked_sub(around).ok_or_else(too_short)?;
    let wanted = Haystack { tokens, depths: options.depths.clone(), think: options.think };
    let mut rng = Rng::of(options.seed, length as u64, text as u64);
    haystack(&mut rng, &wanted, Split::HeldOut, Ruler::Tokenizer(asker.encoder.tokenizer))
        .ok_or_else(too_short)
}

fn questions(asker: &Asker<'_>, think: Think, samples: &[Sample]) -> Result<Vec<Question>, EvalError> {
    let chats = samples.iter().filter_map(|sample| match &sample.body {
        Body::Chat(chat) => Some(chat),
        Body::Text(_) => None,
    });
    let mut questions: Vec<Question> = chats.map(|chat| asker.question(chat)).collect::<Result<_, _>>()?;
    let shared = shared_tokens(questions.iter().map(|question| &question.prompt[..]));
    for question in &mut questions {
        question.max_tokens = answer_tokens(asker, think);
        question.shared = Some(shared).filter(|&shared| shared > 0);
    }
    Ok(questions)
}

/// Tokens with which all of them begin.
fn shared_tokens<'a>(mut prompts: impl Iterator<Item = &'a [TokenId]>) -> usize {
    let Some(first) = prompts.next() else { return 0 };
    let common = |other: &[TokenId]| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    prompts.map(common).min().unwrap_or(first.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_share_the_tokens_before_the_first_that_differs_in_any() {
        let of = |ids: &[u32]| ids.iter().map(|&id| TokenId(id)).collect::<Vec<_>>();
        let prompts = [of(&[1, 2, 3, 4]), of(&[1, 2, 3, 5]), of(&[1, 2, 7])];
        assert_eq!(shared_tokens(prompts.iter().map(Vec::as_slice)), 2);
        assert_eq!(shared_tokens(prompts[..1].iter().map(Vec::as_slice)), 4);
        assert_eq!(shared_tokens(std::iter::empty()), 0);
    }
}
