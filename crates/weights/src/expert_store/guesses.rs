//! How far guesses about a layer's experts can be trusted.

use cuvier_types::LayerId;

/// Guesses are followed while this share of what was guessed is right. Below it, the reads that were in vain cost more than
/// the others gain: a read takes longer than what it could hide behind.
const TRUSTED: f64 = 0.6;
/// What a new guess counts against all before it.
const RATE: f64 = 0.05;

/// Guesses of one to one, two to three, four to seven ... experts are told apart: who names nearly all is nearly always right,
/// which says nothing about who names six.
const SIZES: usize = 16;

/// The guesses of each layer: the last one, and how right they were.
#[derive(Debug)]
pub(super) struct Guesses {
    layers: Vec<Layer>,
    n_experts: usize,
}

#[derive(Clone, Debug)]
struct Layer {
    /// Not compared yet.
    guessed: Vec<u16>,
    /// By size, the share of guessed experts that were needed, the last steps counting most. `None` before the first.
    right: [Option<f64>; SIZES],
}

impl Guesses {
    /// Nothing is known of any layer of `n_experts`: none is trusted, unless it names so many that chance is enough.
    pub(super) fn new(n_layers: usize, n_experts: usize) -> Self {
        Self { layers: vec![Layer { guessed: Vec::new(), right: [None; SIZES] }; n_layers], n_experts }
    }

    /// A guess was made. Says whether it should be followed.
    pub(super) fn begin(&mut self, layer: LayerId, guessed: &[u16]) -> bool {
        let Some(layer) = self.layers.get_mut(usize::from(layer.0)) else { return false };
        guessed.clone_into(&mut layer.guessed);
        let first = unknown(guessed, self.n_experts);
        size(guessed).is_some_and(|size| layer.right[size].unwrap_or(first) >= TRUSTED)
    }

    /// This is what was needed, ascending. Says how many experts were guessed, and how many of them were right.
    pub(super) fn end(&mut self, layer: LayerId, needed: impl Iterator<Item = u16>) -> (u64, u64) {
        let Some(layer) = self.layers.get_mut(usize::from(layer.0)) else { return (0, 0) };
        let guessed = std::mem::take(&mut layer.guessed);
        let Some(size) = size(&guessed) else { return (0, 0) };
        let needed: Vec<u16> = needed.collect();
        let right = guessed.iter().filter(|guessed| needed.binary_search(guessed).is_ok()).count();
        let share = right as f64 / guessed.len() as f64;
        let before = layer.right[size].unwrap_or_else(|| unknown(&guessed, self.n_experts));
        layer.right[size] = Some(before + RATE * (share - before));
        (guessed.len() as u64, right as u64)
    }
}

/// What is thought of a guess when there was none like it: about as many experts are needed as it names, so that many are
/// right by chance; and it is better than chance.
fn unknown(guessed: &[u16], n_experts: usize) -> f64 {
    (guessed.len() as f64 / n_experts as f64).max(0.5)
}

/// Which guesses it is like; `None` if it names nothing.
fn size(guessed: &[u16]) -> Option<usize> {
    guessed.len().checked_ilog2().map(|size| (size as usize).min(SIZES - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_followed_once_they_were_right_and_no_longer_once_they_were_not() {
        let layer = LayerId(1);
        let mut guesses = Guesses::new(2, 256);
        let mut follows = |right: bool| {
            let followed = guesses.begin(layer, &[3, 5]);
            guesses.end(layer, if right { [3, 5, 9] } else { [1, 2, 4] }.into_iter());
            followed
        };
        assert!(!follows(true), "nothing was known");
        let when = (0..20).position(|_| follows(true)).expect("they were right");
        assert!(when > 1);
        assert!((0..20).any(|_| !follows(false)), "they are wrong now");
    }

    #[test]
    fn right_guesses_of_nearly_all_experts_make_no_small_guess_trusted() {
        let layer = LayerId(0);
        let mut guesses = Guesses::new(1, 256);
        let all: Vec<u16> = (0..200).collect();
        assert!(guesses.begin(layer, &all), "most of them are right by chance");
        for _ in 0..50 {
            guesses.begin(layer, &all);
            assert_eq!(guesses.end(layer, 0..256), (200, 200));
        }
        assert!(guesses.begin(layer, &all));
        assert!(!guesses.begin(layer, &[3, 5]));
        assert_eq!(guesses.end(layer, [5, 7].into_iter()), (2, 1));
    }

    #[test]
    fn a_step_without_a_guess_changes_nothing() {
        let mut guesses = Guesses::new(1, 256);
        for _ in 0..50 {
            guesses.end(LayerId(0), [1].into_iter());
        }
        assert!(!guesses.begin(LayerId(0), &[1]));
        assert!(!guesses.begin(LayerId(7), &[1]), "there is no such layer");
    }
}
