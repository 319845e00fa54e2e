#![allow(clippy::unwrap_used)]

mod random;
mod table;

use cuvier_types::FinishReason;
use serde_json::{Value, json};

use super::{
    ChatEvent, ChatParser, Completion, DsmlInReasoning, Ending, ParserOptions, ToolSchemas, parse_completion,
};
use crate::conversation::{Conversation, Generation, PromptOptions, Thinking, encode_conversation};
use crate::{Control, Prompt, Segment, Tokenizer};

const REDUCED: &str = include_str!("../../../../fixtures/tokenizer/reduced.json");
const EOS: &str = "<｜end▁of▁sentence｜>";

/// One function `f` whose parameters have every type, one strict function `g`.
fn schemas() -> ToolSchemas {
    let parameters = json!({"type": "object", "properties": {
        "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"},
        "o": {"type": "object"}, "l": {"type": ["array", "null"]}, "m": {"type": ["string", "integer"]}, "any": {},
    }});
    let tools = json!([{"role": "system", "tools": [
        {"function": {"name": "f", "parameters": parameters}},
        {"function": {"name": "g", "strict": true, "parameters": parameters}},
        {"function": {"name": "h", "parameters": {"properties": {"input": {"type": "string"}}}}},
    ]}]);
    ToolSchemas::new(&Conversation::from_json(&tools).unwrap().messages[0].tools)
}

fn options(thinking: bool, tools: bool) -> ParserOptions {
    ParserOptions::new(thinking, tools.then(schemas))
}

/// The answer's parts in short: reasoning, content, calls as `name arguments`, ending.
fn short(completion: &Completion) -> (String, String, Vec<String>, Ending) {
    let calls =
        completion.tool_calls.iter().map(|call| format!("{} {}", call.name, call.arguments)).collect();
    (completion.reasoning.clone(), completion.content.clone(), calls, completion.ending.unwrap())
}

/// Reads pieces, and checks on the way what holds for every stream.
fn read(pieces: &[&str], options: ParserOptions, reason: FinishReason) -> Completion {
    let mut parser = ChatParser::new(options);
    let mut events: Vec<ChatEvent> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish(reason));
    assert!(parser.is_finished());
    assert!(parser.push("more").is_empty() && parser.finish(reason).is_empty());
    let mut completion = Completion::default();
    let mut open = None;
    for event in &events {
        assert_eq!(completion.ending, None, "nothing follows the end");
        completion.add(event);
        match event {
            ChatEvent::Reasoning(text) => assert!(!text.is_empty() && completion.content.is_empty()),
            ChatEvent::Content(text) => assert!(!text.is_empty() && open.is_none()),
            ChatEvent::ToolCallStart { index, .. } => {
                assert_eq!((open, completion.tool_calls.len()), (None, index + 1));
                open = Some(*index);
            }
            ChatEvent::ToolCallArguments { index, fragment } => {
                assert_eq!(open, Some(*index));
                assert!(!fragment.is_empty());
            }
            ChatEvent::ToolCallEnd { index } => {
                assert_eq!(open.take(), Some(*index));
                let arguments: Value =
                    serde_json::from_str(&completion.tool_calls[*index].arguments).unwrap();
                assert!(arguments.is_object());
            }
            ChatEvent::ToolCallDropped { index } => assert_eq!(open.take(), Some(*index)),
            ChatEvent::Finished { .. } => assert_eq!(open, None),
        }
    }
    completion
}

/// Reads a text whole, in every two parts, and character by character: always the same.
fn read_every_way(text: &str, options: &ParserOptions, reason: FinishReason) -> Completion {
    let whole = parse_completion(text, options.clone(), reason);
    let cuts = text.char_indices().map(|(at, _)| at);
    for at in cuts.clone() {
        let parts = text.split_at(at);
        assert_eq!(read(&[parts.0, parts.1], options.clone(), reason), whole, "cut at {at}: {text:?}");
    }
    let mut ends: Vec<usize> = cuts.skip(1).collect();
    ends.push(text.len());
    for step in 1..4 {
        let mut start = 0;
        let pieces: Vec<&str> = ends
            .iter()
            .enumerate()
            .filter(|(i, end)| (i + 1) % step == 0 || **end == text.len())
            .map(|(_, &end)| {
                let piece = &text[start..end];
                start = end;
                piece
            })
            .collect();
        assert_eq!(read(&pieces, options.clone(), reason), whole, "{step} characters at a time: {text:?}");
    }
    whole
}

