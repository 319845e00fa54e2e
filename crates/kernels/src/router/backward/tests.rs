use super::*;
use crate::router::reference;
use crate::testing::{assert_gradient, differences, drawn, everywhere, scalar, uniform, wide};
use crate::{route_by_hash, route_by_score};

const FACTOR: f32 = 2.5;

fn drawn_logits(rows: usize, experts: usize) -> Matrix {
    Matrix::from_vec(uniform(rows * experts, 1).iter().map(|x| x * 6.0).collect(), experts)
}

/// `sqrt(softplus(z))`.
fn score(z: f64) -> f64 {
    (z.max(0.0) + (-z.abs()).exp().ln_1p()).sqrt()
}

/// `dweights . weights` of one token whose experts are given.
fn loss_of_routing(logits: &[f64], ids: &[u16], dweights: &[f32]) -> f64 {
    let scores: Vec<f64> = ids.iter().map(|&id| score(logits[usize::from(id)])).collect();
    let sum: f64 = scores.iter().sum();
    let weights = scores.iter().map(|score| f64::from(FACTOR) * score / sum);
    weights.zip(dweights).map(|(weight, &d)| weight * f64::from(d)).sum()
}

fn route_gradient(c: &Compute, logits: &Matrix, routing: &Routing, dweights: &Matrix) -> Vec<f32> {
    let mut dlogits = Matrix::from_vec(vec![0.125; logits.data().len()], logits.cols());
    route_backward(c, logits.view(), routing, FACTOR, dweights, dlogits.view_mut());
    dlogits.into_vec()
}

fn check_routing(logits: &Matrix, routing: &Routing) {
    let rows = logits.rows();
    let dweights = drawn(rows, routing.ids.cols(), 3);
    let got = everywhere(|c| route_gradient(c, logits, routing, &dweights));
    let of_row = |row: usize| {
        differences(logits.row(row), |z| loss_of_routing(z, routing.ids.row(row), dweights.row(row)))
    };
    let exact: Vec<f64> = (0..rows).flat_map(of_row).map(|d| d + 0.125).collect();
    assert_gradient(&got, &exact, &format!("logits, {} of {}", routing.ids.cols(), logits.cols()));
    // Without what was there before, so that it hides nothing.
    let got: Vec<f32> = got.iter().map(|d| d - 0.125).collect();
    let exact: Vec<f64> = exact.iter().map(|d| d - 0.125).collect();
    if routing.ids.cols() > 1 {
        assert_gradient(&got, &exact, "logits alone");
    }
}

#[test]
fn gradients_of_logits_are_those_of_the_formula_for_the_chosen_experts() {
    for (experts, k, rows) in
        [(1, 1, 3), (2, 2, 3), (8, 1, 5), (15, 3, 5), (16, 4, 40), (33, 33, 5), (33, 6, 300)]
    {
        let (logits, bias) = (drawn_logits(rows, experts), uniform(experts, 2));
        check_routing(&logits, &route_by_score(&scalar(), logits.view(), &bias, k, FACTOR));
    }
}

#[test]
fn gradients_of_logits_are_those_of_the_formula_where_a_table_chose() {
    let tid2eid = Matrix::from_vec(vec![7, 0, 3, 1, 2, 6, 5, 4, 0], 3);
    let logits = drawn_logits(4, 8);
    check_routing(&logits, &route_by_hash(&scalar(), logits.view(), &tid2eid, &[2, 0, 0, 1], FACTOR));
}

#[test]
fn the_weight_of_one_expert_reaches_the_logits_of_the_others_through_their_common_sum() {
    let logits = Matrix::from_vec(vec![1.0, 2.0, 0.5, -1.0], 4);
    let routing = route_by_score(&scalar(), logits.view(), &[0.0; 4], 3, FACTOR);
    assert_eq!(routing.ids.data(), [0, 1, 2]);
    let got = route_gradient(&scalar(), &logits, &routing, &Matrix::from_vec(vec![1.0, 0.0, 0.0], 3));
    let got: Vec<f32> = got.iter().map(|d| d - 0.125).collect();
    assert!(got[0] > 0.01 && got[1] < -0.01 && got[2] < -0.01, "{got:?}");
    assert_eq!(got[3], 0.0, "an expert that was not chosen is not in the sum");
}

#[test]
fn a_bias_that_changes_no_choice_changes_neither_weights_nor_gradients() {
    let (logits, bias, dweights) = (drawn_logits(40, 16), uniform(16, 2), drawn(40, 4, 3));
    let routed = |bias: &[f32]| {
        let routing = route_by_score(&scalar(), logits.view(), bias, 4, FACTOR);
        let gradient = route_gradient(&scalar(), &logits, &routing, &dweights);
        (routing, gradient)
    };
    let gaps = logits.view().iter().map(|logits| reference::select(logits, &bias, 4).1);
    let gap = gaps.fold(f64::MAX, f64::min) as f32;
    let moved: Vec<f32> = bias.iter().zip(uniform(16, 4)).map(|(b, x)| b + 0.4 * gap * x).collect();
    assert_ne!(bias, moved);
    assert_eq!(routed(&bias), routed(&moved));
    assert_ne!(routed(&bias), routed(&[0.0; 16]), "this bias does change choices");
}

