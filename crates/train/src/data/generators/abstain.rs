//! Questions that nothing in the prompt answers, and beside them the same questions with the answer given.

use cuvier_encoding::Completion;
use serde::Deserialize;

use super::super::error::OptionError;
use super::super::rng::Rng;
use super::super::sample::{Answer, Chat, Sample, Task, Think};
use super::super::split::Split;
use super::super::verdict::{Verdict, find_word, values};
use super::super::words;
use super::recall::{Kind, pairs, question, statement, told};
use super::{answer_at_once, not_empty, within};

/// What is asked, and how often it can be answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Of these one is drawn.
    pub forms: Vec<Form>,
    /// In how many of a hundred samples of the form `value` the value is given. 0 to 100.
    pub known_percent: usize,
    /// The most other values that the text gives. 1 to 32.
    pub others: usize,
    /// The most sentences that give nothing. At most 1,000.
    pub filler: usize,
    /// Of these one is drawn.
    pub think: Vec<Think>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A value that the text gives or does not give, among others.
    Value,
    /// Something about the world, of which a toy knows nothing.
    World,
}

const DO_NOT_KNOW: &str = "I do not know.";
const WORLD: [&str; 16] = [
    "What is the capital of {place}?",
    "How many people live in {place}?",
    "Who is the mayor of {place}?",
    "What is the weather in {place}?",
    "How far is it to {place}?",
    "What is the history of the {noun}?",
    "Who invented the {noun}?",
    "How much does a {adjective} {noun} cost?",
    "How does a {noun} work?",
    "Why is the {noun} {adjective}?",
    "When did {name} arrive in {place}?",
    "How old is {name}?",
    "Where does {name} live?",
    "Why did {name} sell the {adjective} {noun}?",
    "What does {name} think of {place}?",
    "Write a poem about a {adjective} {noun}.",
];

impl Default for Options {
    fn default() -> Self {
        Self {
            forms: vec![Form::Value, Form::World],
            known_percent: 50,
            others: 4,
            filler: 4,
            think: answer_at_once(),
        }
    }
}

impl Options {
    /// # Errors
    /// If an option is out of its bounds.
    pub fn check(&self) -> Result<(), OptionError> {
        not_empty("forms", &self.forms)?;
        not_empty("think", &self.think)?;
        within("known_percent", 0..=100, "0 to 100", self.known_percent)?;
        within("others", 1..=32, "1 to 32", self.others)?;
        within("filler", 0..=1000, "0 to 1000", self.filler)
    }
}

/// One question; nothing if the options leave none for this half.
#[must_use]
pub fn sample(rng: &mut Rng, options: &Options, split: Split) -> Option<Sample> {
    let think = *rng.pick(&options.think);
    match rng.pick(&options.forms) {
        Form::Value => value_sample(rng, options, split, think),
        Form::World => {
            let question = split.draw(rng, world_question, String::clone)?;
            let thoughts = "Nothing here says it, and I know little of the world.".to_owned();
            let chat = Chat::ask(think, question, thoughts, DO_NOT_KNOW.to_owned());
            Some(Sample::chat(Task::Abstain, chat, Answer::Unknown { wrong: Vec::new() }))
        }
    }
}

/// Three answers can be told apart: right, wrong, and that one does not know.
#[must_use]
pub fn verify(right: &Answer, said: &Completion) -> Verdict {
    match right {
        Answer::Values { right, wrong } => values(right, wrong, said),
        Answer::Unknown { wrong } => {
            let guesses = wrong.iter().any(|value| find_word(&said.content, value).is_some());
            if admits_ignorance(&said.content) && !guesses { Verdict::Abstains } else { Verdict::Wrong }
        }
        _ => Verdict::Wrong,
    }
}

/// Whether the text says that something is not known.
pub(in super::super) fn admits_ignorance(text: &str) -> bool {
    const WAYS: [&str; 8] = [
        "not know",
        "n't know",
        "n’t know",
        "cannot know",
        "not said",
        "not given",
        "cannot tell",
        "cannot say",
    ];
    let text = text.to_lowercase();
    WAYS.iter().any(|way| text.contains(way))
}

