//! How far guesses about a layer's experts can be trusted.

use cuvier_types::LayerId;

/// Guesses are followed while this share of what was guessed is right. Below it, the reads that were in vain cost more than
/// the others gain: a read takes longer than what it could hide behind.
const TRUSTED: f64 = 0.6;
/// What a new guess counts against all before it.
const RATE: f64 = 0.05;

/// The guesses of each layer: the last one, and how right they were.
#[derive(Debug)]
pub(super) struct Guesses {
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    /// Not compared yet.
    guessed: Vec<u16>,
    /// The share of guessed experts that were needed, the last steps counting most.
    right: f64,
}

impl Guesses {
    /// Nothing is known of any layer, so none is trusted.
    pub(super) fn new(n_layers: usize) -> Self {
        Self { layers: vec![Layer { guessed: Vec::new(), right: 0.5 }; n_layers] }
    }

    /// A guess was made. Says whether it should be followed.
    pub(super) fn begin(&mut self, layer: LayerId, guessed: &[u16]) -> bool {
        let Some(layer) = self.layers.get_mut(usize::from(layer.0)) else { return false };
        guessed.clone_into(&mut layer.guessed);
        layer.right >= TRUSTED
    }

    /// This is what was needed, ascending.
    pub(super) fn end(&mut self, layer: LayerId, needed: impl Iterator<Item = u16>) {
        let Some(layer) = self.layers.get_mut(usize::from(layer.0)) else { return };
        if layer.guessed.is_empty() {
            return;
        }
        let needed: Vec<u16> = needed.collect();
        let right = layer.guessed.iter().filter(|guessed| needed.binary_search(guessed).is_ok()).count();
        layer.right += RATE * (right as f64 / layer.guessed.len() as f64 - layer.right);
        layer.guessed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_followed_once_they_were_right_and_no_longer_once_they_were_not() {
        let layer = LayerId(1);
        let mut guesses = Guesses::new(2);
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
    fn a_step_without_a_guess_changes_nothing() {
        let mut guesses = Guesses::new(1);
        for _ in 0..50 {
            guesses.end(LayerId(0), [1].into_iter());
        }
        assert!(!guesses.begin(LayerId(0), &[1]));
        assert!(!guesses.begin(LayerId(7), &[1]), "there is no such layer");
    }
}
