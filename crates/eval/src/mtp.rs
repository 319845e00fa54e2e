//! How often the MTP block drafts what the model says next, read over documents and in real decoding.

use cuvier_model::{Ctx, Lent, LogitRows, Matrix, SequenceState};
use cuvier_train::data::{Document, Task};
use cuvier_types::TokenId;
use serde_json::json;

use crate::decode::{Decoder, decoded_alike};
use crate::reader::{argmax, log_sum_exp};
use crate::{Cell, EvalError, Layout, Passage, Passages, Reader, Report, Row, Rows, Share, Tell};

/// What reading and decoding found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Found {
    /// The block's most likely token is the model's.
    agrees: Share,
    /// It is the one that stands there.
    right: Share,
    /// Of the model's, the same.
    model_right: Share,
    /// Sum over tokens of what both distributions have in common: how often a draft drawn at temperature 1 is accepted.
    common: f64,
    /// Drafts of greedy decoding that were accepted.
    accepted: Share,
    /// Tokens that calls of the model gave, and calls.
    tokens: u64,
    calls: u64,
    /// Answers that are the same with drafts as without.
    identical: Share,
}

/// The prompt of a plain text: so many tokens, but no more than half of it.
const TEXT_PROMPT_TOKENS: usize = 64;

/// Reads the passages, and answers what each asks, `max_tokens` tokens at most, with drafts and without.
///
/// # Errors
/// If the checkpoint has no MTP block, or a passage does not fit the model.
pub fn run(
    reader: &Reader<'_>,
    passages: &Passages,
    ends: &[TokenId],
    max_tokens: usize,
    tell: Tell<'_>,
) -> Result<Report, EvalError> {
    let mtp = reader.model.mtp().ok_or(EvalError::NoMtp)?;
    let decoder = Decoder { reader, mtp, ends, max_tokens };
    let mut all: Vec<(Task, Found)> = Vec::new();
    for (done, Passage { task, document }) in passages.list.iter().enumerate() {
        tell(done, passages.list.len());
        let mut found = read(reader, document)?;
        let prompt = &document.tokens[..prompt_len(document)];
        if prompt.len() < reader.model.config().max_position_embeddings {
            let (drafted, is_identical) = decoded_alike(&decoder, prompt)?;
            found.accepted = drafted.accepted;
            found.calls = drafted.calls;
            // The first token comes with the prompt.
            found.tokens = drafted.tokens.len().saturating_sub(1) as u64;
            found.identical.add(is_identical);
        }
        all.push((*task, found));
    }
    tell(passages.list.len(), passages.list.len());
    let of = |task| all.iter().filter(move |(own, _)| *own == task).map(|(_, found)| *found);
    let tasks = passages.tasks();
    let mut rows: Vec<Row> = tasks.iter().map(|&task| row(task.name(), of(task))).collect();
    if tasks.len() > 1 {
        rows.push(row("all", all.iter().map(|(_, found)| *found)));
    }
    let mut asked = passages.asked.clone();
    asked.insert("max_tokens".to_owned(), json!(max_tokens));
    Ok(Report { name: "mtp", asked, rows, layout: Layout::Lines })
}

/// The first rows of a matrix.
pub(crate) fn first_rows(matrix: &Matrix, rows: usize) -> Matrix {
    Matrix::from_vec(matrix.data()[..rows * matrix.cols()].to_vec(), matrix.cols())
}

/// Tokens before what is answered: of a conversation, those before its last answer.
fn prompt_len(document: &Document) -> usize {
    if document.is_text() {
        return TEXT_PROMPT_TOKENS.min(document.len() / 2).max(1);
    }
    let last = document.trained.iter().rposition(|&trained| trained).unwrap_or(0);
    let before = document.trained[..last].iter().rposition(|&trained| !trained);
    before.map_or(1, |place| place + 1)
}