/// A block with the tags of the format for the short ones of a test: `f|k:s=v;;`, `s` a string, `j` JSON, `?` neither.
fn block(calls: &str) -> String {
    let mut out = String::from("<｜DSML｜tool_calls>\n");
    for call in calls.split_terminator(";;") {
        let mut parts = call.split('|');
        out += &format!("<｜DSML｜invoke name=\"{}\">\n", parts.next().unwrap());
        for part in parts {
            let (head, value) = part.split_once('=').unwrap();
            let (key, kind) = head.split_once(':').unwrap();
            let attribute = match kind {
                "s" => " string=\"true\"",
                "j" => " string=\"false\"",
                _ => "",
            };
            out += &format!("<｜DSML｜parameter name=\"{key}\"{attribute}>{value}</｜DSML｜parameter>\n");
        }
        out += "</｜DSML｜invoke>\n";
    }
    out + "</｜DSML｜tool_calls>"
}

#[test]
fn bytes_may_arrive_one_by_one_through_tokens() {
    let tokenizer = Tokenizer::from_bytes(REDUCED.as_bytes()).unwrap();
    let answer = format!("鲸 🐋</think>はい\n\n{}{EOS}", block("f|s:s=é🐋\"\\|i:j=1"));
    let whole = parse_completion(&answer, options(true, true), FinishReason::Stop);
    let mut control = tokenizer.encode_with_control(&answer);
    let all_ids = || (0..tokenizer.vocab_size() as u32).map(cuvier_types::TokenId);
    let one_byte = |byte| all_ids().find(|&id| tokenizer.token_bytes(id) == Some(&[byte])).unwrap();
    let bytes: Vec<_> = answer.bytes().map(one_byte).collect();
    control.push(tokenizer.control().user);
    for ids in [control, tokenizer.encode_text(&answer), bytes] {
        let mut parser = ChatParser::new(options(true, true));
        let mut completion = Completion::default();
        for id in ids {
            parser.push_token(&tokenizer, id).iter().for_each(|event| completion.add(event));
        }
        parser.finish(FinishReason::Stop).iter().for_each(|event| completion.add(event));
        assert_eq!(completion, whole);
    }
    assert_eq!(whole.tool_calls[0].arguments, "{\"s\": \"é🐋\\\"\\\\\", \"i\": 1}");
}

#[test]
fn a_token_that_opens_another_turn_ends_the_answer() {
    let tokenizer = Tokenizer::from_bytes(REDUCED.as_bytes()).unwrap();
    for control in [Control::Eos, Control::Bos, Control::User, Control::Assistant] {
        let mut parser = ChatParser::new(options(false, false));
        assert_eq!(parser.push("hi"), [ChatEvent::Content("hi".to_owned())]);
        let id = tokenizer.control().id(control).unwrap();
        assert_eq!(parser.push_token(&tokenizer, id), [ChatEvent::Finished { ending: Ending::Stop }]);
    }
}

#[test]
fn text_is_given_out_as_soon_as_no_tag_can_come_of_it() {
    let content = |text: &str| vec![ChatEvent::Content(text.to_owned())];
    let mut parser = ChatParser::new(options(false, true));
    assert_eq!(parser.push("Hello"), content("Hello"));
    assert_eq!(parser.push(" \n\n"), []);
    assert_eq!(parser.push("<"), []);
    assert_eq!(parser.push("｜DSML｜tool"), []);
    assert_eq!(parser.push("box>"), content(" \n\n<｜DSML｜toolbox>"));
    let mut parser = ChatParser::new(options(false, false));
    assert_eq!(parser.push("a \n\n"), content("a \n\n"), "without tools nothing waits for a call");
    assert_eq!(parser.push("<｜DSML｜tool_calls>"), content("<｜DSML｜tool_calls>"));
}

