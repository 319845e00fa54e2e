//! The routed experts of a mixture-of-experts layer.

use std::borrow::Borrow;
use std::ops::Range;

use cuvier_tensor::{MatMut, Matrix, WeightMatrix};

use crate::gemm::{Inputs, MIN_PRODUCTS, PANEL_ROWS, PANEL_TOKENS, Workbench, product};
use crate::swiglu::SwigluRow;
use crate::{Activations, Compute, DisjointRows, Lent, Store};

mod backward;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use backward::{ExpertGradients, expert_backward, experts_backward};

/// The weights of one expert, shared or routed.
#[derive(Clone, Debug)]
pub struct ExpertWeights {
    /// Gate projection, `[inter, dim]`.
    pub w1: WeightMatrix,
    /// Up projection, `[inter, dim]`.
    pub w3: WeightMatrix,
    /// Down projection, `[dim, inter]`.
    pub w2: WeightMatrix,
}

/// Mixture of experts: `out[t] = sum over j of w2(weights[t, j] * swiglu(w1 x[t], w3 x[t]))`, with the matrices of
/// expert `ids[t, j]`.
///
/// | argument       | shape           | dtype                 | unit           |
/// |----------------|-----------------|-----------------------|----------------|
/// | `x`            | `[tokens, dim]` | f32                   | activation     |
/// | `ids`          | `[tokens, k]`   | u16                   | expert         |
/// | `weights`      | `[tokens, k]`   | f32                   | routing weight |
/// | `experts`      | `[n_experts]`   | F32, BF16, FP8 or FP4 | weight         |
/// | `swiglu_limit` | scalar          | f32                   | bound          |
/// | `out`          | `[tokens, dim]` | f32                   | activation     |
///
/// Products as in [`gemm`](crate::gemm()), the activation as in [`swiglu`](crate::swiglu()), then times the routing
/// weight, each rounded to f32. The sum over a token's experts starts at zero and runs in ascending expert id,
/// whatever the order of `ids`: so the result depends on the token alone. The ids of a token are distinct. `out`
/// is overwritten. The weights of each chosen expert are read once, those of the others not at all.
///
/// Source: DeepSeek-V4 `inference/model.py`, `MoE.forward` and `Expert.forward`.
///
/// # Panics
/// If the shapes disagree or an id is not an expert.
pub fn experts<E: Borrow<ExpertWeights> + Sync>(
    c: &Compute,
    x: &Activations<'_>,
    ids: &Matrix<u16>,
    weights: &Matrix<f32>,
    experts: &[E],
    swiglu_limit: f32,
    out: MatMut<'_>,
) {
    let dispatch = Dispatch::new(c, ids, weights);
    let chosen: Vec<&ExpertWeights> = dispatch.ids().map(|id| experts[usize::from(id)].borrow()).collect();
    experts_part(c, x, &dispatch, 0..chosen.len(), &chosen, swiglu_limit, Store::Set, out);
}

/// The share of [`experts`] of some of the experts that tokens chose: those in `part`, counted as
/// [`Dispatch::ids`] gives them; `experts` are their weights. With [`Store::Add`] it is added to `out`. All parts one
/// after the other, the first of them set, give the bits of [`experts`].
///
/// # Panics
/// As [`experts`], and if there are not as many `experts` as the part has.
#[expect(clippy::too_many_arguments, reason = "an operation's operands")]
pub fn experts_part(
    c: &Compute,
    x: &Activations<'_>,
    dispatch: &Dispatch,
    part: Range<usize>,
    experts: &[&ExpertWeights],
    swiglu_limit: f32,
    store: Store,
    out: MatMut<'_>,
) {
    let (n_tokens, dim) = (x.exact().rows(), x.exact().cols());
    assert_eq!((out.rows(), out.cols()), (n_tokens, dim), "outputs");
    assert_eq!(dispatch.n_tokens, n_tokens, "tokens");
    assert_eq!(part.len(), experts.len(), "experts of the part");
    let plan = Plan::new(dispatch, part, experts);
    let mut hidden = c.matrix(plan.n_pairs, plan.inter);
    plan.up(c, x, swiglu_limit, hidden.view_mut());
    plan.down(c, &Activations::new(hidden.view()), store, out);
}

