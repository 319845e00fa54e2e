//! What each protocol says of an answer that is known: order of events, sums, and that streamed is whole.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod scripted;

use client::{Event, Server, script};
use serde_json::{Value, json};

const TOOL: &str = "weather";

/// Thinks, speaks, and calls a tool twice.
fn full_answer() -> String {
    script(&json!([[
        {"think": "Two cities, so two calls."},
        {"say": "Let me look.\n"},
        {"call": TOOL, "arguments": {"city": "Nîmes", "days": 2}},
        {"call": TOOL, "arguments": {"city": "Łódź", "days": 3}},
    ]]))
}

fn parameters() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}})
}

fn chat(text: &str) -> Value {
    let function = json!({"name": TOOL, "description": "d", "parameters": parameters()});
    json!({
        "model": "scripted", "messages": [{"role": "user", "content": text}],
        "tools": [{"type": "function", "function": function}],
    })
}

fn message(text: &str) -> Value {
    json!({
        "model": "claude-x", "max_tokens": 4000, "messages": [{"role": "user", "content": text}],
        "tools": [{"name": TOOL, "description": "d", "input_schema": parameters()}],
    })
}

fn response(text: &str) -> Value {
    json!({
        "model": "scripted", "input": text, "include": ["reasoning.encrypted_content"],
        "tools": [{"type": "function", "name": TOOL, "description": "d", "parameters": parameters()}],
    })
}

fn streamed(mut request: Value) -> Value {
    request["stream"] = json!(true);
    request
}

/// Puts chat's chunks together as a client would, checking what every chunk must have.
fn assemble_chat(events: &[Event]) -> Value {
    assert_eq!(events.last().unwrap().raw, "[DONE]");
    let chunks: Vec<&Value> = events[..events.len() - 1].iter().map(|event| &event.data).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let (mut reasoning, mut content) = (String::new(), String::new());
    let mut calls: Vec<Value> = Vec::new();
    let mut finish = Value::Null;
    for chunk in &chunks {
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
        assert_eq!(chunk["object"], "chat.completion.chunk");
        let Some(choice) = chunk["choices"].get(0) else { continue };
        assert_eq!(finish, Value::Null, "nothing follows the reason of the end");
        let delta = &choice["delta"];
        let text = |key: &str| delta[key].as_str().unwrap_or_default().to_owned();
        assert!(text("reasoning_content").is_empty() || text("content").is_empty(), "one kind in a chunk");
        assert!(content.is_empty() || text("reasoning_content").is_empty(), "thoughts come first");
        reasoning.push_str(&text("reasoning_content"));
        content.push_str(&text("content"));
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                let function = json!({"name": call["function"]["name"], "arguments": ""});
                calls.push(json!({"id": call["id"], "type": call["type"], "function": function}));
            } else {
                assert_eq!((index + 1, &call["id"]), (calls.len(), &Value::Null), "calls do not mix");
            }
            let more = call["function"]["arguments"].as_str().unwrap();
            let arguments = calls[index]["function"]["arguments"].as_str().unwrap().to_owned();
            calls[index]["function"]["arguments"] = json!(arguments + more);
        }
        finish = choice["finish_reason"].clone();
    }
    let usage = chunks.last().unwrap()["usage"].clone();
    json!({"reasoning": reasoning, "content": content, "calls": calls, "finish": finish, "usage": usage})
}

fn forget_ids(calls: &Value) -> Value {
    let mut calls = calls.clone();
    for call in calls.as_array_mut().unwrap() {
        assert!(call["id"].as_str().unwrap().starts_with("call_"));
        call["id"] = Value::Null;
    }
    calls
}

#[test]
fn a_chat_that_is_streamed_and_one_that_is_not_say_the_same() {
    let server = Server::start();
    let whole = server.post("/v1/chat/completions", &chat(&full_answer())).ok();
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "Two cities, so two calls.");
    assert_eq!(message["content"].as_str().unwrap().trim_end(), "Let me look.");
    let arguments: Vec<Value> = message["tool_calls"].as_array().unwrap().iter().map(arguments_of).collect();
    assert_eq!(arguments, [json!({"city": "Nîmes", "days": 2}), json!({"city": "Łódź", "days": 3})]);
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");

    let events = server.post("/v1/chat/completions", &streamed(chat(&full_answer()))).events();
    let stream = assemble_chat(&events);
    assert_eq!(stream["reasoning"], message["reasoning_content"]);
    assert_eq!(stream["content"], message["content"]);
    assert_eq!(forget_ids(&stream["calls"]), forget_ids(&message["tool_calls"]));
    assert_eq!(stream["finish"], "tool_calls");
    for key in ["prompt_tokens", "completion_tokens", "total_tokens", "completion_tokens_details"] {
        assert_eq!(stream["usage"][key], whole["usage"][key], "{key}");
    }
}

