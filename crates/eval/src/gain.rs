//! By how much the hyper-connections can make a signal grow on its way through the layers, and back.

use std::collections::BTreeMap;

use cuvier_model::{LogitRows, Probe};
use serde_json::json;

use crate::{Cell, EvalError, Layout, Passages, Reader, Report, Row, Tell};

/// The sublayers of a layer, and what their mixes are called.
const SUBLAYERS: [(&str, &str); 2] = [("attn", "hc_attn.comb"), ("ffn", "hc_ffn.comb")];

/// A matrix between the streams of one token, `[n, n]` row by row: entry `n * i + j` is what new stream `i` takes of old
/// stream `j`.
type Square = Vec<f64>;

/// What the sums of some squares came to, over tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Gain {
    /// Sum over the tokens of the largest |sum|.
    largest: f64,
    /// The largest |sum| of any token.
    most: f64,
    /// The smallest |sum| of any token: what a largest one cannot show is a stream that fades.
    least: f64,
    tokens: u64,
}

/// Of one sublayer: its own square, and the products up to it and from it on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Gains {
    forward: Gain,
    backward: Gain,
    composite_forward: Gain,
    composite_backward: Gain,
}

/// Reads the passages and measures, at every sublayer, the squares `H` by which the streams go around it.
///
/// | gain | of which product | which sums |
/// |------|------------------|------------|
/// | forward | `H_l` | rows |
/// | backward | `H_l` | columns |
/// | composite forward | `H_l ... H_1` | rows |
/// | composite backward | `H_L ... H_l` | columns |
///
/// A sum counts by its amount, and the largest of a token's is its gain. Rows and columns of positive squares are sums
/// of amounts as well; these squares are positive.
///
/// Source: the report on manifold-constrained hyper-connections, "Amax gain magnitude".
///
/// # Errors
/// If a passage does not fit the model.
pub fn run(reader: &Reader<'_>, passages: &Passages, tell: Tell<'_>) -> Result<Report, EvalError> {
    let config = reader.model.config();
    let (n, n_layers) = (config.hc_mult, config.num_hidden_layers);
    let mut gains = vec![Gains::default(); SUBLAYERS.len() * n_layers];
    let mut tokens = 0;
    for (done, passage) in passages.list.iter().enumerate() {
        tell(done, passages.list.len());
        let mut mixes = Mixes { n, names: names(n_layers), squares: BTreeMap::new() };
        reader.read(&passage.document.tokens, LogitRows::None, Some(&mut mixes), &mut |_, _| Ok(()))?;
        for token in 0..passage.document.len() {
            add(&mut gains, &mixes.of_token(token), n);
            tokens += 1;
        }
    }
    tell(passages.list.len(), passages.list.len());
    let mut asked = passages.asked.clone();
    asked.insert("tokens".to_owned(), json!(tokens));
    let rows = gains.iter().enumerate().map(|(index, gains)| row(index, gains)).collect();
    Ok(Report { name: "gain", asked, rows, layout: Layout::Lines })
}

fn names(n_layers: usize) -> Vec<String> {
    let layers = (0..n_layers).flat_map(|layer| SUBLAYERS.map(|(_, name)| format!("layers.{layer}.{name}")));
    layers.collect()
}

/// The mixes of one document.
struct Mixes {
    /// Streams.
    n: usize,
    /// In the order of the sublayers.
    names: Vec<String>,
    /// By name: the numbers of all tokens so far.
    squares: BTreeMap<String, Vec<f32>>,
}

impl Mixes {
    /// The squares of one token, in the order of the sublayers.
    fn of_token(&self, token: usize) -> Vec<Square> {
        let len = self.n * self.n;
        let of = |name: &String| {
            let numbers = self.squares.get(name).map_or(&[][..], Vec::as_slice);
            transposed(numbers.get(token * len..(token + 1) * len).unwrap_or_default(), self.n)
        };
        self.names.iter().map(of).collect()
    }
}

impl Probe for Mixes {
    fn wants(&self, name: &str) -> bool {
        self.names.iter().any(|wanted| wanted == name)
    }

    fn record(&mut self, name: &str, _: usize, data: &[f32]) {
        self.squares.entry(name.to_owned()).or_default().extend_from_slice(data);
    }
}

