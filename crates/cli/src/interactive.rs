//! `cuvier chat` without a prompt: line by line, until the end of input.

use std::io::{BufRead, Write};
use std::time::Instant;

use clap::ValueEnum;

use crate::chat::{Chat, Think, was_cut};

const HELP: &str = "/think off|low|high|max   how hard to think
/new                      forget the conversation
/quit                     leave (so does the end of input)
Ctrl-C                    end the answer; twice: leave";

/// Reads lines and answers them.
pub fn run(chat: &mut Chat, name: &str) -> anyhow::Result<()> {
    eprintln!("{name}; /help lists the commands");
    let mut lines = std::io::stdin().lock().lines();
    loop {
        eprint!("> ");
        std::io::stderr().flush()?;
        let Some(line) = lines.next().transpose()? else { break };
        chat.interrupt.clear();
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => break,
            "/help" => eprintln!("{HELP}"),
            "/new" => chat.reset()?,
            command if command.starts_with("/think") => {
                think(chat, command.trim_start_matches("/think").trim());
            }
            command if command.starts_with('/') => {
                eprintln!("there is no {command}; /help lists the commands");
            }
            text => answer(chat, text),
        }
    }
    eprintln!();
    Ok(())
}

fn think(chat: &mut Chat, effort: &str) {
    match Think::from_str(effort, true) {
        Ok(think) => chat.set_thinking(think),
        Err(_) => eprintln!("/think off, low, high or max"),
    }
}

/// A failed answer does not end the conversation.
fn answer(chat: &mut Chat, text: &str) {
    let start = Instant::now();
    match chat.answer(text) {
        Ok(answer) => {
            let seconds = start.elapsed().as_secs_f64();
            let cut = if was_cut(&answer) { ", cut for want of room" } else { "" };
            eprintln!("[{} tokens, {:.1} tokens/s{cut}]", answer.tokens, answer.tokens as f64 / seconds);
        }
        Err(error) => eprintln!("error: {error:#}"),
    }
}