#[test]
fn arguments_are_given_out_while_they_are_written() {
    let mut parser = ChatParser::new(options(false, true));
    let arguments =
        |fragment: &str| vec![ChatEvent::ToolCallArguments { index: 0, fragment: fragment.to_owned() }];
    assert_eq!(
        parser.push("<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"),
        [ChatEvent::ToolCallStart { index: 0, name: "f".to_owned() }]
    );
    assert_eq!(parser.push("<｜DSML｜parameter name=\"s\" string=\"true\">"), arguments("{\"s\": \""));
    assert_eq!(parser.push("echo \"2"), arguments("echo \\\"2"));
    assert_eq!(parser.push(">&1 <"), arguments(">&1 "));
    assert_eq!(parser.push("b>"), arguments("<b>"));
    assert_eq!(parser.push("</｜DSML｜parameter>"), arguments("\""));
    assert_eq!(parser.push("\n<｜DSML｜parameter name=\"i\" string=\"false\">12"), []);
    assert_eq!(parser.push("3</｜DSML｜parameter>"), arguments(", \"i\": 123"));
    assert_eq!(
        parser.push("\n</｜DSML｜invoke>"),
        [arguments("}"), vec![ChatEvent::ToolCallEnd { index: 0 }]].concat()
    );
    assert!(!parser.is_finished());
    assert_eq!(
        parser.push("\n</｜DSML｜tool_calls>\n<｜DSML｜tool_calls>"),
        [ChatEvent::Finished { ending: Ending::ToolCalls }]
    );
    assert!(parser.is_finished());
}

#[test]
fn what_the_encoder_writes_the_parser_reads_back() {
    let examples: Vec<Value> =
        serde_json::from_str(include_str!("../../../../fixtures/encoding/examples.json")).unwrap();
    let mut n_calls = 0;
    for example in &examples {
        let conversation = Conversation::from_json(&example["messages"]).unwrap();
        for message in conversation.messages.iter().filter(|message| !message.tool_calls.is_empty()) {
            let turn = Conversation { messages: vec![message.clone()] };
            let options_of_turn = PromptOptions { generation: Generation::Preview, thinking: Thinking::Low };
            let prompt = encode_conversation(&turn, options_of_turn).unwrap();
            let answer = after_first(&prompt);
            let read = read_every_way(&answer, &options(true, true), FinishReason::Stop);
            assert_eq!(read.reasoning, message.reasoning_content.clone().unwrap_or_default());
            assert_eq!(read.tool_calls.len(), message.tool_calls.len());
            let mut again = message.clone();
            for (call, read) in again.tool_calls.iter_mut().zip(&read.tool_calls) {
                call.arguments = crate::Arguments::Text(read.arguments.clone());
                n_calls += 1;
            }
            let again =
                encode_conversation(&Conversation { messages: vec![again] }, options_of_turn).unwrap();
            assert_eq!(again.text(), prompt.text());
        }
    }
    assert!(n_calls > 10);
}

/// The prompt's text without its first token.
fn after_first(prompt: &Prompt) -> String {
    assert_eq!(prompt.segments()[0], Segment::Control(Control::Bos));
    prompt.text()[Control::Bos.text().len()..].to_owned()
}

#[test]
fn long_answers_are_read_in_time_that_grows_with_their_length() {
    let value = "[".to_owned() + &"1, ".repeat(60_000) + "1]";
    let texts = [
        " ".repeat(200_000),
        "<".repeat(200_000),
        block(&format!("f|l:j={value}")),
        block(&format!("f|s:s={}", "</｜DSML｜invoke>".repeat(8_000))),
        format!("<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"{}", "\"".repeat(100_000)),
        format!("<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n{}", "{\"a\":".repeat(30_000)),
        format!(
            "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n{}",
            "<｜DSML｜parameter name=\"a\">".repeat(5_000)
        ),
    ];
    for text in texts {
        let start = std::time::Instant::now();
        let whole = parse_completion(&text, options(false, true), FinishReason::Stop);
        let pieces: Vec<&str> = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect();
        assert_eq!(read(&pieces, options(false, true), FinishReason::Stop), whole);
        eprintln!("{:?} for {} characters", start.elapsed(), pieces.len());
        assert!(start.elapsed().as_secs() < 10, "{:?} for {} characters", start.elapsed(), pieces.len());
    }
}

#[test]
fn block_in_unclosed_reasoning_is_called_or_quoted_as_asked() {
    let text = format!("I will call.\n\n{}", block("f|s:s=x"));
    let mut options = options(true, true);
    let called = read_every_way(&text, &options, FinishReason::Stop);
    assert_eq!(
        short(&called),
        ("I will call.".into(), String::new(), vec!["f {\"s\": \"x\"}".into()], Ending::ToolCalls)
    );
    options.dsml_in_reasoning = DsmlInReasoning::Text;
    let quoted = read_every_way(&text, &options, FinishReason::Stop);
    assert_eq!(short(&quoted), (text, String::new(), vec![], Ending::Stop));
}
