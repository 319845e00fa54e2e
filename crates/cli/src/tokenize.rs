//! `cuvier tokenize`: text to ids and back.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, bail};
use cuvier_types::TokenId;

use crate::options::ModelArgs;
use crate::session::open_tokenizer;

/// Flags of `tokenize`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What to encode, or with --decode the ids; standard input if absent
    text: Option<String>,
    /// Turn ids (a JSON array, or numbers between spaces or commas) into text
    #[arg(long)]
    decode: bool,
    /// Treat control tokens in TEXT as text, as in a user's message
    #[arg(long, conflicts_with = "decode")]
    plain: bool,
    /// One JSON document: ids, and the bytes of each as text
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let tokenizer = open_tokenizer(args.model.model.as_deref())?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None => read_stdin()?,
    };
    let mut out = std::io::stdout().lock();
    let ids = if args.decode {
        parse_ids(&text)?
    } else if args.plain {
        tokenizer.encode_text(&text)
    } else {
        tokenizer.encode_with_control(&text)
    };
    if let Some(id) = ids.iter().find(|id| tokenizer.token_bytes(**id).is_none()) {
        bail!("token {} does not exist: the vocabulary has {} tokens", id.0, tokenizer.vocab_size());
    }
    let numbers: Vec<u32> = ids.iter().map(|id| id.0).collect();
    if args.json {
        let pieces: Vec<_> = ids.iter().map(|id| tokenizer.decode(&[*id])).collect();
        let document =
            serde_json::json!({ "ids": numbers, "tokens": pieces, "text": tokenizer.decode(&ids) });
        writeln!(out, "{document}")?;
    } else if args.decode {
        writeln!(out, "{}", tokenizer.decode(&ids))?;
    } else {
        writeln!(out, "{}", serde_json::to_string(&numbers)?)?;
    }
    Ok(())
}

/// All of standard input, for verbs that take text.
pub fn read_stdin() -> anyhow::Result<String> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        bail!("no text given: write it as an argument or pipe it in");
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text).context("standard input")?;
    Ok(text)
}

/// Token ids from a JSON array, or from numbers between spaces or commas.
pub fn parse_ids(text: &str) -> anyhow::Result<Vec<TokenId>> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    inner
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().map(TokenId).with_context(|| format!("`{part}` is not a token id")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_json_and_from_plain_numbers() {
        let want = [TokenId(1), TokenId(22), TokenId(3)];
        assert_eq!(parse_ids("[1, 22,3]").expect("json"), want);
        assert_eq!(parse_ids(" 1 22\n3 ").expect("plain"), want);
        assert!(parse_ids("1 two").is_err());
        assert!(parse_ids("-1").is_err());
    }
}