/// Which tokens each chosen expert sees. Pairs of an expert and a token are numbered expert by expert, in ascending id.
pub struct Dispatch {
    /// The chosen experts, and the pairs of each.
    chosen: Vec<(u16, Range<usize>)>,
    /// The token of each pair.
    tokens: Lent<u32>,
    /// The routing weight of each pair.
    weights: Lent,
    n_tokens: usize,
}

impl Dispatch {
    /// Of what a router chose: `ids` and `weights` as [`experts`] takes them.
    ///
    /// # Panics
    /// If their shapes disagree.
    pub fn new(c: &Compute, ids: &Matrix<u16>, weights: &Matrix<f32>) -> Self {
        assert_eq!((ids.data().len(), ids.cols()), (weights.data().len(), weights.cols()), "ids and weights");
        let k = ids.cols();
        let len = ids.data().len();
        let (mut tokens, mut of_pairs) = (c.matrix::<u32>(len, 1), c.matrix(len, 1));
        let order = tokens.data_mut();
        order.iter_mut().zip(0..).for_each(|(slot, i)| *slot = i);
        let expert = |slot: u32| ids.data()[slot as usize];
        // The tokens of an expert stay in ascending order.
        order.sort_unstable_by_key(|&slot| (expert(slot), slot));
        of_pairs.data_mut().iter_mut().zip(&*order).for_each(|(w, &slot)| *w = weights.data()[slot as usize]);
        let mut chosen: Vec<(u16, Range<usize>)> = Vec::new();
        for same in order.chunk_by(|&a, &b| expert(a) == expert(b)) {
            let start = chosen.last().map_or(0, |(_, last)| last.end);
            chosen.push((expert(same[0]), start..start + same.len()));
        }
        order.iter_mut().for_each(|slot| *slot /= k as u32);
        Self { chosen, tokens, weights: of_pairs, n_tokens: ids.rows() }
    }

    /// The experts that some token chose, ascending.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = u16> {
        self.chosen.iter().map(|&(id, _)| id)
    }
}

/// A part of what is chosen, with weights.
struct Plan<'a> {
    chosen: Vec<Chosen<'a>>,
    /// The token of each pair of the part.
    tokens: &'a [u32],
    /// The routing weight of each pair of the part.
    weights: &'a [f32],
    n_pairs: usize,
    /// Width between the two halves of an expert.
    inter: usize,
}

/// An expert that some token chose.
struct Chosen<'a> {
    weights: &'a ExpertWeights,
    pairs: Range<usize>,
}

