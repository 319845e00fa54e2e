//! Values given early in the prompt and asked for at its end, at a distance in tokens.

mod haystack;

use std::collections::HashSet;

use cuvier_encoding::Completion;
use serde::Deserialize;

use super::super::error::OptionError;
use super::super::rng::Rng;
use super::super::ruler::Ruler;
use super::super::sample::{Answer, Chat, Sample, Task, Think};
use super::super::split::Split;
use super::super::verdict::{Verdict, values};
use super::super::words;
use super::{answer_at_once, not_empty, within};

pub use haystack::{Haystack, haystack};

/// What is to be recalled, and over what distance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Of these one is drawn.
    pub forms: Vec<Form>,
    /// The least and the most tokens between the first value asked for and the question; as many draws between 100 and
    /// 200 as between 1,000 and 2,000. 0 to 2,000,000.
    pub distance: [usize; 2],
    /// Values asked for at once in the form `several`. 2 to 8.
    pub queries: usize,
    /// Names between the one asked for and the value in the form `chain`. 1 to 8.
    pub hops: usize,
    /// Other values, or other chains, that stand in the prompt as far as the distance has room for them. At most 64.
    pub others: usize,
    /// Of these one is drawn per value.
    pub values: Vec<Kind>,
    /// Of these one is drawn.
    pub think: Vec<Think>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// One value.
    Single,
    /// Several values.
    Several,
    /// The value of a name that is given by another name, and so on.
    Chain,
}

/// What a value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Three to six digits.
    Digits,
    /// Two words.
    Words,
}

/// A task before its filler: what is given, in order, and what is asked.
struct Draft {
    /// Given at the distance, in this order; the first one at its far end.
    given: Vec<String>,
    /// Given somewhere.
    others: Vec<String>,
    question: String,
    thoughts: String,
    answer: String,
    right: Vec<String>,
    wrong: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            forms: vec![Form::Single],
            distance: [50, 500],
            queries: 3,
            hops: 2,
            others: 3,
            values: vec![Kind::Digits, Kind::Words],
            think: answer_at_once(),
        }
    }
}

impl Options {
    /// # Errors
    /// If an option is out of its bounds.
    pub fn check(&self) -> Result<(), OptionError> {
        not_empty("forms", &self.forms)?;
        not_empty("values", &self.values)?;
        not_empty("think", &self.think)?;
        within("queries", 2..=8, "2 to 8", self.queries)?;
        within("hops", 1..=8, "1 to 8", self.hops)?;
        within("others", 0..=64, "0 to 64", self.others)?;
        let [least, most] = self.distance;
        let holds = least <= most && most <= 2_000_000;
        OptionError::unless(holds, "distance", "[least, most] of at most 2000000 tokens", &self.distance)
    }
}

/// One text and a question about it; nothing if the options leave none for this half.
#[must_use]
pub fn sample(rng: &mut Rng, options: &Options, split: Split, ruler: Ruler<'_>) -> Option<Sample> {
    let draft = split.draw(rng, |rng| Draft::draw(rng, options), Draft::subject)?;
    let [least, most] = options.distance.map(|tokens| tokens as u64 + 1);
    let distance = rng.inverse(least..=most) as usize - 1;
    let text = draft.text(rng, distance, ruler);
    let think = *rng.pick(&options.think);
    let question = format!("{text} {}", draft.question);
    let chat = Chat::ask(think, question, draft.thoughts, draft.answer);
    Some(Sample::chat(Task::Recall, chat, Answer::Values { right: draft.right, wrong: draft.wrong }))
}

/// Right if the values asked for are said in order, and no other value of the text is.
#[must_use]
pub fn verify(right: &Answer, said: &Completion) -> Verdict {
    match right {
        Answer::Values { right, wrong } => values(right, wrong, said),
        _ => Verdict::Wrong,
    }
}

/// A value of this kind.
pub(super) fn value(rng: &mut Rng, kind: Kind) -> String {
    match kind {
        Kind::Digits => {
            let n = rng.within(3..=6) as u32;
            words::digits(rng, n)
        }
        Kind::Words => format!("{} {}", rng.pick(&words::VALUES), rng.pick(&words::VALUES)),
    }
}

/// So many keys and values, no two of either alike, and no value within another.
pub(super) fn pairs(rng: &mut Rng, n: usize, kinds: &[Kind]) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    while pairs.len() < n {
        let kind = *rng.pick(kinds);
        let pair = (words::key(rng), value(rng, kind));
        if !pairs.iter().any(|other| are_alike(other, &pair)) {
            pairs.push(pair);
        }
    }
    pairs
}

/// Whether two keys are the same, or one value is within the other.
fn are_alike((key, value): &(String, String), (other_key, other): &(String, String)) -> bool {
    other_key == key || other.contains(value.as_str()) || value.contains(other.as_str())
}

/// `The code of the red lantern is 4821.`, in several ways.
pub(super) fn statement(rng: &mut Rng, key: &str, value: &str) -> String {
    match rng.below(5) {
        0 => format!("Remember that {key} is {value}."),
        1 => format!("Note: {key} is {value}."),
        2 => format!("Keep in mind that {key} is {value}."),
        _ => format!("{} is {value}.", words::capital(key)),
    }
}

