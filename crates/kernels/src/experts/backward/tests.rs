use cuvier_tensor::WeightMatrix;

use super::*;
use crate::gemm::reference::weight;
use crate::gemm::tests::Stored;
use crate::swiglu::reference::swiglu;
use crate::testing::{
    assert_gradient, differences, differences_of, drawn, everywhere, scalar, uniform, wide,
};

const LIMIT: f32 = 1.0;

/// Gradients hold this before anything is added to them.
const BEFORE: f32 = 0.5;

struct Case {
    x: Matrix,
    ids: Matrix<u16>,
    weights: Matrix,
    experts: Vec<ExpertWeights>,
    dout: Matrix,
}

/// `w1`, `w3` and `w2` of an expert.
type Numbers = [Vec<f32>; 3];

impl Case {
    /// Two of four experts for each token, the last of them for none; inputs large enough for clamps.
    fn drawn(stored: Stored, tokens: usize, (dim, inter): (usize, usize)) -> Self {
        let expert = |e: u64| ExpertWeights {
            w1: stored.draw(inter, dim, 10 + e),
            w3: stored.draw(inter, dim, 20 + e),
            w2: stored.draw(dim, inter, 30 + e),
        };
        let x = uniform(tokens * dim, 1).into_iter().map(|x| x * 3.0).collect();
        // Not in ascending order everywhere.
        let ids = (0..tokens).flat_map(|t| [(t * 5 % 3) as u16, ((t * 5 + 1 + t % 2) % 3) as u16]);
        Self {
            x: Matrix::from_vec(x, dim),
            ids: Matrix::from_vec(ids.collect(), 2),
            weights: drawn(tokens, 2, 3),
            experts: (0..4).map(expert).collect(),
            dout: drawn(tokens, dim, 4),
        }
    }

    fn dim(&self) -> usize {
        self.x.cols()
    }

    fn numbers(&self, expert: usize) -> Numbers {
        let ExpertWeights { w1, w3, w2 } = &self.experts[expert];
        [w1, w3, w2]
            .map(|w| (0..w.rows()).flat_map(|r| (0..w.cols()).map(move |i| weight(w, r, i))).collect())
    }

    /// `dout . weight * expert(x)` of one token.
    fn loss_of(&self, x: &[f64], weights: [&[f64]; 3], factor: f64, dout: &[f32]) -> f64 {
        let multiply = |w: &[f64], x: &[f64]| -> Vec<f64> {
            w.chunks_exact(x.len()).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
        };
        let [w1, w3, w2] = weights;
        let (gate, up) = (multiply(w1, x), multiply(w3, x));
        let hidden: Vec<f64> =
            gate.iter().zip(&up).map(|(&g, &u)| factor * swiglu(g, u, f64::from(LIMIT))).collect();
        multiply(w2, &hidden).iter().zip(dout).map(|(y, &d)| y * f64::from(d)).sum()
    }

    /// The loss of token `t`, where expert `e` has the weights `of(e)`.
    fn loss_of_token(&self, t: usize, x: &[f64], factors: &[f64], all: &[[Vec<f64>; 3]]) -> f64 {
        let chosen = self.ids.row(t).iter().zip(factors);
        let of = |(&id, &factor): (&u16, &f64)| {
            let [w1, w3, w2] = &all[usize::from(id)];
            self.loss_of(x, [w1, w3, w2], factor, self.dout.row(t))
        };
        chosen.map(of).sum()
    }
}

/// What a way back found: of the weights of each expert, of the inputs, of the routing weights.
struct Found {
    experts: Vec<Numbers>,
    dx: Vec<f32>,
    dweights: Vec<f32>,
}

fn run(c: &Compute, case: &Case) -> Found {
    let mut sums: Vec<[Matrix; 3]> = case.experts.iter().map(sums_for).collect();
    let mut gradients: Vec<ExpertGradients<'_>> = sums.iter_mut().map(gradients_in).collect();
    let mut dx = Matrix::from_vec(vec![BEFORE; case.x.data().len()], case.dim());
    let Case { x, ids, weights, experts, dout } = case;
    let dweights =
        experts_backward(c, x.view(), ids, weights, experts, LIMIT, dout.view(), &mut gradients, &mut dx);
    let dweights = dweights.data().to_vec();
    Found {
        experts: sums.into_iter().map(|sums| sums.map(Matrix::into_vec)).collect(),
        dx: dx.into_vec(),
        dweights,
    }
}

fn sums_for(expert: &ExpertWeights) -> [Matrix; 3] {
    let of = |w: &WeightMatrix| Matrix::from_vec(vec![BEFORE; w.rows() * w.cols()], w.cols());
    [of(&expert.w1), of(&expert.w3), of(&expert.w2)]
}