fn arguments_of(call: &Value) -> Value {
    serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap()
}

#[test]
fn usage_adds_up_and_is_where_it_was_asked_for() {
    let server = Server::start();
    let mut request = chat(&script(&json!([[{"think": "Hm."}, {"say": "Yes."}]])));
    let usage = server.post("/chat/completions", &request).ok()["usage"].clone();
    let count = |pointer: &str| usage.pointer(pointer).unwrap().as_u64().unwrap();
    assert_eq!(count("/prompt_tokens") + count("/completion_tokens"), count("/total_tokens"));
    let cached = count("/prompt_cache_hit_tokens");
    assert_eq!(cached + count("/prompt_cache_miss_tokens"), count("/prompt_tokens"));
    assert_eq!(cached, count("/prompt_tokens_details/cached_tokens"));
    let reasoning = count("/completion_tokens_details/reasoning_tokens");
    assert!(0 < reasoning && reasoning < count("/completion_tokens"));

    let events = server.post("/chat/completions", &streamed(request.clone())).events();
    let chunks: Vec<_> = events.iter().filter(|event| event.raw != "[DONE]").collect();
    let (last, before) = chunks.split_last().unwrap();
    assert!(before.iter().all(|chunk| chunk.data["usage"].is_null()));
    assert_eq!(last.data["choices"][0]["finish_reason"], "stop");
    assert_eq!(last.data["usage"]["total_tokens"], usage["total_tokens"]);

    request["stream_options"] = json!({"include_usage": true});
    let events = server.post("/chat/completions", &streamed(request)).events();
    let last = &events[events.len() - 2].data;
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], usage["total_tokens"]);
}

