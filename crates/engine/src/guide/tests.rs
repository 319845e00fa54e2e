#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

const END: TokenId = TokenId(256);
const USER: TokenId = TokenId(257);
const REASONING_START: TokenId = TokenId(258);
const REASONING_END: TokenId = TokenId(259);
const MARK: TokenId = TokenId(260);
/// One plain token that spells a tag's mark, with what stands around it.
const SPELLS: TokenId = TokenId(261);

/// The bytes, the control tokens, and one more.
fn vocabulary() -> Vocabulary {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    tokens.extend(
        ["<end>", "<user>", "<think>", "</think>", "|T|", "a|T|"].map(|text| text.as_bytes().to_vec()),
    );
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    Vocabulary::new(VocabularyParts {
        tokens,
        control: vec![END, USER, REASONING_START, REASONING_END, MARK],
        end: END,
        reasoning_start: REASONING_START,
        reasoning_end: REASONING_END,
        mark: MARK,
        json_header: "json>".to_owned(),
        not_in_reasoning: texts(&["T|", "</think>"]),
        not_in_content: texts(&["T|", "\n<bare>"]),
        not_in_grammar: texts(&["T|"]),
    })
    .unwrap()
}

fn bytes(text: &str) -> Vec<TokenId> {
    text.bytes().map(|byte| TokenId(u32::from(byte))).collect()
}

/// Takes tokens that must be allowed, by both ways of asking.
fn take(guide: &mut dyn Guide, tokens: &[TokenId]) {
    for (at, &token) in tokens.iter().enumerate() {
        assert!(guide.allowed().unwrap().contains(token), "{at}: {token:?}");
        assert!(guide.allows(token).unwrap(), "{at}: {token:?}");
        guide.observe(token).unwrap();
    }
}

fn refuses(guide: &mut dyn Guide, token: TokenId) -> bool {
    let (allowed, allows) = (guide.allowed().unwrap(), guide.allows(token).unwrap());
    assert_eq!(allowed.contains(token), allows, "{token:?}");
    !allows
}

fn grammar(lark: &str, structure: Structure) -> Box<Grammar> {
    Box::new(Grammar::new(&vocabulary(), lark, structure).unwrap())
}

fn plan(opening: Opening, rule: Rule) -> AnswerPlan {
    AnswerPlan { opening, rule, thinking_max: None, tokens_max: None, reserve: 0 }
}

const CALLS: &str = "start: \"call>\" TEXT <[260]> \"end>\"\nTEXT: /(?s:.*)<\\//";

#[test]
fn a_grammar_allows_its_texts_and_then_the_end_alone() {
    let mut guide = *grammar("start: \"ab\" | \"ac\"", Structure::Text);
    assert!(refuses(&mut guide, TokenId(98)) && refuses(&mut guide, END));
    take(&mut guide, &bytes("ac"));
    assert!(guide.is_complete().unwrap());
    assert_eq!(guide.allowed(), Ok(Allowed::One(END)));
    take(&mut guide, &[END]);
}

#[test]
fn control_tokens_are_no_text_and_a_mark_cannot_be_spelled() {
    let mut guide = *grammar(CALLS, Structure::Calls);
    take(&mut guide, &bytes("call>x |"));
    for token in [USER, END, REASONING_END, REASONING_START, MARK, SPELLS] {
        assert!(refuses(&mut guide, token), "{token:?}");
    }
    take(&mut guide, &bytes("T"));
    assert!(refuses(&mut guide, bytes("|")[0]), "the mark's last letter");
    take(&mut guide, &bytes("</T</"));
    take(&mut guide, &[MARK]);
    take(&mut guide, &bytes("end>"));
    take(&mut guide, &[END]);
}

#[test]
fn json_is_not_nested_deeper_than_its_readers_follow() {
    let mut guide = *grammar("start: %json {\"type\": \"array\"}", Structure::Json);
    take(&mut guide, &bytes(&"[".repeat(nesting::DEPTH_MAX)));
    assert!(refuses(&mut guide, bytes("[")[0]) && refuses(&mut guide, bytes("{")[0]));
    take(&mut guide, &bytes(&format!("\"[[\"{}", "]".repeat(nesting::DEPTH_MAX))));
    take(&mut guide, &[END]);
}

