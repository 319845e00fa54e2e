use super::super::super::sample::Body;
use super::*;

fn question_of(sample: &Sample) -> String {
    let Body::Chat(chat) = &sample.body else { panic!("a conversation") };
    chat.conversation.messages[0].content.text().into_owned()
}

fn values_of(sample: &Sample) -> (&[String], &[String]) {
    match &sample.answer {
        Some(Answer::Values { right, wrong }) => (right, wrong),
        other => panic!("{other:?}"),
    }
}

fn options(form: Form, distance: usize) -> Options {
    Options { forms: vec![form], distance: [distance, distance], ..Options::default() }
}

#[test]
fn the_first_value_asked_for_stands_at_the_distance() {
    for form in [Form::Single, Form::Several, Form::Chain] {
        for distance in [120, 1000, 20_000, 131_072] {
            let mut rng = Rng::new(distance as u64);
            let sample =
                sample(&mut rng, &options(form, distance), Split::Train, Ruler::Estimate).expect("a sample");
            let text = question_of(&sample);
            let far_end = text.find(". ").expect("the first sentence") + 2;
            let question = text.trim_end_matches('?').rfind(['.', '?']).map_or(0, |at| at + 2);
            let tokens = (question.max(far_end) - far_end).div_ceil(4);
            // A question in the form `Tell me ...` ends with a point itself, and an estimate rounds up each sentence.
            let slack = 40 + distance / 8;
            assert!(tokens.abs_diff(distance) < slack, "{form:?}: {tokens}, want {distance}");
        }
    }
}

#[test]
fn every_value_asked_for_is_in_the_text_and_so_are_the_links_of_a_chain() {
    let mut rng = Rng::new(5);
    for form in [Form::Single, Form::Several, Form::Chain] {
        let sample = sample(&mut rng, &options(form, 300), Split::Train, Ruler::Estimate).expect("a sample");
        let text = question_of(&sample);
        let (right, wrong) = values_of(&sample);
        assert_eq!(right.len(), if form == Form::Several { 3 } else { 1 });
        assert!(right.iter().all(|value| text.contains(value.as_str())), "{text}");
        assert_eq!(wrong.len(), 3);
        assert!(right.iter().all(|value| !wrong.contains(value)));
    }
    let chain =
        sample(&mut rng, &options(Form::Chain, 300), Split::Train, Ruler::Estimate).expect("a sample");
    assert_eq!(question_of(&chain).matches("Let ").count(), 3 * 4, "{}", question_of(&chain));
}

#[test]
fn a_value_is_asked_for_in_one_half_only() {
    let mut rng = Rng::new(11);
    let options = Options { values: vec![Kind::Words], ..options(Form::Single, 60) };
    for split in [Split::Train, Split::HeldOut] {
        for _ in 0..50 {
            let sample = sample(&mut rng, &options, split, Ruler::Estimate).expect("a sample");
            assert!(split.has(&values_of(&sample).0[0]));
        }
    }
}

#[test]
fn options_out_of_their_bounds_are_refused() {
    assert!(Options { distance: [10, 9], ..Options::default() }.check().is_err());
    assert!(Options { queries: 1, ..Options::default() }.check().is_err());
    assert!(Options { hops: 0, ..Options::default() }.check().is_err());
    assert_eq!(Options::default().check(), Ok(()));
}