#[test]
fn the_blocks_of_messages_follow_each_other_and_are_what_is_said_at_once() {
    let server = Server::start();
    let whole = server.post("/v1/messages", &message(&full_answer())).ok();
    let kinds: Vec<&str> =
        whole["content"].as_array().unwrap().iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
    assert_eq!(whole["content"][3]["input"], json!({"city": "Łódź", "days": 3}));
    assert_eq!((whole["stop_reason"].as_str(), &whole["stop_sequence"]), (Some("tool_use"), &Value::Null));

    let events = server.post("/anthropic/v1/messages", &streamed(message(&full_answer()))).events();
    for event in &events {
        assert_eq!(event.name.as_deref(), event.data["type"].as_str(), "a name and a type are the same");
    }
    let names: Vec<&str> = events.iter().map(|event| event.name.as_deref().unwrap()).collect();
    assert_eq!(names[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let blocks = assemble_blocks(&events);
    let mut want = whole["content"].as_array().unwrap().clone();
    let mut got = blocks.clone();
    for block in want.iter_mut().chain(&mut got) {
        if block["type"] == "tool_use" {
            assert!(block["id"].as_str().unwrap().starts_with("toolu_"));
            block["id"] = Value::Null;
        }
    }
    assert_eq!(got, want);
    let start = &events[0].data["message"]["usage"];
    let end = &events[events.len() - 2].data;
    assert_eq!(end["delta"]["stop_reason"], "tool_use");
    for key in ["input_tokens", "cache_read_input_tokens"] {
        assert_eq!(start[key], end["usage"][key], "{key}");
    }
    assert_eq!(end["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
}

/// Puts Anthropic's blocks together, checking that they do not overlap.
fn assemble_blocks(events: &[Event]) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    let (mut is_open, mut json_text) = (false, String::new());
    for event in events {
        let (data, index) = (&event.data, event.data["index"].as_u64().map(|index| index as usize));
        match event.name.as_deref().unwrap() {
            "content_block_start" => {
                assert_eq!((is_open, index), (false, Some(blocks.len())));
                is_open = true;
                blocks.push(data["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!((is_open, index), (true, Some(blocks.len() - 1)));
                let block = blocks.last_mut().unwrap();
                let (key, kind) = match data["delta"]["type"].as_str().unwrap() {
                    "thinking_delta" => ("thinking", "thinking"),
                    "signature_delta" => ("signature", "thinking"),
                    "text_delta" => ("text", "text"),
                    "input_json_delta" => {
                        assert_eq!(block["type"], "tool_use");
                        json_text.push_str(data["delta"]["partial_json"].as_str().unwrap());
                        continue;
                    }
                    other => panic!("{other}"),
                };
                assert_eq!(block["type"], kind);
                let longer = block[key].as_str().unwrap().to_owned() + data["delta"][key].as_str().unwrap();
                block[key] = json!(longer);
            }
            "content_block_stop" => {
                assert_eq!((is_open, index), (true, Some(blocks.len() - 1)));
                is_open = false;
                let text = std::mem::take(&mut json_text);
                if !text.is_empty() {
                    blocks.last_mut().unwrap()["input"] = serde_json::from_str(&text).unwrap();
                }
            }
            _ => assert!(!is_open || event.name.as_deref() == Some("ping")),
        }
    }
    assert!(!is_open);
    blocks
}

#[test]
fn the_events_of_responses_are_numbered_and_end_with_what_is_said_at_once() {
    let server = Server::start();
    let whole = server.post("/v1/responses", &response(&full_answer())).ok();
    let kinds: Vec<&str> =
        whole["output"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(whole["status"], "completed");

    let events = server.post("/v1/responses", &streamed(response(&full_answer()))).events();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event.data["sequence_number"], number, "numbers have no gap");
        assert_eq!(event.name.as_deref(), event.data["type"].as_str());
    }
    let names: Vec<&str> = events.iter().map(|event| event.name.as_deref().unwrap()).collect();
    assert_eq!(names[..3], ["response.created", "response.in_progress", "response.output_item.added"]);
    let last = events.last().unwrap();
    assert_eq!(last.name.as_deref(), Some("response.completed"));
    let done: Vec<&Value> = events
        .iter()
        .filter(|event| event.name.as_deref() == Some("response.output_item.done"))
        .map(|event| &event.data["item"])
        .collect();
    assert_eq!(done, last.data["response"]["output"].as_array().unwrap().iter().collect::<Vec<_>>());
    let texts = |response: &Value| -> Vec<Value> {
        let items = response["output"].as_array().unwrap().iter();
        items
            .map(|item| json!([item["content"].get(0).map(|part| &part["text"]), item["arguments"]]))
            .collect()
    };
    assert_eq!(texts(&last.data["response"]), texts(&whole));
    let deltas: String = events
        .iter()
        .filter(|event| event.name.as_deref() == Some("response.reasoning_text.delta"))
        .map(|event| event.data["delta"].as_str().unwrap())
        .collect();
    assert_eq!(deltas, "Two cities, so two calls.");
    assert_eq!(last.data["response"]["usage"]["total_tokens"], whole["usage"]["total_tokens"]);
}

#[test]
fn a_response_without_input_is_complete_and_empty() {
    let server = Server::start();
    let whole = server.post("/v1/responses", &json!({"model": "scripted", "input": []})).ok();
    assert_eq!((&whole["output"], &whole["status"]), (&json!([]), &json!("completed")));
}

#[test]
fn a_completion_that_is_streamed_and_one_that_is_not_say_the_same() {
    let server = Server::start();
    let request =
        json!({"prompt": script(&json!([[{"say": "one two three"}]])), "echo": true, "logprobs": 2});
    let whole = server.post("/v1/completions", &request).ok();
    let text = whole["choices"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("SCRIPT:") && text.ends_with("one two three"), "{text}");
    let events = server.post("/beta/completions", &streamed(request)).events();
    let chunks =
        || events.iter().filter(|event| event.raw != "[DONE]").map(|event| &event.data["choices"][0]);
    let streamed: String = chunks().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(streamed, text);
    let tokens: Vec<&Value> =
        chunks().flat_map(|choice| choice["logprobs"]["tokens"].as_array().into_iter().flatten()).collect();
    let want: Vec<&Value> = whole["choices"][0]["logprobs"]["tokens"].as_array().unwrap().iter().collect();
    assert_eq!(tokens, want);
    let offsets = |choices: Vec<&Value>| -> Vec<Value> {
        let lists = choices.into_iter().filter_map(|choice| choice["logprobs"]["text_offset"].as_array());
        lists.flatten().cloned().collect()
    };
    assert_eq!(offsets(chunks().collect()), offsets(vec![&whole["choices"][0]]));
}

#[test]
fn a_stop_string_ends_content_only_and_is_not_shown() {
    let server = Server::start();
    let answer = script(&json!([[{"think": "END is not met here."}, {"say": "before END after"}]]));
    let mut request = chat(&answer);
    request["stop"] = json!(["END", "never"]);
    let whole = server.post("/v1/chat/completions", &request).ok();
    assert_eq!(whole["choices"][0]["message"]["content"], "before ");
    assert_eq!(whole["choices"][0]["message"]["reasoning_content"], "END is not met here.");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let stream = assemble_chat(&server.post("/v1/chat/completions", &streamed(request)).events());
    assert_eq!(stream["content"], "before ");

    let mut request = message(&answer);
    request["stop_sequences"] = json!(["END"]);
    let whole = server.post("/v1/messages", &request).ok();
    assert_eq!(whole["stop_reason"], "stop_sequence");
    assert_eq!(whole["stop_sequence"], "END");
}

#[test]
fn the_limit_of_tokens_is_said_in_each_protocols_words() {
    let server = Server::start();
    let long = script(&json!([[{"say": "a b c d e f g h i j k l m n o p q r s t u v w x y z"}]]));
    let mut request = chat(&long);
    request["max_tokens"] = json!(5);
    let whole = server.post("/v1/chat/completions", &request).ok();
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 5);
    let mut request = message(&long);
    request["max_tokens"] = json!(5);
    assert_eq!(server.post("/v1/messages", &request).ok()["stop_reason"], "max_tokens");
    let mut request = response(&long);
    request["max_output_tokens"] = json!(5);
    let whole = server.post("/v1/responses", &request).ok();
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    let events = server.post("/v1/responses", &streamed(request)).events();
    assert_eq!(events.last().unwrap().name.as_deref(), Some("response.incomplete"));
}

#[test]
fn choices_have_their_own_index_and_the_prompt_is_counted_once() {
    let server = Server::start();
    let mut request = chat(&script(&json!([[{"hostile": 6}]])));
    (request["n"], request["seed"], request["tools"]) = (json!(2), json!(7), json!([]));
    let whole = server.post("/v1/chat/completions", &request).ok();
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!((choices.len(), &choices[1]["index"]), (2, &json!(1)));
    assert_ne!(choices[0]["message"], choices[1]["message"], "each draws from a seed of its own");
    let one = server.post("/v1/chat/completions", &chat(&script(&json!([[{"say": "x"}]])))).ok();
    assert!(one["usage"]["prompt_tokens"].as_u64() > whole["usage"]["prompt_tokens"].as_u64());
    let again = server.post("/v1/chat/completions", &request).ok();
    assert_eq!(again["choices"], whole["choices"], "a seed repeats");
    let events = server.post("/v1/chat/completions", &streamed(request)).events();
    let text = |index: u64| -> String {
        let chunks = events.iter().filter_map(|event| event.data["choices"].get(0));
        chunks
            .filter(|choice| choice["index"] == index)
            .map(|choice| choice["delta"]["content"].as_str().unwrap_or_default())
            .collect()
    };
    for index in 0..2 {
        assert_eq!(text(index), choices[index as usize]["message"]["content"].as_str().unwrap());
    }
}

#[test]
fn the_bytes_of_logprobs_join_to_the_text() {
    let server = Server::start();
    let mut request = chat(&script(&json!([[{"think": "né"}, {"say": "Łódź 🐳"}]])));
    (request["logprobs"], request["top_logprobs"]) = (json!(true), json!(3));
    let joined = |entries: &Value| -> String {
        let bytes = entries.as_array().unwrap().iter().flat_map(|entry| entry["bytes"].as_array().unwrap());
        String::from_utf8(bytes.map(|byte| byte.as_u64().unwrap() as u8).collect()).unwrap()
    };
    let whole = server.post("/v1/chat/completions", &request).ok();
    let logprobs = &whole["choices"][0]["logprobs"];
    assert_eq!(joined(&logprobs["content"]), "Łódź 🐳");
    for entry in logprobs["content"].as_array().unwrap() {
        assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 3);
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
    }
    let events = server.post("/v1/chat/completions", &streamed(request)).events();
    let entries: Vec<Value> = events
        .iter()
        .filter_map(|event| event.data["choices"].get(0)?["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(json!(entries), logprobs["content"]);
}

#[test]
fn a_model_that_breaks_in_the_middle_ends_each_stream_with_its_error() {
    let server = Server::start();
    let broken = script(&json!([[{"say": "so far"}, {"fail": "the model broke"}]]));
    let events = server.post("/v1/chat/completions", &streamed(chat(&broken))).events();
    let error = &events.last().unwrap().data["error"];
    assert_eq!((&error["type"], &error["message"]), (&json!("server_error"), &json!("the model broke")));
    assert!(events.iter().all(|event| event.raw != "[DONE]"));
    let events = server.post("/v1/messages", &streamed(message(&broken))).events();
    let last = events.last().unwrap();
    assert_eq!((last.name.as_deref(), &last.data["error"]["type"]), (Some("error"), &json!("api_error")));
    let events = server.post("/v1/responses", &streamed(response(&broken))).events();
    let last = events.last().unwrap();
    assert_eq!(last.name.as_deref(), Some("response.failed"));
    assert_eq!(last.data["response"]["error"]["message"], "the model broke");
    let events = server.post("/v1/completions", &json!({"prompt": broken, "stream": true})).events();
    assert_eq!(events.last().unwrap().data["error"]["message"], "the model broke");
    for path in ["/v1/chat/completions", "/v1/responses"] {
        let request = if path.ends_with("responses") { response(&broken) } else { chat(&broken) };
        assert_eq!(server.post(path, &request).status, 500);
    }
}

#[test]
fn an_error_has_the_shape_of_its_protocol() {
    let server = Server::start();
    let mut request = chat("x");
    request["temperature"] = json!(3);
    let refused = server.post("/v1/chat/completions", &request);
    assert_eq!(refused.status, 400);
    let error = &refused.json()["error"];
    assert_eq!(error["type"], "invalid_request_error");
    assert!(error["message"].as_str().unwrap().contains("temperature"), "{error}");
    let mut request = chat("x");
    request["messages"][0]["content"] = json!(3);
    let refused = server.post("/v1/chat/completions", &request);
    assert_eq!(refused.json()["error"]["param"], "messages[0].content");

    let mut request = message("x");
    request["temperature"] = json!(3);
    let refused = server.post("/v1/messages", &request);
    assert_eq!((refused.status, &refused.json()["type"]), (400, &json!("error")));
    assert_eq!(refused.json()["error"]["type"], "invalid_request_error");
    assert_eq!(refused.json()["request_id"].as_str(), refused.header("request-id"));

    for (method, path, status) in
        [("GET", "/nothing/here", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/v1/models/none", 404)]
    {
        let refused = server.connect().ask(method, path, &[], b"");
        assert_eq!(refused.status, status, "{path}");
        assert!(refused.json()["error"]["message"].is_string());
    }
    let xml = server.connect().ask("POST", "/v1/chat/completions", &[("content-type", "text/xml")], b"<a/>");
    assert_eq!(xml.status, 415);
    let no_type = server.connect().ask("POST", "/v1/chat/completions", &[], chat("x").to_string().as_bytes());
    assert_eq!(no_type.status, 200);
}

#[test]
fn a_prompt_that_fills_the_context_is_refused_in_words_that_clients_know() {
    let server = Server::with(|setup| setup.context_max = 100);
    let long = "word ".repeat(300);
    let refused = server.post("/v1/chat/completions", &chat(&long));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
    assert_eq!(refused.json()["error"]["n_ctx"], 100);
    let refused = server.post("/v1/messages", &message(&long));
    assert_eq!(refused.status, 400);
    let said = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.starts_with("prompt is too long: ") && said.ends_with(" > 100 maximum"), "{said}");
    // Nobody left: nothing was started.
    assert_eq!(server.metric("cuvier_requests_abandoned_total"), 0.0);
    assert_eq!(server.metric("cuvier_requests_total"), 0.0);
    assert_eq!(server.post("/v1/responses", &streamed(response(&long))).status, 400);
}

#[test]
fn tokens_are_counted_as_the_answer_counts_them() {
    let server = Server::start();
    let request = message(&full_answer());
    let counted = server.post("/v1/messages/count_tokens", &request).ok()["input_tokens"].as_u64().unwrap();
    let usage = server.post("/v1/messages", &request).ok()["usage"].clone();
    let used = |key: &str| usage[key].as_u64().unwrap();
    assert_eq!(used("input_tokens") + used("cache_read_input_tokens"), counted);
    assert_eq!(used("cache_creation_input_tokens"), 0);
}

#[test]
fn models_are_listed_in_the_form_of_both_makers() {
    let server = Server::with(|setup| setup.server.aliases = vec!["nick".to_owned()]);
    for path in ["/models", "/v1/models", "/anthropic/v1/models"] {
        let list = server.get(path).ok();
        assert_eq!(list["object"], "list");
        let ids: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
        assert_eq!(ids, ["scripted", "nick"]);
        assert_eq!(list["data"][0]["context_length"], 100_000);
    }
    assert_eq!(server.get("/v1/models/nick").status, 200);
}
