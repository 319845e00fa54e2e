#![no_main]

use cuvier_encoding::{
    ChatParser, Completion, Conversation, DsmlInReasoning, ParserOptions, ToolSchemas, parse_completion,
};
use cuvier_types::FinishReason;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>, String)| {
    let (flags, cuts, text) = input;
    let tools = r#"[{"role": "system", "tools": [{"function": {"name": "f", "parameters": {"properties":
        {"s": {"type": "string"}, "i": {"type": "integer"}, "o": {"type": "object"}}}}}]}]"#;
    let tools: Conversation = serde_json::from_str(tools).expect("the messages are well-formed");
    let mut options =
        ParserOptions::new(flags & 1 == 1, (flags & 2 == 0).then(|| ToolSchemas::new(&tools.messages[0].tools)));
    if flags & 4 == 4 {
        options.dsml_in_reasoning = DsmlInReasoning::Text;
    }
    let reason = if flags & 8 == 8 { FinishReason::Length } else { FinishReason::Stop };
    let whole = parse_completion(&text, options.clone(), reason);
    for call in &whole.tool_calls {
        let arguments: serde_json::Value = serde_json::from_str(&call.arguments).expect("arguments are JSON");
        assert!(arguments.is_object());
    }
    let mut parser = ChatParser::new(options);
    let mut pieces = Completion::default();
    let mut rest = text.as_str();
    for cut in cuts {
        let piece = rest.floor_char_boundary(usize::from(cut));
        parser.push(&rest[..piece]).iter().for_each(|event| pieces.add(event));
        rest = &rest[piece..];
    }
    parser.push(rest).iter().for_each(|event| pieces.add(event));
    parser.finish(reason).iter().for_each(|event| pieces.add(event));
    assert_eq!(pieces, whole);
});