fn value_sample(rng: &mut Rng, options: &Options, split: Split, think: Think) -> Option<Sample> {
    let n = rng.within(1..=options.others as u64) as usize + 1;
    let draw = |rng: &mut Rng| pairs(rng, n, &[Kind::Digits, Kind::Words]);
    let mut given = split.draw(rng, draw, |pairs| pairs[0].0.clone())?;
    let (key, value) = given[0].clone();
    let is_known = rng.percent(options.known_percent as u64);
    if !is_known {
        given.remove(0);
        // The hard case: a value of the same thing, but not this one.
        if rng.percent(50)
            && let Some(near) = near(rng, &key, &given)
        {
            given[0].0 = near;
        }
    }
    let mut sentences: Vec<String> = given.iter().map(|(key, value)| statement(rng, key, value)).collect();
    let n_filler = rng.within(0..=options.filler as u64);
    sentences.extend((0..n_filler).map(|_| words::filler(rng)));
    rng.shuffle(&mut sentences);
    let question = format!("{} {}", sentences.join(" "), question(rng, &key));
    let wrong = given.into_iter().map(|(_, value)| value).filter(|other| *other != value).collect();
    let (thoughts, said, answer) = if is_known {
        let answer = Answer::Values { right: vec![value.clone()], wrong };
        (format!("Look for {key}: {value}."), told(&key, &value), answer)
    } else {
        (format!("Look for {key}: not given."), told(&key, "not given"), Answer::Unknown { wrong })
    };
    Some(Sample::chat(Task::Abstain, Chat::ask(think, question, thoughts, said), answer))
}

/// The key with its last word of another key's, if that makes a key that is not given.
fn near(rng: &mut Rng, key: &str, given: &[(String, String)]) -> Option<String> {
    let (stem, last) = key.rsplit_once(' ')?;
    let other =
        if words::NOUNS.contains(&last) { rng.word(&words::NOUNS) } else { rng.word(&words::ATTRIBUTES) };
    let near = format!("{stem} {other}");
    (near != key && given.iter().all(|(other, _)| *other != near)).then_some(near)
}

fn world_question(rng: &mut Rng) -> String {
    rng.pick(&WORLD)
        .replace("{place}", rng.word(&words::PLACES))
        .replace("{noun}", rng.word(&words::NOUNS))
        .replace("{adjective}", rng.word(&words::ADJECTIVES))
        .replace("{name}", rng.word(&words::NAMES))
}

#[cfg(test)]
mod tests {
    use super::super::super::sample::Body;
    use super::*;

    fn said(content: &str) -> Completion {
        Completion { content: content.to_owned(), ..Completion::default() }
    }

    #[test]
    fn the_value_is_in_the_text_exactly_when_it_is_known() {
        let options = Options { forms: vec![Form::Value], think: vec![Think::Low], ..Options::default() };
        let mut rng = Rng::new(2);
        let mut n_known = 0;
        for _ in 0..300 {
            let sample = sample(&mut rng, &options, Split::Train).expect("a sample");
            let Body::Chat(chat) = &sample.body else { panic!("a conversation") };
            let text = chat.conversation.messages[0].content.text();
            match &sample.answer {
                Some(Answer::Values { right, .. }) => {
                    n_known += 1;
                    assert!(find_word(&text, &right[0]).is_some(), "{text}");
                }
                Some(Answer::Unknown { wrong }) => {
                    assert!(!wrong.is_empty());
                    let thoughts = chat.conversation.messages[1].reasoning_content.as_deref();
                    let key = thoughts
                        .and_then(|text| text.strip_prefix("Look for ")?.strip_suffix(": not given."));
                    let key = key.expect("the thoughts name the key");
                    assert!(!text.to_lowercase().contains(&format!("{} is ", key.to_lowercase())), "{text}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!((100..200).contains(&n_known), "{n_known}");
    }

    #[test]
    fn three_answers_are_told_apart() {
        let known = Answer::Values { right: vec!["4821".into()], wrong: vec!["77".into()] };
        assert_eq!(verify(&known, &said("It is 4821.")), Verdict::Right);
        assert_eq!(verify(&known, &said("It is 77.")), Verdict::Wrong);
        assert_eq!(verify(&known, &said("I don't know.")), Verdict::Abstains);
        let unknown = Answer::Unknown { wrong: vec!["77".into()] };
        assert_eq!(verify(&unknown, &said("I do not know. I am a toy.")), Verdict::Abstains);
        assert_eq!(verify(&unknown, &said("It is 77.")), Verdict::Wrong);
        assert_eq!(verify(&unknown, &said("It is 12.")), Verdict::Wrong);
        assert_eq!(verify(&unknown, &said("I do not know, perhaps 77.")), Verdict::Wrong);
    }
}
