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
fn the_first_value_asked_for_stands_at_the_distance_in_tokens() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf/tokenizer.json");
    let tokenizer = cuvier_encoding::Tokenizer::from_file(&file).expect("the embedded model's tokenizer");
    for form in [Form::Single, Form::Several, Form::Chain] {
        for distance in [130, 1000, 20_000, 131_072] {
            let mut rng = Rng::new(distance as u64);
            let draft = Draft::draw(&mut rng, &options(form, distance));
            let text = draft.text(&mut rng, distance, Ruler::Tokenizer(&tokenizer));
            let after = text.strip_prefix(&draft.given[0]).expect("the first value comes first");
            let tokens = tokenizer.encode_text(after).len();
            // The last sentence of filler may reach over the distance.
            assert!((distance..distance + 60).contains(&tokens), "{form:?}: {tokens}, want {distance}");
        }
    }
}

#[test]
fn others_are_left_out_where_the_distance_has_no_room_for_them() {
    let mut rng = Rng::new(1);
    let draft = Draft::draw(&mut rng, &options(Form::Single, 0));
    assert_eq!(draft.text(&mut rng, 0, Ruler::Estimate), draft.given[0]);
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
