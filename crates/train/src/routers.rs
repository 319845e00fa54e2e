//! What routers have beside trained weights: biases that balance the experts, and the tables of hash layers.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use cuvier_tensor::Matrix;
use cuvier_weights::{Family, ModelConfig, TensorSpec, inventory};

use crate::random::Random;

/// Biases and tables of all routers of a model, under their checkpoint names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routers {
    /// `ffn.gate.bias` of layers that route by score, `[n_routed_experts]`: added to scores where experts are chosen,
    /// never where they are weighted.
    pub biases: BTreeMap<String, Vec<f32>>,
    /// `ffn.gate.tid2eid` of hash layers, `[vocab_size, num_experts_per_tok]`: the experts of each token.
    pub tables: BTreeMap<String, Matrix<u16>>,
}

/// Who keeps the numbers of a tensor while a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// The parameters: an optimiser changes them.
    Parameters,
    /// [`Routers::biases`].
    Biases,
    /// [`Routers::tables`].
    Tables,
}

pub(crate) fn keeper_of(spec: &TensorSpec) -> Keeper {
    if spec.family == Family::I64 {
        Keeper::Tables
    } else if spec.name.ends_with(".gate.bias") {
        Keeper::Biases
    } else {
        Keeper::Parameters
    }
}

impl Routers {
    /// Biases of zero, and tables that spread the tokens of a corpus evenly: `token_counts`, `[vocab_size]`, says how
    /// often each occurs in it, or in a sample of it.
    ///
    /// The report says that hash layers choose experts by a fixed function of the token, not by which. Here the most
    /// frequent token first takes the `num_experts_per_tok` experts with the least load so far, then the next; among
    /// equals chance decides, differently per layer, so that tokens which share one expert seldom share the others.
    /// A token that alone is more than an expert's fair share cannot be balanced by any table.
    ///
    /// # Panics
    /// If `token_counts` has not one number per token.
    pub fn initial(config: &ModelConfig, token_counts: &[u64], seed: u64) -> Self {
        assert_eq!(token_counts.len(), config.vocab_size, "one count per token");
        let mut routers = Self::default();
        for spec in inventory(config, config.num_nextn_predict_layers > 0).iter() {
            match keeper_of(&spec) {
                Keeper::Parameters => (),
                Keeper::Biases => {
                    let zeros = vec![0.0; spec.elements()];
                    routers.biases.insert(spec.name, zeros);
                }
                Keeper::Tables => {
                    let mut random = Random::new(&spec.name, seed);
                    let (experts, per_token) = (config.n_routed_experts, config.num_experts_per_tok);
                    let table = balanced_table(token_counts, experts, per_token, &mut random);
                    routers.tables.insert(spec.name, table);
                }
            }
        }
        routers
    }

    /// Moves every bias by `speed` towards balance: up where an expert had less than the mean load of its layer, down
    /// where it had more. `loads`, `[n_routed_experts]` by the name of the bias, says how many (token, place) pairs of a
    /// step went to each expert; a layer without loads stays.
    ///
    /// Source: DeepSeek-V4 report, section on the training setup; "Auxiliary-loss-free load balancing strategy for
    /// mixture-of-experts", algorithm 1.
    ///
    /// # Panics
    /// If a layer has loads of another number of experts.
    pub fn balance(&mut self, loads: &BTreeMap<String, Vec<u64>>, speed: f32) {
        for (name, bias) in &mut self.biases {
            let Some(loads) = loads.get(name) else { continue };
            assert_eq!(loads.len(), bias.len(), "experts of {name}");
            let (total, experts) = (loads.iter().sum::<u64>(), loads.len() as u64);
            for (bias, load) in bias.iter_mut().zip(loads) {
                // Against the mean times the experts, in whole numbers: a balanced expert stays exactly.
                *bias += match total.cmp(&(load * experts)) {
                    Ordering::Less => -speed,
                    Ordering::Equal => 0.0,
                    Ordering::Greater => speed,
                };
            }
        }
    }
}

