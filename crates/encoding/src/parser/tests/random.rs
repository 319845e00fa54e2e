//! Anything a model could write, cut anywhere.

use proptest::prelude::*;

use super::*;

/// Texts made of the parts of tags, so that every state of the parser is met in odd places.
fn answer() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => prop::sample::select(vec![
            "<think>", "</think>", "｜DSML｜", "<｜DSML｜tool_calls>", "<DSML｜tool_calls>", "<tool_calls>",
            "</｜DSML｜tool_calls>", "<｜DSML｜invoke name=\"f\">", "<invoke name=\"g\">", "</｜DSML｜invoke>", "</invoke>",
            "<｜DSML｜parameter name=\"s\" string=\"true\">", "<｜DSML｜parameter name=\"i\" string=\"false\">",
            "<｜DSML｜parameter name=\"o\">", "<｜DSML｜parameter name=\"arguments\" string=\"true\">", "</｜DSML｜parameter>",
            "</parameter>", "\n", "\n\n", " ", "<", "</", ">", "\"", " string=\"", "name=\"", "{\"a\": 1}", "{", "[1]",
            "12", "true", "x", "é", "🐋", "\\", EOS,
        ])
        .prop_map(str::to_owned),
        1 => ".{0,6}",
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

/// A block as the format has it, with any values.
fn written() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "[a-z<>\"\\\\\n ]{0,8}",
        Just("[1, {}]".to_owned()),
        Just("<｜DSML｜parameter".to_owned())
    ];
    let parameter = ("[a-z]{0,2}|arguments|input|o", "s|j|\\?", value)
        .prop_map(|(key, kind, value)| format!("|{key}:{kind}={value}"));
    let call = ("[fghu]", prop::collection::vec(parameter, 0..4))
        .prop_map(|(name, parameters)| name + &parameters.concat() + ";;");
    (".{0,8}", prop::collection::vec(call, 0..3))
        .prop_map(|(text, calls)| text + "\n\n" + &block(&calls.concat()))
}

fn cut<'a>(text: &'a str, cuts: &[prop::sample::Index]) -> Vec<&'a str> {
    let mut ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    ends.push(text.len());
    let mut ends: Vec<usize> = cuts.iter().map(|cut| *cut.get(&ends)).collect();
    ends.extend([0, text.len()]);
    ends.sort_unstable();
    ends.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_answer_is_read_alike_however_it_is_cut(
        text in prop_oneof![answer(), written()],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        thinking in any::<bool>(), tools in prop::bool::weighted(0.9),
        reason in prop::sample::select(vec![FinishReason::Stop, FinishReason::Length, FinishReason::Cancelled]),
    ) {
        let options = options(thinking, tools);
        let whole = parse_completion(&text, options.clone(), reason);
        prop_assert_eq!(&read(&cut(&text, &cuts), options.clone(), reason), &whole);
        let pieces: Vec<&str> = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect();
        prop_assert_eq!(&read(&pieces, options, reason), &whole);
    }

    #[test]
    fn a_prefix_of_an_answer_never_shows_what_the_answer_does_not_say(text in prop_oneof![answer(), written()], at in any::<prop::sample::Index>()) {
        let whole = parse_completion(&text, options(true, true), FinishReason::Stop);
        let pieces = cut(&text, &[at]);
        let mut parser = ChatParser::new(options(true, true));
        let mut shown = Completion::default();
        for event in parser.push(pieces[0]) {
            shown.add(&event);
        }
        prop_assert!(whole.reasoning.starts_with(&shown.reasoning));
        prop_assert!(whole.content.starts_with(&shown.content));
        for (shown, whole) in shown.tool_calls.iter().zip(&whole.tool_calls) {
            prop_assert!(whole.arguments.starts_with(&shown.arguments) && whole.name == shown.name);
        }
    }
}