impl<'a> Plan<'a> {
    fn new(dispatch: &'a Dispatch, part: Range<usize>, experts: &[&'a ExpertWeights]) -> Self {
        let of_part = &dispatch.chosen[part];
        let all = of_part.first().map_or(0, |(_, pairs)| pairs.start)
            ..of_part.last().map_or(0, |(_, pairs)| pairs.end);
        let chosen = of_part.iter().zip(experts).map(|((_, pairs), &weights)| Chosen {
            weights,
            pairs: pairs.start - all.start..pairs.end - all.start,
        });
        Self {
            chosen: chosen.collect(),
            tokens: &dispatch.tokens.data()[all.clone()],
            weights: &dispatch.weights.data()[all.clone()],
            n_pairs: all.len(),
            inter: experts.first().map_or(0, |first| first.w1.rows()),
        }
    }

    /// `hidden[pair] = weight * swiglu(w1 x, w3 x)`.
    fn up(&self, c: &Compute, x: &Activations<'_>, limit: f32, hidden: MatMut<'_>) {
        let x =
            Inputs::new(c, x, self.chosen.iter().flat_map(|chosen| [&chosen.weights.w1, &chosen.weights.w3]));
        for Chosen { weights, .. } in &self.chosen {
            let shape = (self.inter, x.cols());
            assert_eq!((weights.w1.rows(), weights.w1.cols()), shape, "w1");
            assert_eq!((weights.w3.rows(), weights.w3.cols()), shape, "w3");
        }
        let hidden = DisjointRows::new(hidden.into_data(), self.inter);
        let panels = self.inter.div_ceil(PANEL_ROWS);
        let items = self.chosen.len() * panels;
        let per_item = 2 * PANEL_ROWS * x.cols() * self.n_pairs / self.chosen.len().max(1);
        c.for_each_range(items, MIN_PRODUCTS / per_item.max(1), |items| {
            let mut bench = Workbench::take();
            let Workbench { gathered, parts: [gate, up] } = &mut *bench;
            for (expert, own) in by_expert(items, panels) {
                let Chosen { weights, pairs, .. } = &self.chosen[expert];
                for pairs in blocks(pairs) {
                    let inputs = x.listed(&self.tokens[pairs.clone()]);
                    inputs.gather(c.isa(), &[&weights.w1, &weights.w3], gathered);
                    for panel in own.clone() {
                        let rows = panel_rows(panel, self.inter);
                        for (w, out) in [(&weights.w1, &mut *gate), (&weights.w3, &mut *up)] {
                            out.resize(pairs.len() * rows.len(), 0.0);
                            product(c.isa(), inputs, gathered, w, rows.clone(), out);
                        }
                        let parts = gate.chunks_exact(rows.len()).zip(up.chunks_exact(rows.len()));
                        for (pair, (gate, up)) in pairs.clone().zip(parts) {
                            // SAFETY: an item is one expert, whose pairs are its own, and one panel of rows.
                            let out = unsafe { hidden.part(pair, rows.clone()) };
                            c.isa().dispatch(SwigluRow { gate, up, limit, weight: self.weights[pair], out });
                        }
                    }
                }
            }
        });
    }

    /// `out[token] = sum of w2 hidden[pair]` over the token's pairs, or what `out` was and that.
    fn down(&self, c: &Compute, hidden: &Activations<'_>, store: Store, out: MatMut<'_>) {
        let dim = out.cols();
        let hidden = Inputs::new(c, hidden, self.chosen.iter().map(|chosen| &chosen.weights.w2));
        for Chosen { weights, .. } in &self.chosen {
            assert_eq!((weights.w2.rows(), weights.w2.cols()), (dim, self.inter), "w2");
        }
        let n_tokens = out.rows();
        let out = DisjointRows::new(out.into_data(), dim);
        let per_item = PANEL_ROWS * self.inter * self.n_pairs;
        // An item is a panel of outputs and goes through all experts, in ascending id: the sum of a token has one
        // order, and no two tasks share it.
        c.for_each_range(dim.div_ceil(PANEL_ROWS), MIN_PRODUCTS / per_item.max(1), |items| {
            let mut bench = Workbench::take();
            let Workbench { gathered, parts: [part, _] } = &mut *bench;
            let all = items.start * PANEL_ROWS..dim.min(items.end * PANEL_ROWS);
            if store == Store::Set {
                for token in 0..n_tokens {
                    // SAFETY: an item is one panel of outputs.
                    unsafe { out.part(token, all.clone()) }.fill(0.0);
                }
            }
            for Chosen { weights, pairs, .. } in &self.chosen {
                for pairs in blocks(pairs) {
                    let inputs = hidden.range(pairs.clone());
                    inputs.gather(c.isa(), &[&weights.w2], gathered);
                    for rows in items.clone().map(|item| panel_rows(item, dim)) {
                        part.resize(pairs.len() * rows.len(), 0.0);
                        product(c.isa(), inputs, gathered, &weights.w2, rows.clone(), part);
                        let tokens = &self.tokens[pairs.clone()];
                        for (token, part) in tokens.iter().zip(part.chunks_exact(rows.len())) {
                            // SAFETY: as above.
                            let out = unsafe { out.part(*token as usize, rows.clone()) };
                            for (out, y) in out.iter_mut().zip(part) {
                                *out += y;
                            }
                        }
                    }
                }
            }
        });
    }
}

/// Consecutive items, `panels` of them an expert's, as experts and the panels of each.
fn by_expert(items: Range<usize>, panels: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut start = items.start;
    std::iter::from_fn(move || {
        let expert = (start < items.end).then(|| start / panels)?;
        let end = items.end.min((expert + 1) * panels);
        let own = start - expert * panels..end - expert * panels;
        start = end;
        Some((expert, own))
    })
}

/// The rows of panel `panel` of a matrix of `n_rows`.
fn panel_rows(panel: usize, n_rows: usize) -> Range<usize> {
    panel * PANEL_ROWS..n_rows.min((panel + 1) * PANEL_ROWS)
}

/// `pairs` in blocks as equal as possible of at most [`PANEL_TOKENS`].
fn blocks(pairs: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let Range { start, end } = *pairs;
    let len = (end - start).div_ceil((end - start).div_ceil(PANEL_TOKENS).max(1)).max(1);
    (start..end).step_by(len).map(move |start| start..end.min(start + len))
}
