use super::*;
use crate::testing::{Fixture, U, assert_within, everywhere, scalar, uniform};

/// A score is off by three units in the last place, six roundings, both above and below the quotient; the k - 1
/// additions, the eps, the quotient and the product round. Two for second order.
fn bound(k: usize) -> f64 {
    (k + 16) as f64 * U
}

/// The same routing on every instruction set and number of threads.
fn routed(operation: impl Fn(&Compute) -> Routing) -> Routing {
    everywhere(|c| {
        let routing = operation(c);
        let ids = routing.ids.data().iter().copied().map(f32::from);
        ids.chain(routing.weights.data().iter().copied()).collect()
    });
    operation(&scalar())
}

fn one_row(logits: &[f32], bias: &[f32], k: usize) -> Routing {
    route_by_score(&scalar(), MatRef::new(logits, 1, logits.len()), bias, k, 1.0)
}

fn check_weights(routing: &Routing, logits: &Matrix, factor: f32) {
    for row in 0..logits.rows() {
        let ids = routing.ids.row(row);
        assert!(ids.is_sorted(), "{ids:?}");
        let exact = reference::weights(logits.row(row), ids, factor);
        assert_within(
            routing.weights.row(row),
            exact.into_iter().map(|e| (e, bound(ids.len()) * e + 1e-24)),
            "weights",
        );
    }
}

/// The scores of some logits.
struct Scores<'a>(&'a [f32], &'a mut [f32]);

impl Vectorized for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (z, out) in self.0.chunks(LANES).zip(self.1.chunks_mut(LANES)) {
            s.store_partial(score(s, s.load_partial(z, 0.0)), out);
        }
    }
}

#[test]
fn a_score_is_within_three_units_in_the_last_place_and_falls_to_zero() {
    let logits: Vec<f32> = (-8700..20_000).map(|i| i as f32 / 100.0).collect();
    let got = everywhere(|c| {
        let mut scores = vec![0.0; logits.len()];
        c.isa().dispatch(Scores(&logits, &mut scores));
        scores
    });
    let exact = logits.iter().map(|&z| (reference::score(z), 6.0 * U * reference::score(z)));
    assert_within(&got, exact, "scores");
    let mut ends = [0.0; 4];
    scalar().isa().dispatch(Scores(&[-88.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN], &mut ends));
    assert_eq!(ends[..3], [0.0, 0.0, f32::INFINITY]);
    assert!(ends[3].is_nan());
}

#[test]
fn the_largest_biased_scores_are_chosen_and_weighed_without_bias() {
    for (experts, k) in [(1, 1), (8, 1), (16, 4), (33, 33), (256, 6), (384, 8)] {
        let rows = 40;
        let logits: Vec<f32> = uniform(rows * experts, 1).iter().map(|x| x * 6.0).collect();
        let logits = Matrix::from_vec(logits, experts);
        let bias: Vec<f32> = uniform(experts, 2).iter().map(|x| x * 0.3).collect();
        let routing = routed(|c| route_by_score(c, logits.view(), &bias, k, 2.5));
        for row in 0..rows {
            let (ids, gap) = reference::select(logits.row(row), &bias, k);
            // Key and score round to f32: a smaller gap would leave the choice open.
            assert!(gap > 1e-6, "draw other numbers: {gap:e}");
            assert_eq!(routing.ids.row(row), ids, "{experts} experts, row {row}");
        }
        check_weights(&routing, &logits, 2.5);
    }
}

#[test]
fn a_bias_chooses_but_does_not_weigh() {
    // Expert 0 has the least score and by far the largest bias.
    let routing = one_row(&[-3.0, 1.0, 2.0, 0.0], &[10.0, 0.0, 0.0, 0.0], 2);
    assert_eq!(routing.ids.data(), [0, 2]);
    let (low, high) = (reference::score(-3.0), reference::score(2.0));
    let exact = [low / (low + high), high / (low + high)];
    assert_within(routing.weights.data(), exact.map(|e| (e, bound(2) * e)), "weights");
    assert!(routing.weights.data()[0] < 0.2);
}

#[test]
fn of_equal_sums_the_lower_expert_is_chosen() {
    assert_eq!(one_row(&[1.0; 40], &[0.0; 40], 3).ids.data(), [0, 1, 2]);
    assert_eq!(one_row(&[0.0, 1.0, 0.0, 1.0, 1.0, 0.0], &[0.0; 6], 4).ids.data(), [0, 1, 3, 4]);
    assert_eq!(one_row(&[0.0, 1.0, 0.0, 1.0, 1.0, 0.0], &[0.0; 6], 2).ids.data(), [1, 3]);
}