#[test]
fn a_grammar_that_is_wrong_or_too_large_is_refused_with_the_reason() {
    let error = |lark: &str| Grammar::new(&vocabulary(), lark, Structure::Text).unwrap_err().to_string();
    assert!(error("start: nothing").contains("unknown name: \"nothing\""), "{}", error("start: nothing"));
    assert!(error("start: \"").starts_with("the grammar cannot be compiled: "));
    assert!(error(&"#".repeat(3 << 20)).contains("at most"));
    let wide = format!("start: a\na: {}\"x\"", "\"y\" | ".repeat(300_000));
    assert!(error(&wide).starts_with("the grammar cannot be compiled: "));
    let deep = format!("start: {}\"x\"{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(Grammar::new(&vocabulary(), &deep, Structure::Text).is_err());
}

#[test]
fn reasoning_is_free_but_for_what_cannot_stand_in_an_answer() {
    let mut guide = Answer::new(
        &vocabulary(),
        plan(Opening::Reasoning, Rule::Whole(grammar("start: \"yes\"", Structure::Text))),
    );
    take(&mut guide, &bytes("any\x01\u{ff}"));
    take(&mut guide, &[MARK, REASONING_START]);
    for token in [END, USER, SPELLS] {
        assert!(refuses(&mut guide, token), "{token:?}");
    }
    take(&mut guide, &bytes("</think"));
    assert!(refuses(&mut guide, bytes(">")[0]), "a tag that is spelled");
    take(&mut guide, &[REASONING_END]);
    assert!(refuses(&mut guide, bytes("n")[0]));
    take(&mut guide, &bytes("yes"));
    assert_eq!(guide.allowed(), Ok(Allowed::One(END)));
}

#[test]
fn reasoning_ends_when_its_budget_or_the_room_is_used_up() {
    let n_reasoning = |thinking_max, tokens_max, reserve| {
        let plan = AnswerPlan { thinking_max, tokens_max, reserve, ..plan(Opening::Reasoning, Rule::Free) };
        let mut guide = Answer::new(&vocabulary(), plan);
        let mut n = 0;
        while n < 50 && guide.allowed() != Ok(Allowed::One(REASONING_END)) {
            take(&mut guide, &bytes("x"));
            n += 1;
        }
        n
    };
    assert_eq!(n_reasoning(Some(5), None, 0), 5);
    assert_eq!(n_reasoning(Some(0), None, 0), 0);
    assert_eq!(n_reasoning(Some(30), Some(20), 8), 11, "11, the tag, 8");
    assert_eq!(n_reasoning(None, Some(20), 0), 50, "no reserve was asked for");
    assert_eq!(n_reasoning(None, Some(4), 8), 0);
}

#[test]
fn the_mark_of_a_block_triggers_its_grammar_and_nothing_else_does() {
    let rule = || Rule::Calls(grammar(CALLS, Structure::Calls));
    let mut guide = Answer::new(&vocabulary(), plan(Opening::Content, rule()));
    take(&mut guide, &bytes("free <"));
    take(&mut guide, &bytes("b "));
    take(&mut guide, &[MARK]);
    take(&mut guide, &bytes("\n<bare"));
    assert!(refuses(&mut guide, bytes(">")[0]));
    for token in [USER, REASONING_END, SPELLS] {
        assert!(refuses(&mut guide, token), "{token:?}");
    }
    take(&mut guide, &bytes(" <"));
    take(&mut guide, &[MARK]);
    assert!(refuses(&mut guide, bytes("x")[0]) && refuses(&mut guide, END));
    take(&mut guide, &bytes("call>v</"));
    take(&mut guide, &[MARK]);
    take(&mut guide, &bytes("end>"));
    assert_eq!(guide.allowed(), Ok(Allowed::One(END)));

    let mut guide = Answer::new(&vocabulary(), plan(Opening::Content, rule()));
    take(&mut guide, &bytes("no call"));
    take(&mut guide, &[END]);
}

#[test]
fn a_block_after_a_blank_line_ends_the_reasoning_where_calls_are_possible() {
    let mut guide =
        Answer::new(&vocabulary(), plan(Opening::Reasoning, Rule::Calls(grammar(CALLS, Structure::Calls))));
    take(&mut guide, &bytes("a <"));
    take(&mut guide, &[MARK]);
    take(&mut guide, &bytes("still free\n\n<"));
    take(&mut guide, &[MARK]);
    assert!(refuses(&mut guide, bytes("x")[0]));
    let mut guide = Answer::new(&vocabulary(), plan(Opening::Reasoning, Rule::NoCalls));
    take(&mut guide, &bytes("\n\n<"));
    assert!(refuses(&mut guide, MARK));
}

#[test]
fn where_calls_are_not_allowed_the_mark_is_not() {
    let mut guide = Answer::new(&vocabulary(), plan(Opening::Content, Rule::NoCalls));
    take(&mut guide, &bytes("text <"));
    assert!(refuses(&mut guide, MARK));
    take(&mut guide, &[END]);
}