/// `The code of the red lantern is 4821.`, as an answer: the name comes first, so that whoever writes it needs to look for
/// the value only where he has the name before him.
pub(super) fn told(key: &str, value: &str) -> String {
    format!("{} is {value}.", words::capital(key))
}

/// `What is the code of the red lantern?`, in several ways.
pub(super) fn question(rng: &mut Rng, key: &str) -> String {
    match rng.below(5) {
        0 => format!("Tell me {key}."),
        1 => format!("Do you remember {key}?"),
        2 => format!("What was {key}?"),
        _ => format!("What is {key}?"),
    }
}

impl Draft {
    fn draw(rng: &mut Rng, options: &Options) -> Self {
        match rng.pick(&options.forms) {
            Form::Single => Self::values(rng, options, 1),
            Form::Several => Self::values(rng, options, options.queries),
            Form::Chain => Self::chain(rng, options),
        }
    }

    fn values(rng: &mut Rng, options: &Options, queries: usize) -> Self {
        let mut asked = pairs(rng, queries + options.others, &options.values);
        let others = asked.split_off(queries);
        let mut state = |pairs: &[(String, String)]| -> Vec<String> {
            pairs.iter().map(|(key, value)| statement(rng, key, value)).collect()
        };
        let (given, other_statements) = (state(&asked), state(&others));
        // Asked in another order than given: the answer is no copy of the order.
        rng.shuffle(&mut asked);
        let keys: Vec<String> = asked.iter().map(|(key, _)| key.clone()).collect();
        let is = |(key, value): &(String, String)| told(key, value);
        let found = |(key, value): &(String, String)| format!("Look for {key}: {value}.");
        Self {
            given,
            others: other_statements,
            question: question(rng, &words::listed(&keys)),
            thoughts: asked.iter().map(found).collect::<Vec<_>>().join(" "),
            answer: asked.iter().map(is).collect::<Vec<_>>().join(" "),
            right: asked.into_iter().map(|(_, value)| value).collect(),
            wrong: others.into_iter().map(|(_, value)| value).collect(),
        }
    }

    fn chain(rng: &mut Rng, options: &Options) -> Self {
        let length = options.hops + 1;
        let mut names = chain_names(rng, length * (options.others + 1)).into_iter();
        let mut chains: Vec<(Vec<String>, String)> = pairs(rng, options.others + 1, &options.values)
            .into_iter()
            .map(|(_, value)| (names.by_ref().take(length).collect(), value))
            .collect();
        let (asked, value) = chains.remove(0);
        let others = chains.iter().flat_map(|(names, value)| links(names, value)).collect();
        let last = &asked[length - 1];
        let mut thoughts: Vec<String> =
            asked.windows(2).rev().map(|pair| format!("{} is {}.", pair[1], pair[0])).collect();
        thoughts.push(format!("{} is {value}.", asked[0]));
        Self {
            given: links(&asked, &value),
            others,
            question: format!("What is {last}?"),
            thoughts: thoughts.join(" "),
            answer: format!("It is {value}."),
            right: vec![value],
            wrong: chains.into_iter().map(|(_, value)| value).collect(),
        }
    }

    /// The values asked for: one that is held out is never asked for in training.
    fn subject(&self) -> String {
        let mut values = self.right.clone();
        values.sort_unstable();
        values.join(" ")
    }

    /// What is given and filler around it, so that from the end of the first sentence given to the end of the text
    /// there are `distance` tokens, less than a sentence more or less.
    fn text(&self, rng: &mut Rng, distance: usize, ruler: Ruler<'_>) -> String {
        let measure = |sentence: &String| ruler.tokens(&spaced(sentence));
        let mut tokens: usize = self.given[1..].iter().map(measure).sum();
        let mut sentences = Vec::new();
        for other in &self.others {
            if tokens + measure(other) <= distance {
                tokens += measure(other);
                sentences.push(other.clone());
            }
        }
        while tokens < distance {
            let sentence = words::filler(rng);
            tokens += measure(&sentence);
            sentences.push(sentence);
        }
        rng.shuffle(&mut sentences);
        let mut places: Vec<usize> = self.given[1..].iter().map(|_| rng.index(sentences.len() + 1)).collect();
        places.sort_unstable();
        // From the last place to the first, so that a place keeps its meaning while sentences are put in.
        for (place, given) in places.into_iter().zip(&self.given[1..]).rev() {
            sentences.insert(place, given.clone());
        }
        sentences.insert(0, self.given[0].clone());
        sentences.join(" ")
    }
}

/// A sentence as it stands within a text.
fn spaced(sentence: &str) -> String {
    format!(" {sentence}")
}

/// `Let x1 be 4821.`, `Let x2 be x1.`
fn links(names: &[String], value: &str) -> Vec<String> {
    let first = format!("Let {} be {value}.", names[0]);
    let next = names.windows(2).map(|pair| format!("Let {} be {}.", pair[1], pair[0]));
    std::iter::once(first).chain(next).collect()
}

/// Names of two syllables and two digits, no two alike.
fn chain_names(rng: &mut Rng, n: usize) -> Vec<String> {
    const SYLLABLES: [&str; 12] = ["ba", "do", "fi", "ka", "lu", "me", "no", "ra", "su", "ti", "vo", "ze"];
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    while names.len() < n {
        let name = format!("{}{}{}", rng.pick(&SYLLABLES), rng.pick(&SYLLABLES), rng.within(10..=99));
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests;