#[test]
fn nan_is_chosen_last_and_harms_only_its_own_row() {
    let nan = f32::NAN;
    let routing = one_row(&[nan, 1.0, nan, -50.0], &[0.0; 4], 2);
    assert_eq!(routing.ids.data(), [1, 3]);
    assert!(routing.weights.data().iter().all(|w| w.is_finite()));
    let routing = one_row(&[nan; 4], &[0.0; 4], 2);
    assert_eq!(routing.ids.data(), [0, 1]);
    assert!(routing.weights.data().iter().all(|w| w.is_nan()));
    let logits = Matrix::from_vec(vec![nan, nan, nan, 1.0, 2.0, 3.0], 3);
    let both = route_by_score(&scalar(), logits.view(), &[0.0; 3], 2, 1.0);
    assert_eq!(both.weights.row(1), one_row(logits.row(1), &[0.0; 3], 2).weights.data());
}

#[test]
fn far_logits_neither_overflow_nor_divide_by_zero() {
    let logits = Matrix::from_vec(vec![1000.0, f32::MAX, 20.0, 20.000_002, -1000.0, -90.0], 6);
    let routing = route_by_score(&scalar(), logits.view(), &[0.0; 6], 6, 1.5);
    check_weights(&routing, &logits, 1.5);
    let routing = one_row(&[-4000.0; 5], &[0.0; 5], 2);
    assert_eq!(routing.weights.data(), [0.0, 0.0]);
    assert!(one_row(&[f32::INFINITY, f32::NEG_INFINITY], &[0.0; 2], 1).weights.data()[0].is_nan());
}

#[test]
fn a_token_alone_is_the_token_in_a_batch() {
    let logits = Matrix::from_vec(uniform(300 * 64, 4), 64);
    let bias = uniform(64, 5);
    let batch = routed(|c| route_by_score(c, logits.view(), &bias, 6, 1.5));
    for row in [0, 150, 299] {
        let alone = route_by_score(&scalar(), MatRef::new(logits.row(row), 1, 64), &bias, 6, 1.5);
        assert_eq!(batch.ids.row(row), alone.ids.data());
        assert_eq!(batch.weights.row(row), alone.weights.data());
    }
}

#[test]
fn a_hashed_token_goes_where_the_table_says_in_ascending_order() {
    let tid2eid = Matrix::from_vec(vec![7, 0, 3, 1, 2, 6, 5, 4, 0], 3);
    let logits = Matrix::from_vec(uniform(4 * 8, 6), 8);
    let routing = routed(|c| route_by_hash(c, logits.view(), &tid2eid, &[2, 0, 0, 1], 1.5));
    assert_eq!(routing.ids.data(), [0, 4, 5, 0, 3, 7, 0, 3, 7, 1, 2, 6]);
    check_weights(&routing, &logits, 1.5);
}

/// Logits of a recorded router: 24 tokens, 16 experts.
fn recorded_logits(fixture: &Fixture) -> Matrix {
    let (x, weight) = (fixture.matrix("input"), fixture.matrix("gate.weight"));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let logits = x.view().iter().flat_map(|x| weight.view().iter().map(move |w| dot(x, w) as f32)).collect();
    Matrix::from_vec(logits, weight.rows())
}

/// Checks a routing against the recorded experts and shares, which may stand in another order.
fn check_recorded(routing: &Routing, fixture: &Fixture, logits: &Matrix) {
    let (experts, shares) = (fixture.i32("experts"), fixture.matrix("shares"));
    for (row, experts) in experts.chunks_exact(shares.cols()).enumerate() {
        let mut want: Vec<(i32, f32)> =
            experts.iter().copied().zip(shares.row(row).iter().copied()).collect();
        want.sort_by_key(|&(id, _)| id);
        let ids: Vec<i32> = routing.ids.row(row).iter().map(|&id| i32::from(id)).collect();
        assert_eq!(ids, want.iter().map(|&(id, _)| id).collect::<Vec<_>>(), "row {row}");
        // A score moves relatively by at most half as much as its logit absolutely; the logit rounded once here.
        let largest = logits.row(row).iter().fold(0f32, |a, b| a.max(b.abs()));
        let bound = bound(want.len()) + U * (1.0 + f64::from(largest));
        let exact = want.iter().map(|&(_, share)| (f64::from(share), bound * f64::from(share)));
        assert_within(routing.weights.row(row), exact, "shares");
    }
}

#[test]
fn the_recorded_routers_are_reproduced() {
    let fixture = Fixture::read("router_score");
    let (logits, bias) = (recorded_logits(&fixture), fixture.f32("gate.bias"));
    let routing = routed(|c| route_by_score(c, logits.view(), &bias, 4, 1.5));
    check_recorded(&routing, &fixture, &logits);

    let fixture = Fixture::read("router_hash");
    let logits = recorded_logits(&fixture);
    let table = fixture.i64("gate.tid2eid").into_iter().map(|id| u16::try_from(id).expect("an expert"));
    let table = Matrix::from_vec(table.collect(), 4);
    let tokens: Vec<u32> = fixture.i32("tokens").into_iter().map(i32::cast_unsigned).collect();
    let routing = routed(|c| route_by_hash(c, logits.view(), &table, &tokens, 1.5));
    check_recorded(&routing, &fixture, &logits);
}
