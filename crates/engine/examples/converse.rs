//! Load a model folder, stream an answer, fork the conversation, save it.
//!
//! `cargo run --release -p cuvier-engine --example converse -- [MODEL_FOLDER]`; without one, the toy in
//! `models/calf`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use cuvier_encoding::{TextStream, Tokenizer};
use cuvier_engine::{Conversation, Engine, EngineConfig, Request, TransformerModel};
use cuvier_model::{Compute, Isa, KvFormat, Transformer};
use cuvier_types::Event;
use cuvier_weights::Checkpoint;

fn main() -> anyhow::Result<()> {
    let calf = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/calf");
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(calf), PathBuf::from);
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
    let compute = Compute::new(Isa::best(), std::thread::available_parallelism()?)?;
    let transformer = Transformer::load(&Checkpoint::open(&folder)?, &compute)?;
    let model = TransformerModel::new(Arc::new(transformer), compute, KvFormat::Fp8);

    let engine = Engine::start(model, EngineConfig::default())?;
    let conversation = engine.open()?;
    say(&conversation, &tokenizer, "Remember the number 27.")?;
    let fork = conversation.fork()?;
    say(&conversation, &tokenizer, "Which number was it?")?;
    say(&fork, &tokenizer, "What is 3 + 4?")?;
    let saved = fork.save()?;
    let restored = engine.restore(saved.clone())?;
    assert_eq!(restored.tokens()?, fork.tokens()?);
    println!("saved {} tokens in {} bytes", fork.tokens()?.len(), saved.len());
    Ok(())
}

fn say(conversation: &Conversation, tokenizer: &Tokenizer, text: &str) -> anyhow::Result<()> {
    let control = tokenizer.control();
    let opening = if conversation.tokens()?.is_empty() { vec![control.bos] } else { vec![] };
    let turn = [control.user].into_iter().chain(tokenizer.encode_text(text));
    let prompt = opening.into_iter().chain(turn).chain([control.assistant, control.think_end]).collect();
    let request = Request { max_tokens: Some(32), stop_tokens: vec![control.eos], ..Request::new(prompt) };

    println!("> {text}");
    let mut answer = TextStream::new();
    for event in conversation.send(request)? {
        match event {
            Event::Token { token, .. } if token != control.eos => {
                print!("{}", answer.push(tokenizer.token_bytes(token).unwrap_or_default()));
                std::io::stdout().flush()?;
            }
            Event::Failed { message } => anyhow::bail!(message),
            Event::Token { .. } | Event::Prefill { .. } | Event::Finished { .. } => {}
        }
    }
    println!("{}", answer.finish());
    Ok(())
}
