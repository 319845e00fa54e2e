//! How evenly the experts of each layer are used.

use std::collections::BTreeMap;

use cuvier_model::{Ctx, LogitRows, Probe};
use cuvier_train::routers::max_violation;
use cuvier_types::TokenId;

use crate::mtp::drafts;
use crate::{Cell, EvalError, Layout, Passages, Reader, Report, Row, Tell};

/// What of a layer's name says that these are the experts of its tokens.
const EXPERTS: &str = ".ffn.experts";

/// Counts where tokens went, by layer.
struct Loads {
    /// By the name of the layer: tokens of each expert.
    layers: BTreeMap<String, Vec<u64>>,
    n_experts: usize,
}

/// What routers go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Routing {
    /// Learned scores, which a bias balances.
    Score,
    /// A table by token, which nothing balances.
    Hash,
}

/// Reads the passages, every token of them, and counts what each expert got.
///
/// Source of the measure: "Auxiliary-loss-free load balancing strategy for mixture-of-experts", `MaxVio` over the whole
/// set: by how much the largest load exceeds the mean, as a share of the mean.
///
/// # Errors
/// If a passage does not fit the model.
pub fn run(reader: &Reader<'_>, passages: &Passages, tell: Tell<'_>) -> Result<Report, EvalError> {
    let mut loads = Loads { layers: BTreeMap::new(), n_experts: reader.model.config().n_routed_experts };
    for (done, passage) in passages.list.iter().enumerate() {
        tell(done, passages.list.len());
        read(reader, &passage.document.tokens, &mut loads)?;
    }
    tell(passages.list.len(), passages.list.len());
    let config = reader.model.config();
    let layer = |index: usize| {
        let routing = if index < config.num_hash_layers { Routing::Hash } else { Routing::Score };
        (format!("layers.{index}"), routing)
    };
    let layers = (0..config.num_hidden_layers).map(layer).chain([("mtp.0".to_owned(), Routing::Score)]);
    let layers = layers.filter_map(|(name, routing)| {
        let loads = loads.layers.get(&name)?.clone();
        Some((name, routing, loads))
    });
    let rows = rows(layers.collect());
    Ok(Report { name: "balance", asked: passages.asked.clone(), rows, layout: Layout::Lines })
}

fn read(reader: &Reader<'_>, tokens: &[TokenId], loads: &mut Loads) -> Result<(), EvalError> {
    let mut of_block = Loads { layers: BTreeMap::new(), n_experts: loads.n_experts };
    reader.read(tokens, LogitRows::None, Some(loads), &mut |rows, state| {
        drafts(reader, tokens, &rows, state, &mut Ctx::with_probe(reader.compute, &mut of_block))?;
        Ok(())
    })?;
    for (layer, of_block) in of_block.layers {
        loads.add(layer, &of_block);
    }
    Ok(())
}

impl Loads {
    fn add(&mut self, layer: String, loads: &[u64]) {
        let sums = self.layers.entry(layer).or_insert_with(|| vec![0; self.n_experts]);
        sums.iter_mut().zip(loads).for_each(|(sum, load)| *sum += load);
    }
}

impl Probe for Loads {
    fn wants(&self, name: &str) -> bool {
        name.ends_with(EXPERTS)
    }

    fn record(&mut self, name: &str, _: usize, data: &[f32]) {
        let layer = name.strip_suffix(EXPERTS).unwrap_or(name).to_owned();
        let mut loads = vec![0; self.n_experts];
        // Ids are small whole numbers, which f32 holds exactly.
        data.iter().for_each(|&expert| loads[expert as usize] += 1);
        self.add(layer, &loads);
    }
}

/// A row per layer, then the mean and the worst of each kind.
fn rows(layers: Vec<(String, Routing, Vec<u64>)>) -> Vec<Row> {
    let name = |routing| match routing {
        Routing::Score => "score",
        Routing::Hash => "hash",
    };
    let dead = |loads: &[u64]| loads.iter().filter(|&&load| load == 0).count() as u64;
    let mut rows: Vec<Row> = Vec::new();
    for (layer, routing, loads) in &layers {
        let row = Row::new().named("layer", layer.clone()).named("routing", name(*routing));
        let row = row.with("MaxVio", Cell::Number(max_violation(loads), 3));
        rows.push(
            row.with("dead experts", Cell::Count(dead(loads))).with("loads", Cell::Counts(loads.clone())),
        );
    }
    for routing in [Routing::Score, Routing::Hash] {
        let own: Vec<&[u64]> =
            layers.iter().filter(|layer| layer.1 == routing).map(|layer| &layer.2[..]).collect();
        if own.is_empty() {
            continue;
        }
        let violations: Vec<f64> = own.iter().map(|loads| max_violation(loads)).collect();
        let mean = violations.iter().sum::<f64>() / violations.len() as f64;
        let worst = violations.iter().copied().fold(0.0, f64::max);
        let dead = own.iter().map(|loads| dead(loads)).sum();
        for (what, violation) in [("mean", mean), ("worst", worst)] {
            let row = Row::new().named("layer", what).named("routing", name(routing));
            rows.push(row.with("MaxVio", Cell::Number(violation, 3)).with("dead experts", Cell::Count(dead)));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_and_hash_layers_are_summed_up_apart() {
        let layer = |name: &str, routing, loads: &[u64]| (name.to_owned(), routing, loads.to_vec());
        let rows = rows(vec![
            layer("layers.0", Routing::Hash, &[4, 4]),
            layer("layers.1", Routing::Score, &[6, 2]),
            layer("layers.2", Routing::Score, &[8, 0]),
        ]);
        let found: Vec<(&Cell, &Cell)> =
            rows.iter().filter_map(|row| Some((row.get("MaxVio")?, row.get("dead experts")?))).collect();
        let want = [(0.0, 0), (0.5, 0), (1.0, 1), (0.75, 1), (1.0, 1), (0.0, 0), (0.0, 0)];
        let want = want.map(|(violation, dead)| (Cell::Number(violation, 3), Cell::Count(dead)));
        assert_eq!(found, want.iter().map(|(a, b)| (a, b)).collect::<Vec<_>>());
    }

    #[test]
    fn loads_count_each_expert_of_each_token_by_layer() {
        let mut loads = Loads { layers: BTreeMap::new(), n_experts: 4 };
        assert!(loads.wants("layers.3.ffn.experts") && !loads.wants("layers.3.ffn.gate"));
        loads.record("layers.3.ffn.experts", 2, &[0.0, 3.0, 0.0, 1.0]);
        loads.record("layers.3.ffn.experts", 1, &[2.0, 3.0]);
        assert_eq!(loads.layers["layers.3"], [2, 1, 1, 2]);
    }
}
