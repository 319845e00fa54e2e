use std::collections::HashSet;

use super::*;

fn content(text: &str) -> Completion {
    Completion { content: text.to_owned(), ..Completion::default() }
}

fn pairs(split: Split, seed: u64) -> HashSet<String> {
    let options = Options { digits: vec![1, 2], ..Options::default() };
    let mut rng = Rng::new(seed);
    let draw = |_| split.draw(&mut rng, |rng| Problem::draw(rng, &options), Problem::subject);
    (0..3000).map_while(draw).map(|problem| problem.subject()).collect()
}

#[test]
fn no_pair_is_in_both_halves_whatever_the_seeds() {
    for (train, held_out) in [(1, 1), (1, 2), (7, 99)] {
        let (train, held_out) = (pairs(Split::Train, train), pairs(Split::HeldOut, held_out));
        assert!(train.len() > 1000 && held_out.len() > 200, "{} {}", train.len(), held_out.len());
        assert!(train.is_disjoint(&held_out));
    }
}

#[test]
fn some_one_digit_pairs_are_held_out() {
    let options = Options { digits: vec![1], ..Options::default() };
    assert!(sample(&mut Rng::new(1), &options, Split::HeldOut).is_some());
}

#[test]
fn the_last_number_of_an_answer_is_the_answer() {
    assert_eq!(last_number("27 + 58 = 85."), Some(85));
    assert_eq!(last_number("85"), Some(85));
    assert_eq!(last_number("It is -7."), Some(-7));
    assert_eq!(last_number("-7"), Some(-7));
    assert_eq!(last_number("9-7"), Some(7));
    assert_eq!(last_number("é5é"), Some(5));
    assert_eq!(last_number("none"), None);
    assert_eq!(last_number("99999999999999999999"), None);
}

#[test]
fn another_number_is_wrong() {
    assert_eq!(verify(&Answer::Number(85), &content("27 + 58 = 85.")), Verdict::Right);
    assert_eq!(verify(&Answer::Number(85), &content("27 + 58 = 86.")), Verdict::Wrong);
    assert_eq!(verify(&Answer::Number(85), &content("85, carry 1")), Verdict::Wrong);
    assert_eq!(verify(&Answer::Number(85), &content("")), Verdict::Wrong);
}

#[test]
fn digits_are_those_asked_for() {
    let options = Options { digits: vec![3], operations: vec![Operation::Sum], think: vec![Think::Off] };
    let mut rng = Rng::new(3);
    assert!((0..100).all(|_| {
        let Problem { a, b, .. } = Problem::draw(&mut rng, &options);
        (100..1000).contains(&a) && (100..1000).contains(&b)
    }));
    assert!(Options { digits: vec![0], ..options.clone() }.check().is_err());
    assert!(Options { think: vec![], ..options }.check().is_err());
}