/// Adds one token, whose squares come in the order of the sublayers.
fn add(gains: &mut [Gains], squares: &[Square], n: usize) {
    let mut product = identity(n);
    for (gains, square) in gains.iter_mut().zip(squares) {
        gains.forward.add(&row_sums(square, n));
        gains.backward.add(&column_sums(square, n));
        product = times(square, &product, n);
        gains.composite_forward.add(&row_sums(&product, n));
    }
    let mut product = identity(n);
    for (gains, square) in gains.iter_mut().zip(squares).rev() {
        product = times(&product, square, n);
        gains.composite_backward.add(&column_sums(&product, n));
    }
}

/// Of the model's `comb`, row `j` belongs to old stream `j`.
fn transposed(comb: &[f32], n: usize) -> Square {
    (0..n * n).map(|at| comb.get(n * (at % n) + at / n).copied().map_or(f64::NAN, f64::from)).collect()
}

fn identity(n: usize) -> Square {
    (0..n * n).map(|at| f64::from(u8::from(at % (n + 1) == 0))).collect()
}

fn times(a: &Square, b: &Square, n: usize) -> Square {
    (0..n * n).map(|at| (0..n).map(|k| a[n * (at / n) + k] * b[n * k + at % n]).sum()).collect()
}

fn row_sums(square: &Square, n: usize) -> Vec<f64> {
    square.chunks(n).map(|row| row.iter().sum()).collect()
}

fn column_sums(square: &Square, n: usize) -> Vec<f64> {
    (0..n).map(|column| square.iter().skip(column).step_by(n).sum()).collect()
}

impl Default for Gain {
    fn default() -> Self {
        Self { largest: 0.0, most: 0.0, least: f64::INFINITY, tokens: 0 }
    }
}

impl Gain {
    fn add(&mut self, sums: &[f64]) {
        let amounts = || sums.iter().map(|sum| sum.abs());
        let largest = amounts().fold(0.0, f64::max);
        self.largest += largest;
        self.most = self.most.max(largest);
        self.least = amounts().fold(self.least, f64::min);
        self.tokens += 1;
    }

    fn cell(&self) -> Cell {
        Cell::Spread([self.largest / self.tokens as f64, self.least, self.most])
    }
}

fn row(index: usize, gains: &Gains) -> Row {
    let (layer, (sublayer, _)) = (index / SUBLAYERS.len(), SUBLAYERS[index % SUBLAYERS.len()]);
    Row::new()
        .named("sublayer", format!("layers.{layer}.{sublayer}"))
        .with("forward", gains.forward.cell())
        .with("backward", gains.backward.cell())
        .with("composite forward", gains.composite_forward.cell())
        .with("composite backward", gains.composite_backward.cell())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_turned_so_that_rows_belong_to_new_streams() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0], 2), [1.0, 3.0, 2.0, 4.0]);
    }

    #[test]
    fn products_run_from_the_first_layer_up_and_from_the_last_one_down() {
        // The first doubles stream 0, the second adds stream 0 to stream 1.
        let squares = [vec![2.0, 0.0, 0.0, 1.0], vec![1.0, 0.0, 1.0, 1.0]];
        let mut gains = [Gains::default(); 2];
        add(&mut gains, &squares, 2);
        let largest = |gain: Gain| gain.largest;
        assert_eq!((largest(gains[0].forward), largest(gains[1].forward)), (2.0, 2.0));
        assert_eq!((largest(gains[0].backward), largest(gains[1].backward)), (2.0, 2.0));
        // H_2 H_1 = [[2, 0], [2, 1]].
        assert_eq!((largest(gains[0].composite_forward), largest(gains[1].composite_forward)), (2.0, 3.0));
        assert_eq!((largest(gains[0].composite_backward), largest(gains[1].composite_backward)), (4.0, 2.0));
        assert_eq!(gains[0].composite_backward.least, 1.0);
    }

    #[test]
    fn squares_whose_rows_and_columns_sum_to_one_neither_grow_nor_fade() {
        let square = vec![0.7, 0.3, 0.3, 0.7];
        let mut gains = vec![Gains::default(); 20];
        add(&mut gains, &vec![square; 20], 2);
        for gains in gains {
            for gain in [gains.forward, gains.backward, gains.composite_forward, gains.composite_backward] {
                assert!((gain.most - 1.0).abs() < 1e-12 && (gain.least - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn signs_cancel_in_a_sum_and_its_amount_counts() {
        let mut gain = Gain::default();
        gain.add(&row_sums(&vec![1.0, -3.0, 2.0, -2.0], 2));
        gain.add(&[0.5, 1.0]);
        assert_eq!((gain.largest, gain.most, gain.least, gain.tokens), (3.0, 2.0, 0.0, 2));
    }
}
