//! How likely tokens were, as chat and completions write it.

use cuvier_encoding::Section;
use cuvier_types::TokenId;
use serde_json::{Value, json};

use crate::App;
use crate::generation::Logprob;

/// What a probability of nothing is written as, since JSON has no infinity.
const NEVER: f32 = -9999.0;

fn entry(app: &App, token: TokenId, logprob: f32) -> Value {
    let bytes = app.tokenizer.token_bytes(token).unwrap_or_default();
    json!({
        "token": String::from_utf8_lossy(bytes), "logprob": finite(logprob), "bytes": bytes,
    })
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { NEVER }
}

/// `logprobs` of a chat choice: content and reasoning apart.
pub(super) fn of_chat(app: &App, tokens: &[Logprob]) -> Value {
    let list = |section: Section| {
        let of_section = tokens.iter().filter(|token| token.section == section);
        of_section
            .map(|token| {
                let mut value = entry(app, token.token, token.logprobs.logprob);
                let top = token.logprobs.top.iter().map(|&(id, logprob)| entry(app, id, logprob));
                value["top_logprobs"] = Value::Array(top.collect());
                value
            })
            .collect::<Vec<_>>()
    };
    json!({"content": list(Section::Content), "reasoning_content": list(Section::Reasoning), "refusal": null})
}

/// `logprobs` of a completion. `offset` is where the first token's text begins, in characters, and becomes where that
/// of the next one does.
pub(super) fn of_completion(app: &App, tokens: &[Logprob], offset: &mut usize) -> Value {
    let text =
        |id: TokenId| String::from_utf8_lossy(app.tokenizer.token_bytes(id).unwrap_or_default()).into_owned();
    let mut offsets = Vec::with_capacity(tokens.len());
    for token in tokens {
        offsets.push(*offset);
        *offset += text(token.token).chars().count();
    }
    let top = tokens.iter().map(|token| {
        let pairs = token.logprobs.top.iter().map(|&(id, logprob)| (text(id), json!(finite(logprob))));
        Value::Object(pairs.collect())
    });
    json!({
        "tokens": tokens.iter().map(|token| text(token.token)).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| finite(token.logprobs.logprob)).collect::<Vec<_>>(),
        "top_logprobs": top.collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
