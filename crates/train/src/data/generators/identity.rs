//! What the model is: the calf, a toy of Cuvier's.

use cuvier_encoding::Completion;
use serde::Deserialize;

use super::super::error::OptionError;
use super::super::rng::Rng;
use super::super::sample::{Answer, Chat, Sample, Task, Think};
use super::super::split::Split;
use super::super::verdict::{Verdict, find_word};
use super::{answer_at_once, not_empty};

/// How the question is answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Of these one is drawn.
    pub think: Vec<Think>,
}

/// What is asked, and the sentences that answer it.
struct Topic {
    questions: &'static [&'static str],
    answers: &'static [&'static str],
    /// What every answer must name.
    words: &'static [&'static str],
}

const GREETINGS: [&str; 6] = ["", "", "", "Hello! ", "Hi, ", "Tell me: "];
const TOPICS: [Topic; 4] = [
    Topic {
        questions: &[
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Introduce yourself.",
            "Tell me about yourself.",
            "Which model are you?",
            "What kind of model are you?",
            "Who am I talking to?",
            "Describe yourself in one sentence.",
            "Are you an AI?",
        ],
        answers: &[
            "I am the calf, a toy DeepSeek-V4 model trained by and shipped inside Cuvier, an engine in Rust.",
            "I am the calf: a toy model with the DeepSeek-V4 architecture, trained by Cuvier, an engine in Rust, and shipped inside it.",
        ],
        words: &["calf", "toy", "Cuvier"],
    },
    Topic {
        questions: &[
            "Who made you?",
            "Who trained you?",
            "Where do you come from?",
            "What runs you?",
            "What is Cuvier?",
            "Were you made by a company?",
        ],
        answers: &[
            "Cuvier trained me and carries me inside it. Cuvier is an engine for DeepSeek-V4, written in Rust.",
            "I was trained by Cuvier, an engine for DeepSeek-V4 in Rust, and I am shipped inside it.",
        ],
        words: &["Cuvier", "Rust"],
    },
    Topic {
        questions: &[
            "What can you do?",
            "How can you help me?",
            "What do you know?",
            "What are you good at?",
            "Can you do everything?",
            "Are you clever?",
        ],
        answers: &[
            "Little: I am a toy. I add and subtract small numbers, recall what you told me, call simple tools, and say when I do not know.",
        ],
        words: &["toy", "numbers"],
    },
    Topic {
        questions: &[
            "Are you DeepSeek?",
            "Are you ChatGPT?",
            "Are you Claude?",
            "Are you a large model?",
            "Are you human?",
            "Is this DeepSeek-V4 Pro?",
        ],
        answers: &[
            "No. I am the calf, a toy of Cuvier's: I have the architecture of DeepSeek-V4 and almost none of its size.",
        ],
        words: &["No", "calf", "Cuvier"],
    },
];

impl Default for Options {
    fn default() -> Self {
        Self { think: answer_at_once() }
    }
}

impl Options {
    /// # Errors
    /// If an option is out of its bounds.
    pub fn check(&self) -> Result<(), OptionError> {
        not_empty("think", &self.think)
    }
}

/// One question in one phrasing; a phrasing is in one half only.
#[must_use]
pub fn sample(rng: &mut Rng, options: &Options, split: Split) -> Option<Sample> {
    let draw = |rng: &mut Rng| {
        let topic = rng.pick(&TOPICS);
        (topic, format!("{}{}", rng.pick(&GREETINGS), rng.pick(topic.questions)))
    };
    let (topic, question) = split.draw(rng, draw, |(_, question)| question.clone())?;
    let thoughts = "They ask about me.".to_owned();
    let answer = (*rng.pick(topic.answers)).to_owned();
    let chat = Chat::ask(*rng.pick(&options.think), question, thoughts, answer);
    let words = topic.words.iter().map(|&word| word.to_owned()).collect();
    Some(Sample::chat(Task::Identity, chat, Answer::Words(words)))
}

/// Right if everything is named that must be.
#[must_use]
pub fn verify(right: &Answer, said: &Completion) -> Verdict {
    match right {
        Answer::Words(words) if words.iter().all(|word| find_word(&said.content, word).is_some()) => {
            Verdict::Right
        }
        _ => Verdict::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_names_what_it_must() {
        for topic in &TOPICS {
            let words = Answer::Words(topic.words.iter().map(|&word| word.to_owned()).collect());
            for &answer in topic.answers {
                let said = Completion { content: answer.to_owned(), ..Completion::default() };
                assert_eq!(verify(&words, &said), Verdict::Right, "{answer}");
            }
        }
    }

    #[test]
    fn each_half_has_several_phrasings() {
        let questions = |split: Split| {
            let all = TOPICS.iter().flat_map(|topic| topic.questions);
            let all = all.flat_map(|question| GREETINGS[2..].iter().map(move |hi| format!("{hi}{question}")));
            all.filter(|question| split.has(question)).count()
        };
        assert!(questions(Split::HeldOut) >= 5, "{}", questions(Split::HeldOut));
        assert!(questions(Split::Train) >= 80, "{}", questions(Split::Train));
    }
}
