//! All tensors of a model, each with its rule and what the rule remembers.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cuvier_kernels::Compute;
use cuvier_model::Parameters;
use cuvier_tensor::Matrix;

use super::adamw::{self, AdamWOptions, Moments};
use super::muon::{self, MuonOptions};
use super::rule::{MatrixRule, Rule, rule_of};

/// The constants of both optimisers, and who has the matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OptimizerOptions {
    /// What updates matrices.
    pub matrices: MatrixRule,
    /// Muon.
    pub muon: MuonOptions,
    /// AdamW.
    pub adamw: AdamWOptions,
}

/// Muon and AdamW over the parameters of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    options: OptimizerOptions,
    memory: BTreeMap<String, Memory>,
}

/// What is remembered of one tensor from step to step.
#[derive(Clone, Debug, PartialEq)]
enum Memory {
    Muon {
        momentum: Matrix,
    },
    AdamW {
        decay: f32,
        /// Steps this tensor has made; it makes none where it has no gradient.
        steps: u64,
        moments: Moments,
    },
}

/// What an optimiser remembers, as a training checkpoint keeps it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// `momentum.NAME` of tensors under Muon; `m.NAME` and `v.NAME` of those under AdamW; each in the shape of `NAME`.
    pub tensors: Parameters,
    /// Steps made by `NAME`, of tensors under AdamW.
    pub steps: BTreeMap<String, u64>,
}

/// Why a state does not belong to a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A tensor is not there.
    #[error("optimiser state: there is no `{name}`")]
    Missing {
        /// What should be there.
        name: String,
    },
    /// A tensor has another shape than the weights it belongs to.
    #[error("optimiser state: `{name}` has shape {got:?}, its weights have {want:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its rows and columns.
        got: [usize; 2],
        /// Those of the weights.
        want: [usize; 2],
    },
    /// A tensor belongs to no weights, or to weights with another rule.
    #[error("optimiser state: nothing is known of `{name}`")]
    Unknown {
        /// The tensor.
        name: String,
    },
}

impl Optimizer {
    /// One that has made no step.
    pub fn new(options: OptimizerOptions, parameters: &Parameters) -> Self {
        let memory = |(name, weight): (&str, &Matrix)| {
            let zeros = || Matrix::zeros(weight.rows(), weight.cols());
            let memory = match rule_of(name, options.matrices) {
                Rule::Muon => Memory::Muon { momentum: zeros() },
                Rule::AdamW { decay } => Memory::AdamW {
                    decay: if decay { options.adamw.decay } else { 0.0 },
                    steps: 0,
                    moments: Moments { m: zeros(), v: zeros() },
                },
            };
            (name.to_owned(), memory)
        };
        Self { options, memory: parameters.iter().map(memory).collect() }
    }

    /// Makes one step of every tensor that has a gradient; a tensor without one stays as it is, and so does what is
    /// remembered of it. `rate` is the learning rate.
    ///
    /// # Panics
    /// If the parameters are not those that the optimiser was made for, or gradients are not theirs.
    pub fn step(&mut self, c: &Compute, rate: f32, parameters: &mut Parameters, gradients: &Parameters) {
        assert_eq!(parameters.iter().count(), self.memory.len(), "tensors");
        let mut tasks = Vec::with_capacity(self.memory.len());
        for ((name, weight), (known, memory)) in parameters.iter_mut().zip(&mut self.memory) {
            assert_eq!(name, known, "the parameters that the optimiser was made for");
            if let Some(gradient) = gradients.get(name) {
                let shape = |matrix: &Matrix| [matrix.rows(), matrix.cols()];
                assert_eq!(shape(gradient), shape(weight), "gradient of {name}");
                tasks.push(Task { weight, gradient, memory });
            }
        }
        assert_eq!(tasks.len(), gradients.iter().count(), "each gradient has its parameter");
        // The longest first, so that no thread begins one when the others are done.
        tasks.sort_by_key(|task| std::cmp::Reverse(task.cost()));
        let tasks: Vec<Mutex<Option<Task<'_>>>> = tasks.into_iter().map(|task| Some(task).into()).collect();
        c.for_each(tasks.len(), |i| {
            if let Some(task) = tasks[i].lock().unwrap_or_else(PoisonError::into_inner).take() {
                task.run(c, &self.options, rate);
            }
        });
    }

