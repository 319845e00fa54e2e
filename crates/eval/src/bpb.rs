//! How well the model foretells text: nats per token, bits per byte.

use std::f64::consts::LN_2;

use cuvier_encoding::Tokenizer;
use cuvier_model::LogitRows;
use cuvier_train::data::{Document, Task};

use crate::reader::{argmax, log_sum_exp};
use crate::{Cell, Estimate, EvalError, Layout, Passage, Passages, Reader, Report, Row, Share, Tell};

/// What one passage cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    /// Sum of the cross entropies of the tokens that count.
    nats: f64,
    /// Bytes of text in these tokens. Control tokens cost nats but are no text, as the length of a file does not count
    /// where it ends.
    bytes: u64,
    /// Whether the most likely token was the one that stood there, over the tokens that count.
    right: Share,
}

/// Reads the passages. Of conversations, only what the assistant says counts: the tokens that training learns.
///
/// # Errors
/// If a passage does not fit the model.
pub fn run(
    reader: &Reader<'_>,
    passages: &Passages,
    tokenizer: &Tokenizer,
    tell: Tell<'_>,
) -> Result<Report, EvalError> {
    let mut costs: Vec<(Task, Cost)> = Vec::new();
    for (done, Passage { task, document }) in passages.list.iter().enumerate() {
        tell(done, passages.list.len());
        costs.push((*task, cost(reader, document, tokenizer)?));
    }
    tell(passages.list.len(), passages.list.len());
    let of = |task| costs.iter().filter(|(own, _)| *own == task).map(|(_, cost)| *cost).collect::<Vec<_>>();
    let tasks = passages.tasks();
    let mut rows: Vec<Row> = tasks.iter().map(|&task| row(task.name(), &of(task))).collect();
    if tasks.len() > 1 {
        rows.push(row("all", &costs.iter().map(|(_, cost)| *cost).collect::<Vec<_>>()));
    }
    Ok(Report { name: "bpb", asked: passages.asked.clone(), rows, layout: Layout::Lines })
}

fn cost(reader: &Reader<'_>, document: &Document, tokenizer: &Tokenizer) -> Result<Cost, EvalError> {
    let mut cost = Cost::default();
    reader.read(&document.tokens, LogitRows::All, None, &mut |rows, _| {
        for (place, logits) in (rows.first + 1..).zip(rows.logits.view().iter()) {
            if !document.trained.get(place).copied().unwrap_or(false) {
                continue;
            }
            let token = document.tokens[place];
            cost.nats += log_sum_exp(logits) - f64::from(logits[token.0 as usize]);
            cost.right.add(argmax(logits) == token);
            if tokenizer.control().control(token).is_none() {
                cost.bytes += tokenizer.token_bytes(token).map_or(0, <[u8]>::len) as u64;
            }
        }
        Ok(())
    })?;
    Ok(cost)
}

fn row(name: &str, costs: &[Cost]) -> Row {
    let per_token: Vec<(f64, f64)> = costs.iter().map(|cost| (cost.nats, cost.right.of as f64)).collect();
    let per_byte: Vec<(f64, f64)> = costs.iter().map(|cost| (cost.nats / LN_2, cost.bytes as f64)).collect();
    let right = costs.iter().map(|cost| cost.right).fold(Share::default(), Share::with);
    Row::new()
        .named("text", name)
        .with("documents", Cell::Count(costs.len() as u64))
        .with("tokens", Cell::Count(right.of))
        .with("bytes", Cell::Count(costs.iter().map(|cost| cost.bytes).sum()))
        .with("nats per token", Cell::Estimate(Estimate::ratio(&per_token)))
        .with("bits per byte", Cell::Estimate(Estimate::ratio(&per_byte)))
        .with("foretold", Cell::Share(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_nats_by_the_logarithm_of_two_and_bytes_weigh_documents() {
        let cost = |nats, bytes, of| Cost { nats, bytes, right: Share { count: 1, of } };
        let row = row("all", &[cost(LN_2, 1, 1), cost(3.0 * LN_2, 7, 3)]);
        let Some(Cell::Estimate(bits)) = row.get("bits per byte") else { panic!("an estimate") };
        let Some(Cell::Estimate(nats)) = row.get("nats per token") else { panic!("an estimate") };
        assert!((bits.value - 0.5).abs() < 1e-12 && (nats.value - LN_2).abs() < 1e-12);
        assert_eq!(row.get("tokens"), Some(&Cell::Count(4)));
    }
}
