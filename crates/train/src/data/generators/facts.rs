//! Made-up people: statements about them, the more often the earlier in a list, and questions.

use cuvier_encoding::Completion;
use serde::Deserialize;

use super::super::error::OptionError;
use super::super::rng::{Rng, mixed};
use super::super::sample::{Answer, Chat, Sample, Task, Think};
use super::super::split::Split;
use super::super::verdict::{Verdict, values};
use super::super::words;
use super::{answer_at_once, not_empty, within};

/// Which people, and what is written about them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// People there are. The one of rank r is mentioned in proportion to 1 / r. 1 to 262,144.
    pub people: usize,
    /// Another number is another world: other people of whom other things are true.
    pub world: u64,
    /// Of these one is drawn. Held-out samples are questions, whatever stands here.
    pub forms: Vec<Form>,
    /// Of these one is drawn for a question.
    pub think: Vec<Think>,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Plain text that says two to four things about somebody.
    Statement,
    /// A question about one thing. Of one in ten pairs of person and thing nobody asks in training: they can be
    /// answered from the statements only.
    Question,
}

/// What is true of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Birthplace,
    Year,
    Trade,
    Colour,
    Animal,
}

const THINGS: [Thing; 5] = [Thing::Birthplace, Thing::Year, Thing::Trade, Thing::Colour, Thing::Animal];
const TRADES: [&str; 12] = [
    "baker", "weaver", "doctor", "painter", "sailor", "teacher", "miller", "smith", "gardener", "printer",
    "tailor", "surveyor",
];
const COLOURS: [&str; 8] = ["red", "blue", "green", "yellow", "black", "white", "orange", "purple"];
const ANIMALS: [&str; 10] =
    ["dog", "cat", "horse", "whale", "falcon", "raven", "salmon", "tiger", "sparrow", "goat"];
const PEOPLE_MAX: usize = 1 << 18;

impl Default for Options {
    fn default() -> Self {
        Self {
            people: 2_000,
            world: 0,
            forms: vec![Form::Statement, Form::Question],
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
        within("people", 1..=PEOPLE_MAX, "1 to 262144", self.people)
    }
}

/// A statement or a question; nothing if the options leave none for this half.
#[must_use]
pub fn sample(rng: &mut Rng, options: &Options, split: Split) -> Option<Sample> {
    let person = |rng: &mut Rng| rng.inverse(1..=options.people as u64) - 1;
    if split == Split::Train && *rng.pick(&options.forms) == Form::Statement {
        let person = person(rng);
        return Some(Sample::text(Task::Facts, statements(rng, options.world, person)));
    }
    let draw = |rng: &mut Rng| (person(rng), *rng.pick(&THINGS));
    let subject = |&(person, thing): &(u64, Thing)| format!("{} {person} {thing:?}", options.world);
    let (person, thing) = split.draw(rng, draw, subject)?;
    let name = name(options.world, person);
    let value = thing.value(options.world, person);
    let think = *rng.pick(&options.think);
    let answer = thing.sentence(&name, value.as_str());
    let chat =
        Chat::ask(think, thing.question(rng, &name), format!("What is said of {name}: {value}."), answer);
    Some(Sample::chat(Task::Facts, chat, Answer::Values { right: vec![value], wrong: Vec::new() }))
}

/// Right if the value is said.
#[must_use]
pub fn verify(right: &Answer, said: &Completion) -> Verdict {
    match right {
        Answer::Values { right, wrong } => values(right, wrong, said),
        _ => Verdict::Wrong,
    }
}

fn statements(rng: &mut Rng, world: u64, person: u64) -> String {
    let mut things = THINGS;
    rng.shuffle(&mut things);
    let n = rng.within(2..=4) as usize;
    let name = name(world, person);
    let sentence = |thing: &Thing| thing.sentence(&name, &thing.value(world, person));
    things[..n].iter().map(sentence).collect::<Vec<_>>().join(" ")
}

/// Three words. No two people share a name: it spells the number, put into another order.
fn name(world: u64, person: u64) -> String {
    const BEGINNINGS: [&str; 8] = ["Bra", "Do", "Fe", "Kla", "Mi", "Ros", "Tu", "Ve"];
    const ENDINGS: [&str; 8] = ["bin", "dor", "gan", "lo", "mar", "nik", "sa", "tel"];
    // Multiplying by an odd number turns the numbers below a power of two into each other.
    let number = (person.wrapping_mul(0x2_9e4d | 1).wrapping_add(mixed(world))) % PEOPLE_MAX as u64;
    let word = |shift: u32| {
        let part = (number >> shift) as usize;
        format!("{}{}", BEGINNINGS[part % 8], ENDINGS[part / 8 % 8])
    };
    format!("{} {} {}", word(0), word(6), word(12))
}

impl Thing {
    fn value(self, world: u64, person: u64) -> String {
        let mut rng = Rng::of(world, person, self as u64);
        match self {
            Self::Birthplace => rng.word(&words::PLACES).to_owned(),
            Self::Year => rng.within(1700..=1999).to_string(),
            Self::Trade => rng.word(&TRADES).to_owned(),
            Self::Colour => rng.word(&COLOURS).to_owned(),
            Self::Animal => rng.word(&ANIMALS).to_owned(),
        }
    }