    /// All that is remembered.
    pub fn state(&self) -> OptimizerState {
        let mut state = OptimizerState::default();
        for (name, memory) in &self.memory {
            match memory {
                Memory::Muon { momentum } => state.tensors.insert(momentum_of(name), momentum.clone()),
                Memory::AdamW { steps, moments, .. } => {
                    state.tensors.insert(m_of(name), moments.m.clone());
                    state.tensors.insert(v_of(name), moments.v.clone());
                    state.steps.insert(name.clone(), *steps);
                }
            }
        }
        state
    }

    /// An optimiser that goes on from `state`, bit for bit.
    ///
    /// # Errors
    /// If the state is not one of these parameters under these options.
    pub fn restore(
        options: OptimizerOptions,
        parameters: &Parameters,
        state: &OptimizerState,
    ) -> Result<Self, StateError> {
        let mut optimizer = Self::new(options, parameters);
        let mut used = Vec::new();
        for (name, memory) in &mut optimizer.memory {
            let mut put = |key: String, place: &mut Matrix| {
                put_back(&state.tensors, &key, place)?;
                used.push(key);
                Ok(())
            };
            match memory {
                Memory::Muon { momentum } => put(momentum_of(name), momentum)?,
                Memory::AdamW { steps, moments, .. } => {
                    put(m_of(name), &mut moments.m)?;
                    put(v_of(name), &mut moments.v)?;
                    let missing = || StateError::Missing { name: format!("steps of {name}") };
                    *steps = *state.steps.get(name).ok_or_else(missing)?;
                }
            }
        }
        used.sort_unstable();
        let known = |name: &str| used.binary_search_by(|key| key.as_str().cmp(name)).is_ok();
        match state.tensors.iter().find(|(name, _)| !known(name)) {
            Some((name, _)) => Err(StateError::Unknown { name: name.to_owned() }),
            None => Ok(optimizer),
        }
    }
}

fn put_back(tensors: &Parameters, key: &str, place: &mut Matrix) -> Result<(), StateError> {
    let Some(found) = tensors.get(key) else {
        return Err(StateError::Missing { name: key.to_owned() });
    };
    let (got, want) = ([found.rows(), found.cols()], [place.rows(), place.cols()]);
    if got != want {
        return Err(StateError::Shape { name: key.to_owned(), got, want });
    }
    place.clone_from(found);
    Ok(())
}

fn momentum_of(name: &str) -> String {
    format!("momentum.{name}")
}

fn m_of(name: &str) -> String {
    format!("m.{name}")
}

fn v_of(name: &str) -> String {
    format!("v.{name}")
}

/// The step of one tensor.
struct Task<'a> {
    weight: &'a mut Matrix,
    gradient: &'a Matrix,
    memory: &'a mut Memory,
}

