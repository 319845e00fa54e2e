//! `cuvier chat` without a prompt: line by line, until the end of input.

use std::io::{BufRead, Write};
use std::time::Instant;

use clap::ValueEnum;

use crate::dialogue::Dialogue;
use crate::options::Think;

const HELP: &str = "/think off|low|high|max   how hard to think
/new                      forget the conversation
/quit                     leave (so does the end of input)
Ctrl-C                    end the answer; twice: leave";

/// Reads lines and answers them.
pub fn run(dialogue: &mut Dialogue, name: &str) -> anyhow::Result<()> {
    eprintln!("{name}; /help lists the commands");
    let mut lines = std::io::stdin().lock().lines();
    loop {
        eprint!("> ");
        std::io::stderr().flush()?;
        let Some(line) = lines.next().transpose()? else { break };
        dialogue.interrupt.clear();
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => break,
            "/help" => eprintln!("{HELP}"),
            "/new" => dialogue.reset()?,
            command if command.starts_with("/think") => {
                think(dialogue, command.trim_start_matches("/think").trim());
            }
            command if command.starts_with('/') => {
                eprintln!("there is no {command}; /help lists the commands");
            }
            text => answer(dialogue, text),
        }
    }
    eprintln!();
    Ok(())
}

fn think(dialogue: &mut Dialogue, effort: &str) {
    match Think::from_str(effort, true) {
        Ok(think) => dialogue.prompt_options.thinking = think.into(),
        Err(_) => eprintln!("/think off, low, high or max"),
    }
}

/// A failed answer does not end the conversation.
fn answer(dialogue: &mut Dialogue, text: &str) {
    let start = Instant::now();
    match dialogue.answer(text) {
        Ok(answer) => {
            let seconds = start.elapsed().as_secs_f64();
            let cut = if answer.was_cut() { ", cut for want of room" } else { "" };
            eprintln!("[{} tokens, {:.1} tokens/s{cut}]", answer.tokens, answer.tokens as f64 / seconds);
        }
        Err(error) => eprintln!("error: {error:#}"),
    }
}