/// Compares block and model at every token that counts, as the document stands.
///
/// The block sees the streams of token `t` and the next token, and foretells token `t + 2`; so does the model at
/// token `t + 1`.
fn read(reader: &Reader<'_>, document: &Document) -> Result<Found, EvalError> {
    let tokens = &document.tokens;
    let mut found = Found::default();
    // The block's last row of a chunk is about what the model says first of the next one.
    let mut draft: Option<Vec<f32>> = None;
    reader.read(tokens, LogitRows::All, None, &mut |rows, state| {
        let block = drafts(reader, tokens, &rows, state, &mut Ctx::new(reader.compute))?;
        let drafts = block.iter().flat_map(|block| block.view().iter());
        let drafts = draft.as_deref().into_iter().chain(drafts);
        // Without a row from the chunk before, the first model row has no draft of its own.
        let skipped = usize::from(draft.is_none());
        for ((place, logits), draft) in
            (rows.first + 1..).zip(rows.logits.view().iter()).skip(skipped).zip(drafts)
        {
            if document.trained.get(place).copied().unwrap_or(false) {
                found.compare(draft, logits, tokens[place]);
            }
        }
        draft = block.and_then(|block| block.view().iter().last().map(<[f32]>::to_vec));
        Ok(())
    })?;
    Ok(found)
}

/// The block's logits for those rows of a document that have a next token; nothing without such a row, or without the
/// block.
pub(crate) fn drafts(
    reader: &Reader<'_>,
    tokens: &[TokenId],
    rows: &Rows<'_>,
    state: &mut SequenceState,
    ctx: &mut Ctx<'_>,
) -> Result<Option<Lent>, EvalError> {
    let next = tokens.get(rows.first + 1..).unwrap_or_default();
    let n = rows.streams.rows().min(next.len());
    let Some(mtp) = reader.model.mtp().filter(|_| n > 0) else { return Ok(None) };
    let (logits, _) = mtp.forward(reader.model, &first_rows(rows.streams, n), &next[..n], state, ctx)?;
    Ok(Some(logits))
}

impl Found {
    /// One token: what the block and the model say of it, and what it is.
    fn compare(&mut self, draft: &[f32], logits: &[f32], token: TokenId) {
        let (drafted, said) = (argmax(draft), argmax(logits));
        self.agrees.add(drafted == said);
        self.right.add(drafted == token);
        self.model_right.add(said == token);
        let (of_draft, of_logits) = (log_sum_exp(draft), log_sum_exp(logits));
        let common = draft
            .iter()
            .zip(logits)
            .map(|(&q, &p)| (f64::from(q) - of_draft).min(f64::from(p) - of_logits).exp());
        self.common += common.sum::<f64>();
    }

    fn with(self, other: Self) -> Self {
        Self {
            agrees: self.agrees.with(other.agrees),
            right: self.right.with(other.right),
            model_right: self.model_right.with(other.model_right),
            common: self.common + other.common,
            accepted: self.accepted.with(other.accepted),
            tokens: self.tokens + other.tokens,
            calls: self.calls + other.calls,
            identical: self.identical.with(other.identical),
        }
    }
}

fn row(name: &str, found: impl Iterator<Item = Found>) -> Row {
    let found = found.fold(Found::default(), Found::with);
    Row::new()
        .named("text", name)
        .with("agrees", Cell::Share(found.agrees))
        .with("draft right", Cell::Share(found.right))
        .with("model right", Cell::Share(found.model_right))
        .with("common", Cell::Number(found.common / found.agrees.of as f64, 3))
        .with("accepted", Cell::Share(found.accepted))
        .with("tokens per call", Cell::Number(found.tokens as f64 / found.calls as f64, 3))
        .with("identical", Cell::Share(found.identical))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(trained: &[bool]) -> Document {
        Document { tokens: vec![TokenId(0); trained.len()], trained: trained.to_vec() }
    }

    #[test]
    fn the_prompt_ends_before_the_last_answer_or_within_a_text() {
        assert_eq!(prompt_len(&document(&[false, false, true, false, false, true, true])), 5);
        assert_eq!(prompt_len(&document(&[false, true, true, true])), 2);
        assert_eq!(prompt_len(&document(&[vec![false], vec![true; 500]].concat())), TEXT_PROMPT_TOKENS);
    }

    #[test]
    fn what_two_distributions_have_in_common_is_one_if_they_are_equal_and_none_if_they_are_apart() {
        let mut found = Found::default();
        found.compare(&[1.0, 2.0, 3.0], &[5.0, 6.0, 7.0], TokenId(2));
        assert!((found.common - 1.0).abs() < 1e-9);
        found.compare(&[80.0, 0.0, 0.0], &[0.0, 80.0, 0.0], TokenId(1));
        assert!((found.common - 1.0).abs() < 1e-9);
        assert_eq!(found.agrees, Share { count: 1, of: 2 });
        assert_eq!((found.right.count, found.model_right.count), (1, 2));
    }
}