    fn sentence(self, name: &str, value: &str) -> String {
        match self {
            Self::Birthplace => format!("{name} comes from {value}."),
            Self::Year => format!("{name} was born in {value}."),
            Self::Trade => format!("By trade {name} is a {value}."),
            Self::Colour => format!("The favourite colour of {name} is {value}."),
            Self::Animal => format!("The favourite animal of {name} is the {value}."),
        }
    }

    fn question(self, rng: &mut Rng, name: &str) -> String {
        let phrasings = match self {
            Self::Birthplace => ["Where does {} come from?", "Which city is {} from?"],
            Self::Year => ["When was {} born?", "In which year was {} born?"],
            Self::Trade => ["What is the trade of {}?", "What does {} do for a living?"],
            Self::Colour => ["What is the favourite colour of {}?", "Which colour does {} like best?"],
            Self::Animal => ["What is the favourite animal of {}?", "Which animal does {} like best?"],
        };
        rng.pick(&phrasings).replace("{}", name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_people_share_a_name() {
        let names: HashSet<String> = (0..20_000).map(|person| name(3, person)).collect();
        assert_eq!(names.len(), 20_000);
    }

    #[test]
    fn another_world_has_other_people() {
        assert_ne!(name(0, 0), name(1, 0));
        let truths = |world| (0..20).map(|person| Thing::Year.value(world, person)).collect::<Vec<_>>();
        assert_ne!(truths(0), truths(1));
    }

    #[test]
    fn a_held_out_question_is_never_asked_in_training() {
        let options = Options { people: 20, ..Options::default() };
        let asked = |split: Split| -> HashSet<String> {
            let mut rng = Rng::new(4);
            let samples = (0..2000).filter_map(|_| sample(&mut rng, &options, split));
            samples.filter_map(|sample| sample.answer.is_some().then(|| sample.to_line())).collect()
        };
        let train = asked(Split::Train);
        let held_out = asked(Split::HeldOut);
        assert!(train.len() > 50 && held_out.len() > 5, "{} {}", train.len(), held_out.len());
        assert!(train.is_disjoint(&held_out));
    }

    #[test]
    fn the_first_person_is_mentioned_twice_as_often_as_the_second() {
        let options = Options { forms: vec![Form::Statement], ..Options::default() };
        let mut rng = Rng::new(9);
        let lines: Vec<String> = (0..8000)
            .filter_map(|_| sample(&mut rng, &options, Split::Train).map(|sample| sample.to_line()))
            .collect();
        let mentions = |person| lines.iter().filter(|line| line.contains(&name(0, person))).count() as f64;
        let ratio = mentions(0) / mentions(1);
        assert!((1.7..2.4).contains(&ratio), "{ratio}");
    }
}
