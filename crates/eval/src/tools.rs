//! Calls of tools that nothing constrains: are they calls at all, and are they the right ones.

use cuvier_encoding::{Completion, parse_completion};
use cuvier_train::data::generators::tools::{self, Form};
use cuvier_train::data::{Body, Chat, Sample, Split, Think};
use cuvier_types::FinishReason;
use serde_json::{Value, json};

use crate::questions::{asked, distinct};
use crate::schema::is_call_of;
use crate::{Asker, Cell, EvalError, Heard, Layout, Report, Row, Share, Tell};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Samples of each form, at most.
    pub samples: usize,
    /// What they follow from.
    pub seed: u64,
    /// How hard is thought.
    pub think: Think,
}

const FORMS: [(&str, Form); 3] = [("call", Form::Call), ("result", Form::Result), ("no tool", Form::None)];

/// Asks them and counts what is well formed and what is right.
///
/// # Errors
/// If the model cannot be asked, or the engine fails.
pub fn run(asker: &Asker<'_>, options: &Options, tell: Tell<'_>) -> Result<Report, EvalError> {
    let forms: Vec<Vec<Sample>> =
        (0..).zip(FORMS).map(|(list, (_, form))| samples(options, list, form)).collect();
    let heard = asker.ask_samples(&forms.concat(), tell)?;
    let mut rest = &heard[..];
    let rows = FORMS.iter().zip(&forms).map(|((name, _), samples)| {
        let (own, others) = rest.split_at(samples.len());
        rest = others;
        row(name, samples, own)
    });
    let rows = rows.collect();
    let mut asked = asked(options.samples, options.seed);
    asked.insert("think".to_owned(), json!(options.think));
    Ok(Report { name: "tools", asked, rows, layout: Layout::Lines })
}

fn samples(options: &Options, list: u64, form: Form) -> Vec<Sample> {
    let drawn = tools::Options { forms: vec![form], think: vec![options.think], ..tools::Options::default() };
    distinct(options.samples, options.seed, list, |rng| tools::sample(rng, &drawn, Split::HeldOut))
}

/// Of the answers that hold or try a call, the well-formed ones are counted; of a model that calls nothing where
/// nothing is to be called there are none.
fn row(name: &str, samples: &[Sample], heard: &[Heard]) -> Row {
    let (mut called, mut well_formed, mut right) = (Share::default(), Share::default(), Share::default());
    for (sample, heard) in samples.iter().zip(heard) {
        let Body::Chat(chat) = &sample.body else { continue };
        let attempt = Attempt::of(chat, heard);
        called.add(attempt != Attempt::None);
        if attempt != Attempt::None {
            well_formed.add(attempt == Attempt::WellFormed);
        }
        right.add(heard.is_wanted(sample));
    }
    Row::new()
        .named("wanted", name)
        .with("called", Cell::Share(called))
        .with("well formed", Cell::Share(well_formed))
        .with("right", Cell::Share(right))
        .with("cut", Cell::Count(heard.iter().filter(|heard| heard.is_cut).count() as u64))
}

/// What an answer does about calling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// It calls nothing.
    None,
    /// It begins to call, but not so that the call could be made.
    Broken,
    /// Every call is one of an offered tool with valid arguments.
    WellFormed,
}

/// What only a call begins with.
const CALL_MARK: &str = "｜DSML｜";

impl Attempt {
    fn of(chat: &Chat, heard: &Heard) -> Self {
        let reason = if heard.is_cut { FinishReason::Length } else { FinishReason::Stop };
        let said: Completion = parse_completion(&heard.text, chat.parser_options(), reason);
        let is_valid = |call: &cuvier_encoding::ParsedCall| {
            let arguments: Option<Value> = serde_json::from_str(&call.arguments).ok();
            arguments.is_some_and(|arguments| is_call_of(chat.tools(), &call.name, &arguments))
        };
        match said.tool_calls.as_slice() {
            [] if !heard.text.contains(CALL_MARK) => Self::None,
            [] => Self::Broken,
            calls if !heard.is_cut && calls.iter().all(is_valid) => Self::WellFormed,
            _ => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use cuvier_encoding::{Generation, PromptOptions, encode_conversation};

    use super::*;

    fn sample(form: Form) -> Sample {
        samples(&Options { samples: 1, seed: 2, think: Think::Off }, 0, form).swap_remove(0)
    }

    /// The sample's own answer, as the format writes it.
    fn own_answer(sample: &Sample) -> String {
        let Body::Chat(chat) = &sample.body else { panic!("a conversation") };
        let options = PromptOptions { generation: Generation::Revised0731, thinking: chat.think.into() };
        let text = |conversation| encode_conversation(conversation, options).expect("a prompt").text();
        let (whole, question) = (text(&chat.conversation), text(&chat.question()));
        let answer = whole.strip_prefix(question.as_str()).expect("the question comes first");
        answer.trim_end_matches("<｜end▁of▁sentence｜>").to_owned()
    }

    fn judged(form: Form, change: impl Fn(String) -> String) -> Row {
        let sample = sample(form);
        let heard = Heard { text: change(own_answer(&sample)), tokens: 9, is_cut: false };
        row("call", &[sample], &[heard])
    }

    fn count(row: &Row, name: &str) -> (u64, u64) {
        let Some(Cell::Share(share)) = row.get(name) else { panic!("{name} is a share") };
        (share.count, share.of)
    }

    #[test]
    fn a_right_call_is_well_formed_and_a_call_of_another_tool_is_neither() {
        let own = judged(Form::Call, |text| text);
        assert_eq!((count(&own, "well formed"), count(&own, "right")), ((1, 1), (1, 1)));
        let other = judged(Form::Call, |text| text.replace("name=\"", "name=\"other_"));
        assert_eq!((count(&other, "well formed"), count(&other, "right")), ((0, 1), (0, 1)));
    }

    #[test]
    fn a_call_that_breaks_off_counts_as_a_try() {
        let half = judged(Form::Call, |text| {
            text[..text.find(CALL_MARK).expect("a call") + CALL_MARK.len()].to_owned()
        });
        assert_eq!((count(&half, "called"), count(&half, "well formed")), ((1, 1), (0, 1)));
    }

    #[test]
    fn to_call_nothing_is_right_where_no_tool_fits() {
        let none = judged(Form::None, |text| text);
        assert_eq!((count(&none, "called"), count(&none, "well formed")), ((0, 1), (0, 0)));
        assert_eq!(count(&none, "right"), (1, 1));
    }
}
