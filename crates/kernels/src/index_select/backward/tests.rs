use cuvier_tensor::Matrix;

use super::*;
use crate::testing::{assert_gradient, differences, drawn, everywhere, scalar, wide};

const RATIO: usize = 4;
const PER_TOKEN: f32 = 0.7;

struct Case {
    q: Matrix,
    w: Matrix,
    keys: Matrix,
    sequences: Vec<WholeSequence>,
    selection: Selection,
    mass: Matrix,
}

impl Case {
    /// Sequences of these lengths, a row of no sequence behind each. Every fourth list keeps all visible entries, the
    /// others leave some out; some entries got nothing from attention.
    fn drawn(heads: usize, dim: usize, lengths: &[usize]) -> Self {
        let (mut sequences, mut selection, mut entries) = (Vec::new(), Selection::default(), 0);
        for &len in lengths {
            let start = selection.tokens();
            for t in 0..len {
                let visible = 0..((t + 1) / RATIO) as u32;
                let kept = |j: &u32| t % 4 == 3 || !(*j as usize * 7 + t).is_multiple_of(3);
                selection.push(&visible.filter(kept).collect::<Vec<_>>());
            }
            selection.push(&[]);
            sequences
                .push(WholeSequence { tokens: start..start + len, entries: entries..entries + len / RATIO });
            entries += len / RATIO;
        }
        let tokens = selection.tokens();
        let most = (0..tokens).map(|t| selection.of(t).len()).max().unwrap_or(0);
        let mut mass = drawn(tokens, most + 1, 4);
        mass.data_mut().iter_mut().for_each(|x| *x = (*x + 0.7).max(0.0));
        Self {
            q: drawn(tokens, heads * dim, 1),
            w: drawn(tokens, heads, 2),
            keys: drawn(entries, dim, 3),
            sequences,
            selection,
            mass,
        }
    }

    fn run(&self, c: &Compute) -> IndexGradients {
        let Self { q, w, keys, sequences, selection, mass } = self;
        let (q, w, keys) = (q.view(), w.view(), keys.view());
        index_backward(c, q, w, keys, sequences, selection, mass.view(), PER_TOKEN)
    }

    /// The loss of the token in row `row` of the sequence whose keys are given.
    fn loss(&self, row: usize, q: &[f64], w: &[f64], keys: &[f64]) -> f64 {
        let (dim, list) = (self.keys.cols(), self.selection.of(row));
        let mass = &wide(self.mass.row(row))[..list.len()];
        let total: f64 = mass.iter().sum();
        if total == 0.0 {
            return 0.0;
        }
        let score = |entry: u32| -> f64 {
            let key = &keys[entry as usize * dim..][..dim];
            let dot = |q: &[f64]| q.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
            q.chunks_exact(dim).zip(w).map(|(q, w)| w * dot(q).max(0.0)).sum()
        };
        let scores: Vec<f64> = list.iter().map(|&entry| score(entry)).collect();
        let log_sum = scores.iter().map(|score| score.exp()).sum::<f64>().ln();
        let terms = mass.iter().map(|mass| mass / total).zip(&scores);
        terms.filter(|(p, _)| *p > 0.0).map(|(p, score)| p * (p.ln() - (score - log_sum))).sum()
    }

    fn keys_of(&self, sequence: &WholeSequence) -> &[f32] {
        let dim = self.keys.cols();
        &self.keys.data()[sequence.entries.start * dim..sequence.entries.end * dim]
    }
}

fn all(found: &IndexGradients) -> Vec<f32> {
    [&found.losses, found.q.data(), found.w.data(), found.keys.data()].concat()
}