/// `f_i` of one sequence.
fn loads(logits: &Matrix, rows: Range<usize>, k: usize) -> Vec<f64> {
    let experts = logits.cols();
    let mut loads = vec![0.0; experts];
    for row in rows.clone() {
        let (ids, gap) = reference::select(logits.row(row), &vec![0.0; experts], k);
        assert!(gap > 1e-4, "draw other numbers: {gap:e}");
        for id in ids {
            loads[usize::from(id)] += experts as f64 / (k * rows.len()) as f64;
        }
    }
    loads
}

/// `sum of f_i P_i` of one sequence with its loads given.
fn balance(logits: &[f64], loads: &[f64]) -> f64 {
    let rows = logits.chunks_exact(loads.len());
    let n_tokens = rows.len() as f64;
    let of_row = |row: &[f64]| -> f64 {
        let sum: f64 = row.iter().map(|&z| score(z)).sum();
        row.iter().zip(loads).map(|(&z, load)| load * score(z) / sum).sum()
    };
    rows.map(of_row).sum::<f64>() / n_tokens
}

/// The losses, then the gradient.
fn balance_gradient(
    c: &Compute,
    logits: &Matrix,
    sequences: &[Range<usize>],
    k: usize,
    weights: &[f32],
) -> Vec<f32> {
    let mut dlogits = Matrix::zeros(logits.rows(), logits.cols());
    let losses = balance_backward(c, logits.view(), sequences, k, weights, dlogits.view_mut());
    [losses, dlogits.into_vec()].concat()
}

#[test]
fn gradients_of_the_balance_loss_are_those_of_the_formula_with_its_counts_held() {
    for (experts, k) in [(2, 1), (8, 2), (16, 4), (33, 6)] {
        // The rows 5 and 6 belong to no sequence.
        let sequences = [0..1, 1..5, 7..30];
        let (logits, weights) = (drawn_logits(30, experts), [1.0, -0.5, 3.0]);
        let got = everywhere(|c| balance_gradient(c, &logits, &sequences, k, &weights));
        let (losses, dlogits) = got.split_at(3);
        let mut exact = vec![0.0; 30 * experts];
        let mut exact_losses = Vec::new();
        for (rows, weight) in sequences.iter().zip(weights) {
            let loads = loads(&logits, rows.clone(), k);
            let numbers = rows.start * experts..rows.end * experts;
            let own = &logits.data()[numbers.clone()];
            exact_losses.push(balance(&wide(own), &loads));
            let of = differences(own, |z| f64::from(weight) * balance(z, &loads));
            exact[numbers].copy_from_slice(&of);
        }
        assert_gradient(losses, &exact_losses, "balance");
        assert_gradient(dlogits, &exact, &format!("logits, {k} of {experts}"));
        assert!(dlogits[5 * experts..7 * experts].iter().all(|&d| d == 0.0), "rows of no sequence");
    }
}

#[test]
fn the_balance_loss_is_one_at_perfect_balance_and_experts_over_k_when_all_go_to_k() {
    let (experts, k) = (6, 2);
    let all = 0..experts;
    let loss_of = |logits: Vec<f32>| {
        let logits = Matrix::from_vec(logits, experts);
        balance_gradient(&scalar(), &logits, std::slice::from_ref(&all), k, &[1.0])[0]
    };
    // Token t likes the experts t and t + 1: every expert gets the same from all tokens together.
    let cyclic = (0..experts * experts)
        .map(|i| if (i % experts + experts - i / experts) % experts < k { 2.0 } else { -1.0 });
    let loss = loss_of(cyclic.collect());
    assert!((loss - 1.0).abs() < 1e-6, "{loss}");
    let same = (0..experts * experts).map(|i| if i % experts < k { 60.0 } else { -60.0 });
    let loss = loss_of(same.collect());
    assert!((loss - 3.0).abs() < 1e-5, "{loss}");
}

#[test]
fn a_score_that_vanishes_has_no_slope_rather_than_an_infinite_one() {
    let logits = Matrix::from_vec(vec![-200.0, -90.0, 1.0, f32::MIN], 4);
    let routing = route_by_score(&scalar(), logits.view(), &[9.0, 9.0, 0.0, 0.0], 3, FACTOR);
    let got = route_gradient(&scalar(), &logits, &routing, &Matrix::from_vec(vec![1.0, -1.0, 0.5], 3));
    assert!(got.iter().all(|d| d.is_finite()), "{got:?}");
}
