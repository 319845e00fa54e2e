use super::*;
use crate::Selection;
use crate::testing::{
    assert_gradient, differences, differences_of, drawn, everywhere, scalar, uniform, wide,
};

/// What tokens look at beside the window.
#[derive(Clone, Copy, Debug)]
enum Past {
    Nothing,
    All(usize),
    Selected(usize),
}

struct Case {
    q: Matrix,
    kv: Matrix,
    entries: Matrix,
    dout: Matrix,
    attn_sink: Vec<f32>,
    sequences: Vec<WholeSequence>,
    selection: Selection,
    past: Past,
    sliding_window: usize,
    dim: usize,
}

impl Case {
    /// Sequences of these lengths, a row of no sequence behind each.
    fn drawn(heads: usize, dim: usize, sliding_window: usize, past: Past, lengths: &[usize]) -> Self {
        let ratio = match past {
            Past::Nothing => usize::MAX,
            Past::All(ratio) | Past::Selected(ratio) => ratio,
        };
        let (mut sequences, mut selection, mut entries) = (Vec::new(), Selection::default(), 0);
        for &len in lengths {
            let start = selection.tokens();
            for t in 0..len {
                let visible = 0..((t + 1) / ratio) as u32;
                selection
                    .push(&visible.filter(|&j| !(j as usize * 7 + t).is_multiple_of(3)).collect::<Vec<_>>());
            }
            selection.push(&[]);
            sequences
                .push(WholeSequence { tokens: start..start + len, entries: entries..entries + len / ratio });
            entries += len / ratio;
        }
        let tokens = selection.tokens();
        let mut q = drawn(tokens, heads * dim, 1);
        q.data_mut().iter_mut().for_each(|x| *x *= 3.0);
        Self {
            q,
            kv: drawn(tokens, dim, 2),
            entries: drawn(entries, dim, 3),
            dout: drawn(tokens, heads * dim, 4),
            attn_sink: uniform(heads, 5),
            sequences,
            selection,
            past,
            sliding_window,
            dim,
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn run(&self, c: &Compute) -> AttentionGradients {
        let config = AttentionBackwardConfig {
            attn_sink: &self.attn_sink,
            head_dim: self.dim,
            sliding_window: self.sliding_window,
            scale: self.scale(),
        };
        let choice = match self.past {
            Past::Nothing => Entries::None,
            Past::All(ratio) => Entries::All { ratio },
            Past::Selected(_) => Entries::Selected(&self.selection),
        };
        let (q, kv, entries) = (self.q.view(), self.kv.view(), self.entries.view());
        attention_backward(c, q, kv, entries, &self.sequences, choice, &config, self.dout.view())
    }

    /// What the token at position `t` of a sequence looks at, as the rules say: rows of the keys, then of entries
    /// behind them.
    fn list(&self, sequence: &WholeSequence, t: usize) -> Vec<usize> {
        let WholeSequence { tokens, entries } = sequence;
        let window = (0..=t).filter(|p| t - p < self.sliding_window).map(|p| tokens.start + p);
        let first = self.kv.rows() + entries.start;
        let entries: Vec<usize> = match self.past {
            Past::Nothing => Vec::new(),
            Past::All(ratio) => (0..entries.len()).filter(|j| ratio * (j + 1) <= t + 1).collect(),
            Past::Selected(_) => self.selection.of(tokens.start + t).iter().map(|&j| j as usize).collect(),
        };
        window.chain(entries.into_iter().map(|j| first + j)).collect()
    }

    /// Per row of the batch its list; none outside of sequences.
    fn lists(&self) -> Vec<Vec<usize>> {
        let mut lists = vec![Vec::new(); self.q.rows()];
        for sequence in &self.sequences {
            for (t, row) in sequence.tokens.clone().enumerate() {
                lists[row] = self.list(sequence, t);
            }
        }
        lists
    }

    /// Keys, entries behind them.
    fn keys(&self) -> Vec<f32> {
        [self.kv.data(), self.entries.data()].concat()
    }

    /// The probabilities of one head, and its output.
    fn head(&self, q: &[f64], list: &[usize], keys: &[f64], sink: f64) -> (Vec<f64>, Vec<f64>) {
        let key = |&row: &usize| &keys[row * self.dim..][..self.dim];
        let scale = f64::from(self.scale());
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let scores: Vec<f64> = list.iter().map(|row| scale * dot(q, key(row))).collect();
        let max = scores.iter().copied().fold(sink, f64::max);
        let sum = scores.iter().map(|s| (s - max).exp()).sum::<f64>() + (sink - max).exp();
        let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
        let out = (0..self.dim).map(|d| p.iter().zip(list).map(|(p, row)| p * key(row)[d]).sum()).collect();
        (p, out)
    }

    /// `dout . out` of the token in row `row`.
    fn loss(&self, row: usize, q: &[f64], list: &[usize], keys: &[f64], sinks: &[f64]) -> f64 {
        let heads = q.chunks_exact(self.dim).zip(self.dout.row(row).chunks_exact(self.dim)).zip(sinks);
        let of_head = |((q, dout), &sink): ((&[f64], &[f32]), &f64)| -> f64 {
            let (_, out) = self.head(q, list, keys, sink);
            out.iter().zip(dout).map(|(out, &d)| out * f64::from(d)).sum()
        };
        heads.map(of_head).sum()
    }
}

fn all(found: &AttentionGradients) -> Vec<f32> {
    let AttentionGradients { out, q, kv, entries, attn_sink, entry_mass } = found;
    [out.data(), q.data(), kv.data(), entries.data(), attn_sink, entry_mass.data()].concat()
}

fn check(case: &Case) {
    everywhere(|c| all(&case.run(c)));
    let found = case.run(&scalar());
    let what = format!(
        "{} heads of {}, window {}, {:?}, {:?}",
        case.attn_sink.len(),
        case.dim,
        case.sliding_window,
        case.past,
        case.sequences.iter().map(|s| s.tokens.len()).collect::<Vec<_>>()
    );
    check_forward(case, &found, &what);
    let (lists, keys, sinks) = (case.lists(), case.keys(), wide(&case.attn_sink));
    let wide_keys = wide(&keys);
    let of_row =
        |row: usize| differences(case.q.row(row), |q| case.loss(row, q, &lists[row], &wide_keys, &sinks));
    let dq: Vec<f64> = (0..case.q.rows()).flat_map(of_row).collect();
    assert_gradient(found.q.data(), &dq, &format!("queries, {what}"));

    let rows: Vec<Vec<f64>> = case.q.view().iter().map(wide).collect();
    let of_key = |key: usize| {
        let seen_by: Vec<usize> = (0..rows.len()).filter(|&row| lists[row].contains(&key)).collect();
        let loss = |keys: &[f64]| {
            seen_by.iter().map(|&row| case.loss(row, &rows[row], &lists[row], keys, &sinks)).sum()
        };
        differences_of(&keys, key * case.dim..(key + 1) * case.dim, loss)
    };
    let n_tokens = case.kv.rows();
    let dkv: Vec<f64> = (0..n_tokens).flat_map(of_key).collect();
    assert_gradient(found.kv.data(), &dkv, &format!("keys, {what}"));
    let dentries: Vec<f64> = (n_tokens..n_tokens + case.entries.rows()).flat_map(of_key).collect();
    assert_gradient(found.entries.data(), &dentries, &format!("entries, {what}"));

    let of_sinks = |sinks: &[f64]| {
        rows.iter()
            .zip(&lists)
            .enumerate()
            .map(|(row, (q, list))| case.loss(row, q, list, &wide_keys, sinks))
            .sum()
    };
    let dsinks = differences(&case.attn_sink, of_sinks);
    assert_gradient(&found.attn_sink, &dsinks, &format!("sinks, {what}"));
}

/// The output and the mass of entries.
fn check_forward(case: &Case, found: &AttentionGradients, what: &str) {
    let (lists, keys) = (case.lists(), wide(&case.keys()));
    let (mut out, mut mass) = (Vec::new(), vec![0.0; found.entry_mass.data().len()]);
    for (row, list) in lists.iter().enumerate() {
        let n_window = list.iter().filter(|&&key| key < case.kv.rows()).count();
        for (q, &sink) in case.q.row(row).chunks_exact(case.dim).zip(&case.attn_sink) {
            let (p, of_head) = case.head(&wide(q), list, &keys, f64::from(sink));
            out.extend(of_head);
            let mass = &mut mass[row * found.entry_mass.cols()..];
            mass.iter_mut().zip(&p[n_window..]).for_each(|(mass, p)| *mass += p);
        }
    }
    assert_gradient(found.out.data(), &out, &format!("output, {what}"));
    assert_gradient(found.entry_mass.data(), &mass, &format!("mass, {what}"));
}

#[test]
fn gradients_are_those_of_the_formula_for_every_length_of_a_head() {
    for dim in [1, 2, 3, 15, 16, 17, 33] {
        check(&Case::drawn(3, dim, 5, Past::All(4), &[3, 14]));
    }
}

#[test]
fn gradients_are_those_of_the_formula_for_every_number_of_heads() {
    for heads in [1, 2, 3, 4, 5, 9] {
        check(&Case::drawn(heads, 6, 8, Past::Selected(4), &[1, 22, 9]));
    }
}

#[test]
fn gradients_are_those_of_the_formula_in_windows_shorter_and_longer_than_the_sequence() {
    for sliding_window in [1, 2, 7, 200] {
        for past in [Past::Nothing, Past::All(4), Past::Selected(2)] {
            check(&Case::drawn(2, 5, sliding_window, past, &[1, 7, 20]));
        }
    }
}

#[test]
fn gradients_are_those_of_the_formula_with_sinks_that_take_nearly_all_and_nearly_nothing() {
    for sinks in [[-60.0, -61.0, -62.0], [-3.0, -2.0, -1.0], [8.0, 8.5, 9.0], [-60.0, 40.0, 0.0]] {
        let mut case = Case::drawn(3, 5, 4, Past::All(4), &[5, 18]);
        case.attn_sink = sinks.to_vec();
        check(&case);
    }
}

#[test]
fn a_sink_that_takes_everything_leaves_no_gradient_to_anything() {
    let mut case = Case::drawn(2, 5, 4, Past::All(4), &[18]);
    case.attn_sink.fill(1000.0);
    assert!(all(&case.run(&scalar())).iter().all(|d| d.abs() < 1e-30));
    case.attn_sink.fill(-1000.0);
    assert!(case.run(&scalar()).attn_sink.iter().all(|d| d.abs() < 1e-30));
}

#[test]
fn keys_gather_the_gradients_of_all_tokens_that_see_them_piece_by_piece() {
    check(&Case::drawn(2, 3, 16, Past::Selected(4), &[100, 70]));
    check(&Case::drawn(2, 2, 20, Past::All(128), &[300]));
    // So long that the pieces grow.
    let case = Case::drawn(2, 5, 40, Past::All(4), &[1100]);
    everywhere(|c| all(&case.run(c)));
}

#[test]
fn rows_of_no_sequence_have_no_gradient() {
    let case = Case::drawn(2, 5, 4, Past::All(4), &[6, 5]);
    let found = case.run(&scalar());
    for row in [6, 12] {
        let parts = [found.out.row(row), found.q.row(row), found.kv.row(row)];
        assert!(parts.concat().iter().all(|&d| d == 0.0), "row {row}");
    }
}

/// Whether what a token's row has in common with no other is the same in both.
fn same_row(a: &AttentionGradients, b: &AttentionGradients, row: usize) -> bool {
    a.out.row(row) == b.out.row(row) && a.q.row(row) == b.q.row(row)
}

#[test]
fn a_key_is_used_by_its_own_token_and_the_rest_of_the_window_and_no_other() {
    let case = Case::drawn(2, 5, 3, Past::Nothing, &[9]);
    let found = case.run(&scalar());
    for key in 0..9 {
        let mut other = Case::drawn(2, 5, 3, Past::Nothing, &[9]);
        other.kv.row_mut(key).fill(2.0);
        let other = other.run(&scalar());
        for row in 0..9 {
            let is_used = (key..key + 3).contains(&row);
            assert_eq!(!same_row(&found, &other, row), is_used, "key {key}, token {row}");
        }
    }
}

#[test]
fn an_entry_is_used_from_the_last_token_of_its_block_on_and_not_before() {
    for ratio in [1, 4, 128] {
        let len = 2 * ratio + ratio / 2 + 1;
        let found = Case::drawn(1, 5, 3, Past::All(ratio), &[len]).run(&scalar());
        for entry in 0..len / ratio {
            let mut other = Case::drawn(1, 5, 3, Past::All(ratio), &[len]);
            other.entries.row_mut(entry).fill(2.0);
            let other = other.run(&scalar());
            for row in 0..len {
                let is_used = entry < (row + 1) / ratio;
                assert_eq!(!same_row(&found, &other, row), is_used, "entry {entry}, token {row}");
            }
        }
    }
}