/// By how much the largest load exceeds the mean, as a share of the mean: 0 is perfect balance. 0 without any load.
///
/// Source: "Auxiliary-loss-free load balancing strategy for mixture-of-experts", `MaxVio`.
pub fn max_violation(loads: &[u64]) -> f64 {
    let mean = loads.iter().sum::<u64>() as f64 / loads.len().max(1) as f64;
    let largest = loads.iter().max().copied().unwrap_or(0) as f64;
    if mean > 0.0 { (largest - mean) / mean } else { 0.0 }
}

/// `[tokens, per_token]`: distinct experts, so that the counts of the tokens of each expert are nearly equal.
fn balanced_table(counts: &[u64], experts: usize, per_token: usize, random: &mut Random) -> Matrix<u16> {
    let mut tokens: Vec<usize> = (0..counts.len()).collect();
    tokens.sort_by_key(|&token| (std::cmp::Reverse(counts[token]), token));
    let mut load = vec![0_u64; experts];
    let mut table = Matrix::zeros(counts.len(), per_token);
    for token in tokens {
        let mut order: Vec<(u64, u64, u16)> =
            (0..).zip(&load).map(|(expert, &load)| (load, random.bits(), expert)).collect();
        order.sort_unstable();
        for (place, (_, _, expert)) in table.row_mut(token).iter_mut().zip(order) {
            *place = expert;
            // At least one, so that tokens that the sample does not have are spread too.
            load[usize::from(expert)] += counts[token].max(1);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(counts: &[u64], table: &Matrix<u16>, experts: usize) -> Vec<u64> {
        let mut loads = vec![0; experts];
        for (token, &count) in counts.iter().enumerate() {
            for &expert in table.row(token) {
                loads[usize::from(expert)] += count;
            }
        }
        loads
    }

    #[test]
    fn tables_name_distinct_experts_and_spread_a_skewed_corpus_evenly() {
        // Frequencies as of words: one by rank.
        let counts: Vec<u64> = (0..320).map(|token| 100_000 / (1 + (token * 7) % 320)).collect();
        for (experts, per_token) in [(8, 2), (16, 2), (24, 3), (2, 2)] {
            let table = balanced_table(&counts, experts, per_token, &mut Random::new("t", 1));
            for token in 0..counts.len() {
                let mut row = table.row(token).to_vec();
                row.sort_unstable();
                row.dedup();
                assert_eq!(row.len(), per_token);
                assert!(row.iter().all(|&expert| usize::from(expert) < experts));
            }
            let loads = loads(&counts, &table, experts);
            let mean = loads.iter().sum::<u64>() as f64 / experts as f64;
            let largest = *loads.iter().max().expect("experts") as f64;
            // No table can do better than the most frequent token alone.
            let bound = mean.max(counts[0] as f64) * 1.05;
            assert!(largest <= bound, "{experts} {per_token}: {largest} of {mean}");
        }
    }

    #[test]
    fn a_bias_rises_where_the_load_is_below_the_mean_and_stays_at_the_mean() {
        let mut routers = Routers::default();
        for layer in ["a.gate.bias", "b.gate.bias"] {
            routers.biases.insert(layer.to_owned(), vec![0.5; 3]);
        }
        let loads = BTreeMap::from([("a.gate.bias".to_owned(), vec![1, 7, 4])]);
        routers.balance(&loads, 0.125);
        assert_eq!(routers.biases["a.gate.bias"], [0.625, 0.375, 0.5]);
        assert_eq!(routers.biases["b.gate.bias"], [0.5; 3]);
    }

    #[test]
    fn violation_is_the_excess_of_the_largest_load_over_the_mean() {
        assert_eq!(max_violation(&[4, 4, 4]), 0.0);
        assert_eq!(max_violation(&[0, 0, 12, 0]), 3.0);
        assert_eq!((max_violation(&[0, 0]), max_violation(&[])), (0.0, 0.0));
    }

    #[test]
    fn tables_of_two_layers_differ_and_those_of_one_seed_are_the_same() {
        let counts = vec![1; 50];
        let table = |name, seed| balanced_table(&counts, 8, 2, &mut Random::new(name, seed));
        assert_eq!(table("a", 1), table("a", 1));
        assert_ne!(table("a", 1), table("b", 1));
        assert_ne!(table("a", 1), table("a", 2));
    }
}
