//! One long text with a value at each of several depths, and a question for each: recall over a distance, measured.

use super::super::super::rng::Rng;
use super::super::super::ruler::Ruler;
use super::super::super::sample::{Answer, Chat, Sample, Task, Think};
use super::super::super::split::Split;
use super::super::super::words;
use super::{Kind, are_alike, pairs, question, spaced, statement, told};

/// What the text is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Haystack {
    /// About so many tokens, to within a sentence.
    pub tokens: usize,
    /// Where values are given, in hundredths of the filler that stands before them; 0 to 100 each.
    pub depths: Vec<u8>,
    /// How hard is thought before the answer.
    pub think: Think,
}

/// How often a value may come out like another one of the text.
const DRAWS_MAX: usize = 1_000;

/// One sample per depth, in the order of the depths: all with the same text, each with the question for its own value.
/// Nothing if the text has no room for the values.
#[must_use]
pub fn haystack(rng: &mut Rng, options: &Haystack, split: Split, ruler: Ruler<'_>) -> Option<Vec<Sample>> {
    let given = values(rng, options.depths.len(), split)?;
    let statements: Vec<String> = given.iter().map(|(key, value)| statement(rng, key, value)).collect();
    let text = text(rng, options, &statements, ruler)?;
    let sample = |(key, value): &(String, String)| {
        let wrong =
            given.iter().filter(|(_, other)| other != value).map(|(_, other)| other.clone()).collect();
        let asked = format!("{text} {}", question(rng, key));
        let thoughts = format!("Look for {key}: {value}.");
        let chat = Chat::ask(options.think, asked, thoughts, told(key, value));
        Sample::chat(Task::Recall, chat, Answer::Values { right: vec![value.clone()], wrong })
    };
    Some(given.iter().map(sample).collect())
}

/// Keys and values, no two alike; every value is of this half.
fn values(rng: &mut Rng, n: usize, split: Split) -> Option<Vec<(String, String)>> {
    let mut given: Vec<(String, String)> = Vec::new();
    for _ in 0..DRAWS_MAX {
        if given.len() == n {
            break;
        }
        let draw = |rng: &mut Rng| pairs(rng, 1, &[Kind::Digits, Kind::Words]).swap_remove(0);
        let pair = split.draw(rng, draw, |(_, value)| value.clone())?;
        if !given.iter().any(|other| are_alike(other, &pair)) {
            given.push(pair);
        }
    }
    (given.len() == n).then_some(given)
}

/// The statements at their depths, and filler around them.
fn text(rng: &mut Rng, options: &Haystack, statements: &[String], ruler: Ruler<'_>) -> Option<String> {
    let measure = |sentence: &str| ruler.tokens(&spaced(sentence));
    let needed: usize = statements.iter().map(|sentence| measure(sentence)).sum();
    let n_filler = options.tokens.checked_sub(needed)?;
    let mut order: Vec<(u8, &String)> = options.depths.iter().copied().zip(statements).collect();
    order.sort_by_key(|&(depth, _)| depth);
    let mut rest = order.into_iter().peekable();
    let (mut sentences, mut tokens) = (Vec::new(), 0);
    loop {
        while let Some((_, due)) = rest.next_if(|&(depth, _)| tokens * 100 >= usize::from(depth) * n_filler) {
            sentences.push(due.clone());
        }
        if tokens >= n_filler {
            // A depth above 100 is the end as well.
            sentences.extend(rest.map(|(_, statement)| statement.clone()));
            return Some(sentences.join(" "));
        }
        let sentence = words::filler(rng);
        tokens += measure(&sentence);
        sentences.push(sentence);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::sample::Body;
    use super::super::super::super::verdict::{Verdict, find_word};
    use super::*;

    fn drawn(tokens: usize, depths: &[u8]) -> Option<Vec<Sample>> {
        let options = Haystack { tokens, depths: depths.to_vec(), think: Think::Off };
        haystack(&mut Rng::new(4), &options, Split::HeldOut, Ruler::Estimate)
    }

    fn question_of(sample: &Sample) -> String {
        let Body::Chat(chat) = &sample.body else { panic!("a conversation") };
        chat.conversation.messages[0].content.text().into_owned()
    }

    fn value_of(sample: &Sample) -> &str {
        let Some(Answer::Values { right, .. }) = &sample.answer else { panic!("values") };
        &right[0]
    }

    #[test]
    fn every_value_stands_at_its_depth_in_one_text_of_the_length_asked_for() {
        let depths = [50, 0, 100, 25];
        let samples = drawn(4_000, &depths).expect("room");
        let texts: Vec<String> = samples.iter().map(question_of).collect();
        for (sample, depth) in samples.iter().zip(depths) {
            let at = find_word(&texts[0], value_of(sample)).expect("every value is in the text");
            let got = 100.0 * at as f64 / texts[0].len() as f64;
            assert!((got - f64::from(depth)).abs() < 4.0, "{depth}: {got}");
            assert!(Split::HeldOut.has(value_of(sample)));
        }
        // The estimate rounds every sentence up, by less than a twentieth.
        let common = texts[0].bytes().zip(texts[1].bytes()).take_while(|(a, b)| a == b).count();
        assert!((3_800..4_050).contains(&(common / 4)), "{common}");
    }

    #[test]
    fn another_value_of_the_text_is_wrong() {
        let samples = drawn(500, &[0, 50]).expect("room");
        let said = |sample: &Sample| samples[0].verdict(&format!("It is {}.", value_of(sample)));
        assert_eq!(said(&samples[0]), Some(Verdict::Right));
        assert_eq!(said(&samples[1]), Some(Verdict::Wrong));
    }

    #[test]
    fn a_text_without_room_for_its_values_is_none() {
        assert!(drawn(20, &[0, 25, 50, 75, 100]).is_none());
    }
}
