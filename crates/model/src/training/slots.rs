//! The weights of a model by name, to be read and replaced between steps.

use cuvier_kernels::Compute;
use cuvier_kernels::{ExpertWeights, HcHead, HyperConnection, decoded};
use cuvier_tensor::{Matrix, WeightMatrix};

use crate::attention::{Attention, Compressed};
use crate::compressor::Compressor;
use crate::layer::Layer;
use crate::moe::{Moe, Selection};
use crate::{Parameters, Transformer};

/// Where the model holds a tensor, or three that belong together.
enum Slot<'a> {
    Matrix(&'a mut WeightMatrix),
    /// A vector, or a matrix row by row, of so many columns.
    Numbers(&'a mut Vec<f32>, usize),
    Connection(&'a mut HyperConnection),
    Head(&'a mut HcHead),
}

impl Transformer {
    /// All weights that a gradient trains, as f32: not the biases and tables of the routers.
    pub fn parameters(&mut self, compute: &Compute) -> Parameters {
        let mut parameters = Parameters::default();
        for (name, slot) in self.slots() {
            match slot {
                Slot::Matrix(weight) => {
                    let numbers = decoded(compute, weight);
                    parameters.insert(name, Matrix::from_vec(numbers.data().to_vec(), weight.cols()));
                }
                Slot::Numbers(numbers, cols) => {
                    parameters.insert(name, Matrix::from_vec(numbers.clone(), cols));
                }
                Slot::Connection(hc) => {
                    let (r#fn, base, scale) = hc.weights();
                    insert_hc(&mut parameters, &name, r#fn, base, scale);
                }
                Slot::Head(hc) => {
                    let (r#fn, base, scale) = hc.weights();
                    insert_hc(&mut parameters, &name, r#fn, base, &[scale]);
                }
            }
        }
        parameters
    }

    /// Takes other weights, as f32 numbers, in the shapes of [`Transformer::parameters`]. States of before belong to another
    /// model.
    ///
    /// # Panics
    /// If one is missing or has another shape.
    pub fn set_parameters(&mut self, parameters: &Parameters) {
        let get = |name: &str| parameters.get(name).unwrap_or_else(|| panic!("parameters lack {name}"));
        for (name, slot) in self.slots() {
            match slot {
                Slot::Matrix(weight) => {
                    let new = get(&name);
                    assert_eq!((new.rows(), new.cols()), (weight.rows(), weight.cols()), "{name}");
                    *weight = WeightMatrix::from_f32(new.data(), new.rows(), new.cols());
                }
                Slot::Numbers(numbers, _) => numbers.copy_from_slice(get(&name).data()),
                Slot::Connection(hc) => {
                    let [r#fn, base, scale] = HC.map(|part| get(&format!("{name}_{part}")));
                    hc.set_weights(r#fn, base.data(), scale.data());
                }
                Slot::Head(hc) => {
                    let [r#fn, base, scale] = HC.map(|part| get(&format!("{name}_{part}")));
                    hc.set_weights(r#fn, base.data(), scale.data()[0]);
                }
            }
        }
        self.fingerprint = self.compute_fingerprint();
    }

    /// The biases of the routers that choose by score, in order of layers, the MTP block's last, by name.
    pub fn router_biases(&mut self) -> Vec<(String, &mut Vec<f32>)> {
        let mut biases = Vec::new();
        for (prefix, layer) in named_layers(self) {
            if let Selection::Score { bias } = &mut layer.ffn.gate.selection {
                biases.push((format!("{prefix}.ffn.gate.bias"), bias));
            }
        }
        biases
    }

    /// How many entries each token of a CSA layer looks at, at most. A trainer looks at all of them first.
    pub fn set_index_topk(&mut self, index_topk: usize) {
        for layer in &mut self.layers {
            if let Compressed::Csa { indexer, .. } = &mut layer.attn.compressed {
                indexer.index_topk = index_topk;
            }
        }
    }

    fn slots(&mut self) -> Vec<(String, Slot<'_>)> {
        let mut slots = Slots(Vec::new());
        let layers = self.layers.iter_mut().enumerate();
        layers.for_each(|(index, layer)| slots.layer(&format!("layers.{index}"), layer));
        slots.matrix("embed.weight".to_owned(), self.embed.loaded_mut());
        slots.matrix("head.weight".to_owned(), &mut self.head);
        slots.vector("norm.weight".to_owned(), &mut self.norm);
        slots.0.push(("hc_head".to_owned(), Slot::Head(&mut self.hc_head)));
        if let Some(mtp) = &mut self.mtp {
            slots.matrix("mtp.0.e_proj.weight".to_owned(), &mut mtp.e_proj);
            slots.matrix("mtp.0.h_proj.weight".to_owned(), &mut mtp.h_proj);
            slots.vector("mtp.0.enorm.weight".to_owned(), &mut mtp.enorm);
            slots.vector("mtp.0.hnorm.weight".to_owned(), &mut mtp.hnorm);
            slots.vector("mtp.0.norm.weight".to_owned(), &mut mtp.norm);
            slots.0.push(("mtp.0.hc_head".to_owned(), Slot::Head(&mut mtp.hc_head)));
            slots.layer("mtp.0", &mut mtp.layer);
        }
        slots.0
    }
}

/// The parts of a hyper-connection's name.
const HC: [&str; 3] = ["fn", "base", "scale"];

fn insert_hc(parameters: &mut Parameters, name: &str, r#fn: Matrix, base: &[f32], scale: &[f32]) {
    parameters.insert(format!("{name}_fn"), r#fn);
    parameters.insert(format!("{name}_base"), Matrix::from_vec(base.to_vec(), base.len()));
    parameters.insert(format!("{name}_scale"), Matrix::from_vec(scale.to_vec(), scale.len()));
}

fn named_layers(model: &mut Transformer) -> impl Iterator<Item = (String, &mut Layer)> {
    let layers = model.layers.iter_mut().enumerate().map(|(index, layer)| (format!("layers.{index}"), layer));
    layers.chain(model.mtp.iter_mut().map(|mtp| ("mtp.0".to_owned(), &mut mtp.layer)))
}

/// Slots so far.
struct Slots<'a>(Vec<(String, Slot<'a>)>);

impl<'a> Slots<'a> {
    fn matrix(&mut self, name: String, weight: &'a mut WeightMatrix) {
        self.0.push((name, Slot::Matrix(weight)));
    }

    fn vector(&mut self, name: String, numbers: &'a mut Vec<f32>) {
        let cols = numbers.len();
        self.0.push((name, Slot::Numbers(numbers, cols)));
    }

    fn layer(&mut self, prefix: &str, layer: &'a mut Layer) {
        self.0.push((format!("{prefix}.hc_attn"), Slot::Connection(&mut layer.hc_attn.hc)));
        self.vector(format!("{prefix}.attn_norm.weight"), &mut layer.attn_norm);
        self.attention(&format!("{prefix}.attn"), &mut layer.attn);
        self.0.push((format!("{prefix}.hc_ffn"), Slot::Connection(&mut layer.hc_ffn.hc)));
        self.vector(format!("{prefix}.ffn_norm.weight"), &mut layer.ffn_norm);
        self.moe(&format!("{prefix}.ffn"), &mut layer.ffn);
    }

    fn attention(&mut self, prefix: &str, attn: &'a mut Attention) {
        self.matrix(format!("{prefix}.wq_a.weight"), &mut attn.wq_a);
        self.vector(format!("{prefix}.q_norm.weight"), &mut attn.q_norm);
        self.matrix(format!("{prefix}.wq_b.weight"), &mut attn.wq_b);
        self.matrix(format!("{prefix}.wkv.weight"), &mut attn.wkv);
        self.vector(format!("{prefix}.kv_norm.weight"), &mut attn.kv_norm);
        self.matrix(format!("{prefix}.wo_a.weight"), &mut attn.wo_a);
        self.matrix(format!("{prefix}.wo_b.weight"), &mut attn.wo_b);
        self.vector(format!("{prefix}.attn_sink"), &mut attn.attn_sink);
        match &mut attn.compressed {
            Compressed::Sliding => {}
            Compressed::Hca { compressor } => self.compressor(&format!("{prefix}.compressor"), compressor),
            Compressed::Csa { compressor, indexer } => {
                self.compressor(&format!("{prefix}.compressor"), compressor);
                let prefix = format!("{prefix}.indexer");
                self.matrix(format!("{prefix}.wq_b.weight"), &mut indexer.wq_b);
                self.matrix(format!("{prefix}.weights_proj.weight"), &mut indexer.weights_proj);
                self.compressor(&format!("{prefix}.compressor"), &mut indexer.compressor);
            }
        }
    }

    fn compressor(&mut self, prefix: &str, compressor: &'a mut Compressor) {
        self.matrix(format!("{prefix}.wkv.weight"), &mut compressor.wkv);
        self.matrix(format!("{prefix}.wgate.weight"), &mut compressor.wgate);
        self.0
            .push((format!("{prefix}.ape"), Slot::Numbers(&mut compressor.ape, compressor.shape.features())));
        self.vector(format!("{prefix}.norm.weight"), &mut compressor.norm);
    }

    fn moe(&mut self, prefix: &str, moe: &'a mut Moe) {
        self.matrix(format!("{prefix}.gate.weight"), &mut moe.gate.weight);
        for (index, expert) in moe.experts.loaded_mut().iter_mut().enumerate() {
            self.expert(&format!("{prefix}.experts.{index}"), expert);
        }
        self.expert(&format!("{prefix}.shared_experts"), &mut moe.shared_experts);
    }

    fn expert(&mut self, prefix: &str, expert: &'a mut ExpertWeights) {
        self.matrix(format!("{prefix}.w1.weight"), &mut expert.w1);
        self.matrix(format!("{prefix}.w3.weight"), &mut expert.w3);
        self.matrix(format!("{prefix}.w2.weight"), &mut expert.w2);
    }
}