fn gradients_in([w1, w3, w2]: &mut [Matrix; 3]) -> ExpertGradients<'_> {
    ExpertGradients { w1: w1.view_mut(), w3: w3.view_mut(), w2: w2.view_mut() }
}

fn all(found: Found) -> Vec<f32> {
    [found.experts.into_iter().flatten().flatten().collect(), found.dx, found.dweights].concat()
}

/// On top of what was there.
fn added(exact: impl IntoIterator<Item = f64>) -> Vec<f64> {
    exact.into_iter().map(|d| d + f64::from(BEFORE)).collect()
}

fn check(stored: Stored, tokens: usize, (dim, inter): (usize, usize)) {
    let case = Case::drawn(stored, tokens, (dim, inter));
    everywhere(|c| all(run(c, &case)));
    let found = run(&scalar(), &case);
    let what = format!("{stored:?}, {tokens} tokens, {dim} by {inter}");
    let numbers: Vec<[Vec<f64>; 3]> = (0..4).map(|e| case.numbers(e).map(|w| wide(&w))).collect();
    let (mut dx, mut dweights) = (Vec::new(), Vec::new());
    for t in 0..tokens {
        let (x, factors) = (case.x.row(t), case.weights.row(t));
        dx.extend(differences(x, |x| case.loss_of_token(t, x, &wide(factors), &numbers)));
        dweights.extend(differences(factors, |factors| case.loss_of_token(t, &wide(x), factors, &numbers)));
    }
    assert_gradient(&found.dx, &added(dx), &format!("inputs, {what}"));
    assert_gradient(&found.dweights, &dweights, &format!("routing weights, {what}"));
    let inputs: Vec<Vec<f64>> = case.x.view().iter().map(wide).collect();
    for (e, got) in found.experts.iter().enumerate() {
        let seen: Vec<(usize, f64)> = (0..tokens)
            .flat_map(|t| case.ids.row(t).iter().zip(case.weights.row(t)).map(move |(&id, &w)| (t, id, w)))
            .filter(|&(_, id, _)| usize::from(id) == e)
            .map(|(t, _, w)| (t, f64::from(w)))
            .collect();
        for (part, own) in case.numbers(e).iter().enumerate() {
            let loss = |w: &[f64]| -> f64 {
                let mut parts = numbers[e].each_ref().map(Vec::as_slice);
                parts[part] = w;
                seen.iter().map(|&(t, w)| case.loss_of(&inputs[t], parts, w, case.dout.row(t))).sum()
            };
            let places = || (0..own.len()).step_by(1 + own.len() / 200);
            let of_places: Vec<f32> = places().map(|i| got[part][i]).collect();
            let exact = added(differences_of(own, places(), loss));
            assert_gradient(&of_places, &exact, &format!("w of expert {e}, part {part}, {what}"));
        }
    }
}

#[test]
fn gradients_of_inputs_routing_weights_and_experts_are_those_of_the_formula() {
    for stored in [Stored::F32, Stored::Bf16] {
        for shape in [(1, 1), (5, 7), (16, 16), (33, 19)] {
            check(stored, 6, shape);
        }
    }
    check(Stored::F32, 1, (17, 2));
    check(Stored::F32, 70, (9, 17));
}

#[test]
fn an_expert_that_no_token_chose_keeps_its_gradients_as_they_were() {
    let found = run(&scalar(), &Case::drawn(Stored::F32, 6, (5, 7)));
    assert!(found.experts[3].iter().flatten().all(|&d| d == BEFORE));
    assert!(found.experts[0].iter().flatten().any(|&d| d != BEFORE));
}

#[test]
fn the_shared_expert_is_one_that_sees_every_token_with_the_weight_one() {
    let mut case = Case::drawn(Stored::F32, 40, (17, 9));
    case.ids = Matrix::from_vec(vec![0; 40], 1);
    case.weights = Matrix::from_vec(vec![1.0; 40], 1);
    case.experts.truncate(1);
    let routed = run(&scalar(), &case);
    let shared = everywhere(|c| {
        let mut sums = sums_for(&case.experts[0]);
        let mut dx = Matrix::from_vec(vec![BEFORE; case.x.data().len()], 17);
        let (x, dout) = (case.x.view(), case.dout.view());
        expert_backward(c, x, &case.experts[0], LIMIT, dout, &mut gradients_in(&mut sums), &mut dx);
        [sums.map(Matrix::into_vec).concat(), dx.into_vec()].concat()
    });
    assert_eq!(shared, [routed.experts[0].concat(), routed.dx].concat());
}