fn check(heads: usize, dim: usize, lengths: &[usize]) {
    let case = Case::drawn(heads, dim, lengths);
    everywhere(|c| all(&case.run(c)));
    let found = case.run(&scalar());
    let tokens = case.q.rows();
    let mut losses = vec![0.0; tokens];
    let (mut dq, mut dw) = (vec![0.0; tokens * heads * dim], vec![0.0; tokens * heads]);
    let mut dkeys = Vec::new();
    let factor = f64::from(PER_TOKEN);
    for sequence in &case.sequences {
        let keys = case.keys_of(sequence);
        let wide_keys = wide(keys);
        for row in sequence.tokens.clone() {
            let (q, w) = (case.q.row(row), case.w.row(row));
            let [wide_q, wide_w] = [q, w].map(wide);
            losses[row] = case.loss(row, &wide_q, &wide_w, &wide_keys);
            let of_q = differences(q, |q| factor * case.loss(row, q, &wide_w, &wide_keys));
            let of_w = differences(w, |w| factor * case.loss(row, &wide_q, w, &wide_keys));
            dq[row * heads * dim..][..heads * dim].copy_from_slice(&of_q);
            dw[row * heads..][..heads].copy_from_slice(&of_w);
        }
        let tokens = || sequence.tokens.clone();
        let wide_rows: Vec<_> = tokens().map(|row| (wide(case.q.row(row)), wide(case.w.row(row)))).collect();
        let of_all = |keys: &[f64]| -> f64 {
            let rows = tokens().zip(&wide_rows);
            factor * rows.map(|(row, (q, w))| case.loss(row, q, w, keys)).sum::<f64>()
        };
        dkeys.extend(differences(keys, of_all));
    }
    let what = format!("{heads} heads of {dim}, {lengths:?} tokens");
    assert_gradient(&found.losses, &losses, &format!("losses, {what}"));
    assert_gradient(found.q.data(), &dq, &format!("queries, {what}"));
    assert_gradient(found.w.data(), &dw, &format!("weights, {what}"));
    assert_gradient(found.keys.data(), &dkeys, &format!("keys, {what}"));
}

#[test]
fn losses_and_gradients_are_those_of_the_formula_for_all_shapes() {
    for heads in [1, 2, 3, 5] {
        for dim in [1, 3, 16, 17, 33] {
            check(heads, dim, &[3, 13, 22]);
        }
    }
}

#[test]
fn keys_gather_the_gradients_of_all_tokens_of_their_sequence_piece_by_piece() {
    check(2, 5, &[150, 70]);
    // So long that the pieces grow.
    let case = Case::drawn(2, 5, &[1100]);
    everywhere(|c| all(&case.run(c)));
}

/// One token that looks at two entries with one head: its scores are `w * relu(q . key)`.
fn two_entries(q: f32, w: f32, keys: [f32; 2], mass: [f32; 2]) -> IndexGradients {
    let mut selection = Selection::default();
    selection.push(&[0, 1]);
    let case = Case {
        q: Matrix::from_vec(vec![q], 1),
        w: Matrix::from_vec(vec![w], 1),
        keys: Matrix::from_vec(keys.to_vec(), 1),
        sequences: vec![WholeSequence { tokens: 0..1, entries: 0..2 }],
        selection,
        mass: Matrix::from_vec(mass.to_vec(), 2),
    };
    case.run(&scalar())
}

#[test]
fn the_loss_is_the_divergence_of_the_shares_in_nats_and_nothing_where_they_agree() {
    // Scores ln 3 and 0 give shares of three quarters and one.
    let agreeing = two_entries(1.0, 3f32.ln(), [1.0, 0.0], [6.0, 2.0]);
    assert!(agreeing.losses[0].abs() < 1e-6 && agreeing.w.data()[0].abs() < 1e-6, "{agreeing:?}");
    let all_on_one = two_entries(1.0, 3f32.ln(), [1.0, 0.0], [0.0, 2.0]);
    assert!((all_on_one.losses[0] - 4f32.ln()).abs() < 1e-6, "{all_on_one:?}");
}

#[test]
fn no_gradient_passes_a_head_that_is_off() {
    let found = two_entries(1.0, 2.0, [-1.0, 3.0], [1.0, 1.0]);
    assert_eq!(found.keys.data()[0], 0.0, "its product is negative");
    assert!(found.keys.data()[1] != 0.0);
    let off = two_entries(-1.0, 2.0, [1.0, 3.0], [1.0, 3.0]);
    assert!(off.losses[0] > 0.0);
    assert_eq!([off.q.data()[0], off.w.data()[0], off.keys.data()[0], off.keys.data()[1]], [0.0; 4]);
}

#[test]
fn a_token_whose_entries_got_nothing_from_attention_has_no_loss() {
    let found = two_entries(1.0, 2.0, [1.0, 3.0], [0.0, 0.0]);
    assert_eq!(all(&found), [0.0; 5]);
}