impl Task<'_> {
    /// Multiplications, roughly.
    fn cost(&self) -> usize {
        let numbers = self.weight.data().len();
        match self.memory {
            Memory::Muon { .. } => numbers.saturating_mul(self.weight.rows().min(self.weight.cols())),
            Memory::AdamW { .. } => numbers,
        }
    }

    fn run(self, compute: &Compute, options: &OptimizerOptions, rate: f32) {
        match self.memory {
            Memory::Muon { momentum } => {
                muon::step(compute, &options.muon, rate, self.weight, self.gradient, momentum);
            }
            Memory::AdamW { decay, steps, moments } => {
                *steps += 1;
                adamw::step(&options.adamw, rate, *decay, *steps, self.weight, self.gradient, moments);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cuvier_kernels::Isa;
    use std::num::NonZeroUsize;

    use super::*;
    use crate::optim::testing::normal_matrix;

    fn compute(threads: usize) -> Compute {
        Compute::new(Isa::best(), NonZeroUsize::new(threads).expect("positive")).expect("threads start")
    }

    fn tensors(seed: u64) -> Parameters {
        let mut parameters = Parameters::default();
        let names = [
            ("embed.weight", 10, 8),
            ("layers.0.attn.attn_sink", 1, 4),
            ("layers.0.attn.wkv.weight", 4, 8),
            ("layers.0.attn_norm.weight", 1, 8),
            ("layers.0.ffn.experts.0.w1.weight", 16, 8),
            ("layers.0.ffn.experts.0.w2.weight", 8, 16),
        ];
        for (at, (name, rows, cols)) in (0..).zip(names) {
            parameters.insert(name, normal_matrix(rows, cols, 100 * seed + at));
        }
        parameters
    }

    /// Three steps, from the beginning or from where `optimizer` is.
    fn steps(c: &Compute, optimizer: &mut Optimizer, parameters: &mut Parameters, seeds: [u64; 3]) {
        for seed in seeds {
            optimizer.step(c, 0.01, parameters, &tensors(seed));
        }
    }

    #[test]
    fn two_numbers_of_threads_give_the_same_bits() {
        let run = |threads| {
            let mut parameters = tensors(0);
            let mut optimizer = Optimizer::new(OptimizerOptions::default(), &parameters);
            steps(&compute(threads), &mut optimizer, &mut parameters, [1, 2, 3]);
            (parameters, optimizer)
        };
        let one = run(1);
        assert_ne!(one.0, tensors(0));
        assert_eq!(one, run(2));
        assert_eq!(one, run(5));
    }

    #[test]
    fn a_restored_optimizer_goes_on_with_the_same_bits() {
        let c = compute(1);
        let options = OptimizerOptions::default();
        let mut parameters = tensors(0);
        let mut optimizer = Optimizer::new(options, &parameters);
        steps(&c, &mut optimizer, &mut parameters, [1, 2, 3]);
        let mut again = Optimizer::restore(options, &parameters, &optimizer.state()).expect("its own state");
        assert_eq!(again, optimizer);
        let mut other = parameters.clone();
        steps(&c, &mut optimizer, &mut parameters, [4, 5, 6]);
        steps(&c, &mut again, &mut other, [4, 5, 6]);
        assert_eq!(parameters, other);
    }

    #[test]
    fn a_tensor_without_a_gradient_stays_and_makes_no_step() {
        let c = compute(1);
        let mut parameters = tensors(0);
        let mut optimizer = Optimizer::new(OptimizerOptions::default(), &parameters);
        let mut gradients = Parameters::default();
        gradients.insert("embed.weight", normal_matrix(10, 8, 9));
        optimizer.step(&c, 0.01, &mut parameters, &gradients);
        let changed: Vec<String> = parameters
            .iter()
            .filter(|(name, tensor)| tensors(0).get(name) != Some(tensor))
            .map(|(name, _)| name.to_owned())
            .collect();
        assert_eq!(changed, ["embed.weight"]);
        let state = optimizer.state();
        assert_eq!(state.steps["embed.weight"], 1);
        assert_eq!(state.steps["layers.0.attn_norm.weight"], 0);
    }

    #[test]
    fn a_state_of_other_weights_or_of_another_rule_is_refused_by_name() {
        let parameters = tensors(0);
        let options = OptimizerOptions::default();
        let state = Optimizer::new(options, &parameters).state();
        let refused = |options, parameters: &Parameters, state: &OptimizerState| {
            Optimizer::restore(options, parameters, state).expect_err("not its state").to_string()
        };
        let adamw = OptimizerOptions { matrices: MatrixRule::AdamW, ..options };
        assert_eq!(
            refused(adamw, &parameters, &state),
            "optimiser state: there is no `m.layers.0.attn.wkv.weight`"
        );
        let mut more = state.clone();
        more.tensors.insert("m.layers.9.x", Matrix::zeros(1, 1));
        assert_eq!(
            refused(options, &parameters, &more),
            "optimiser state: nothing is known of `m.layers.9.x`"
        );
        let mut other = parameters.clone();
        other.insert("embed.weight", Matrix::zeros(11, 8));
        assert_eq!(
            refused(options, &other, &state),
            "optimiser state: `m.embed.weight` has shape [10, 8], its weights have [11, 8]"
        );
        let mut fewer = state;
        fewer.steps.remove("embed.weight");
        assert_eq!(
            refused(options, &parameters, &fewer),
            "optimiser state: there is no `steps of embed.weight`"
        );
    }
}
