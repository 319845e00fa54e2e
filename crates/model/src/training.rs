//! A training pass: the forward pass of serving, which keeps what the way back needs, and the way back.

use cuvier_kernels::{Compute, KvFormat, Lent, RopeAngles, Routing, embed_backward, replicate_backward};
use cuvier_tensor::Matrix;
use cuvier_types::{Batch, Chunk, LogitRows, SequenceId, TokenId};

mod head;
mod slots;

use crate::gradients::Gradients;
use crate::hyper_connection::Streams;
use crate::kept::Kept;
use crate::layer::{KeptLayer, Layer};
use crate::moe::BalanceLoss;
use crate::step::{Segment, Step};
use crate::{Ctx, IndexerLoss, ModelError, Mtp, Parameters, Transformer};
use head::Head;

/// A forward pass over whole sequences.
pub struct TrainingPass {
    /// `[tokens, vocab_size]`: row `t` of a sequence predicts its token `t + 1`.
    pub logits: Lent,
    /// Of the MTP block, sequence by sequence one row less: row `t` predicts token `t + 2`. `None` without the block, or
    /// if it was not asked for.
    pub mtp_logits: Option<Lent>,
    backbone: Part,
    mtp: Option<Part>,
}

/// The layers of one stack, backbone or MTP block.
struct Part {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<Segment>,
    kept: Kept,
    /// The streams after the last layer.
    streams: Matrix,
    /// How keys are stored.
    kv: KvFormat,
}

/// The gradients that a loss has for the logits of a [`TrainingPass`].
pub struct LogitGradients {
    /// In the shape of `logits`.
    pub logits: Lent,
    /// In the shape of `mtp_logits`, if there are.
    pub mtp_logits: Option<Lent>,
}

/// Losses that live inside the model, each divided by the tokens of the optimiser's step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Objective {
    /// Of the balance of experts within a sequence.
    pub balance_per_token: f32,
    /// Of the indexer; `None` leaves its weights without gradients.
    pub indexer_per_token: Option<f32>,
}

/// What a backward pass found besides gradients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Losses {
    /// Sum over sequences and layers of length times balance loss; layers that route by score.
    pub balance: f64,
    /// Sum over tokens and CSA layers of the indexer's loss, in nats.
    pub indexer: f64,
}

impl Transformer {
    /// Computes the logits of whole sequences, none of which sees another, and keeps what the way back needs. With
    /// [`KvFormat::Fp8`] keys and index keys are rounded as in the official caches, and gradients pass straight through.
    /// With `chosen`, routers by score take these experts, as [`TrainingPass::chosen`] gave them, instead of choosing.
    ///
    /// # Errors
    /// If a sequence is empty, or does not fit the vocabulary or the context.
    ///
    /// # Panics
    /// If what is chosen is of other sequences or another shape.
    pub fn training_pass(
        &self,
        sequences: &[&[TokenId]],
        with_mtp: bool,
        kv: KvFormat,
        chosen: Option<&[Matrix<u16>]>,
        compute: &Compute,
    ) -> Result<TrainingPass, ModelError> {
        let chunks = sequences.iter().zip(0..).map(|(tokens, id)| Chunk {
            sequence: SequenceId(id),
            tokens: tokens.to_vec(),
            logits: LogitRows::All,
        });
        let batch = Batch { chunks: chunks.collect() };
        let mut states: Vec<_> = sequences.iter().map(|_| self.new_state(kv)).collect();
        let mut kept = Kept::default();
        let output = {
            let mut states: Vec<_> = states.iter_mut().collect();
            self.forward(&batch, &mut states, &mut Ctx::keeping(compute, &mut kept).choosing(chosen))?
        };
        let backbone =
            Part::new(sequences.iter().map(|tokens| tokens.iter()), kept, (*output.streams).clone(), kv);
        let (mtp, mtp_logits) = match &self.mtp {
            Some(mtp) if with_mtp && sequences.iter().any(|tokens| tokens.len() > 1) => {
                let by_score = self.layers.iter().filter(|layer| layer.ffn.routes_by_score()).count();
                let chosen = chosen.map(|chosen| &chosen[by_score..]);
                let (part, logits) = self.mtp_pass(mtp, sequences, &backbone, chosen, compute)?;
                (Some(part), Some(logits))
            }
            _ => (None, None),
        };
        Ok(TrainingPass { logits: output.logits, mtp_logits, backbone, mtp })
    }

    /// The way back: adds the gradients of all weights to `gradients`, which has a tensor in the shape of each.
    ///
    /// # Panics
    /// If `gradients` lacks one, or a gradient of logits has another shape than they.
    pub fn backward(
        &self,
        pass: &TrainingPass,
        dlogits: LogitGradients,
        objective: &Objective,
        gradients: &mut Parameters,
        compute: &Compute,
    ) -> Losses {
        let mut gradients = Gradients::new(gradients);
        let mut ctx = Ctx::new(compute);
        let mut losses = Losses::default();
        let mut dstreams =
            self.head().backward(&pass.backbone.streams, &dlogits.logits, &mut gradients, &ctx);
        if let (Some(mtp), Some(part), Some(dlogits)) = (&self.mtp, &pass.mtp, &dlogits.mtp_logits) {
            let from_mtp = self.mtp_backward(
                mtp,
                part,
                &pass.backbone,
                dlogits,
                objective,
                &mut losses,
                &mut gradients,
                &mut ctx,
            );
            for (row, from_mtp) in rows_with_next(&pass.backbone.segments).zip(from_mtp.view().iter()) {
                dstreams.row_mut(row).iter_mut().zip(from_mtp).for_each(|(sum, d)| *sum += d);
            }
        }
        let angles = [&self.tables.sliding, &self.tables.compressed]
            .map(|table| table.angles(compute, &pass.backbone.positions));
        let mut n_selections = pass.backbone.kept.selections.len();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let angles = &angles[usize::from(!layer.attn.is_sliding())];
            let is_csa = layer.attn.has_indexer();
            n_selections -= usize::from(is_csa);
            let kept = pass.backbone.kept.layer(index, is_csa.then_some(n_selections));
            let step = pass.backbone.step(angles);
            let mut indexer =
                objective.indexer_per_token.map(|per_token| IndexerLoss { per_token, sum: 0.0 });
            let balance = BalanceLoss { per_token: objective.balance_per_token };
            let below = &mut gradients.below(&format!("layers.{index}"));
            let loss =
                layer.backward(&kept, &mut dstreams, &step, balance, indexer.as_mut(), below, &mut ctx);
            losses.balance += f64::from(loss);
            losses.indexer += indexer.map_or(0.0, |indexer| indexer.sum);
        }
        let dx = replicate_backward(compute, dstreams.view(), self.config.hc_mult);
        gradients.with("embed.weight", |sum| {
            embed_backward(&pass.backbone.tokens, dx.view(), sum.view_mut());
        });
        losses
    }

    fn head(&self) -> Head<'_> {
        Head {
            hc: &self.hc_head,
            config: &self.hc_config,
            norm: &self.norm,
            weight: &self.head,
            hc_name: "hc_head".to_owned(),
            norm_name: "norm.weight".to_owned(),
        }
    }

    fn mtp_head<'a>(&'a self, mtp: &'a Mtp) -> Head<'a> {
        Head {
            hc: &mtp.hc_head,
            config: &mtp.hc_config,
            norm: &mtp.norm,
            weight: &self.head,
            hc_name: "mtp.0.hc_head".to_owned(),
            norm_name: "mtp.0.norm.weight".to_owned(),
        }
    }

    /// The MTP block on every token that has a next one.
    fn mtp_pass(
        &self,
        mtp: &Mtp,
        sequences: &[&[TokenId]],
        backbone: &Part,
        chosen: Option<&[Matrix<u16>]>,
        compute: &Compute,
    ) -> Result<(Part, Lent), ModelError> {
        let mut kept = Kept::default();
        let next = sequences.iter().map(|tokens| tokens[1..].iter());
        let mut part = Part::new(next, Kept::default(), Matrix::default(), backbone.kv);
        let mut states: Vec<_> = sequences.iter().map(|_| self.new_state(backbone.kv)).collect();
        let mut states: Vec<_> = states.iter_mut().filter_map(|state| state.mtp.as_mut()).collect();
        let angles = self.tables.sliding.angles(compute, &part.positions);
        let from_backbone = backbone.streams_with_next();
        let (logits, streams) = {
            let mut ctx = Ctx::keeping(compute, &mut kept).choosing(chosen);
            mtp.run(self, &from_backbone, &part.step(&angles), &mut states, &mut ctx)?
        };
        (part.kept, part.streams) = (kept, streams);
        Ok((part, logits))
    }

    /// Returns the gradient of the backbone's streams at the tokens that have a next one.
    #[expect(clippy::too_many_arguments, reason = "a forward pass, its losses, and where gradients go")]
    fn mtp_backward(
        &self,
        mtp: &Mtp,
        part: &Part,
        backbone: &Part,
        dlogits: &Matrix,
        objective: &Objective,
        losses: &mut Losses,
        gradients: &mut Gradients<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Lent {
        let mut dstreams = self.mtp_head(mtp).backward(&part.streams, dlogits, gradients, ctx);
        let angles = self.tables.sliding.angles(ctx.compute, &part.positions);
        let kept = part.kept.layer(0, None);
        let balance = BalanceLoss { per_token: objective.balance_per_token };
        let below = &mut gradients.below("mtp.0");
        let step = part.step(&angles);
        let loss = mtp.layer.backward(&kept, &mut dstreams, &step, balance, None, below, ctx);
        losses.balance += f64::from(loss);
        mtp.combine_backward(self, &backbone.streams_with_next(), &part.tokens, dstreams, gradients, ctx)
    }
}

impl TrainingPass {
    /// How many tokens each expert of each layer got, under the name of what the router has beside weights: `gate.bias`
    /// where it goes by score, `gate.tid2eid` where it goes by hash.
    pub fn loads(&self, model: &Transformer) -> Vec<(String, Vec<u64>)> {
        let of = |(prefix, layer, routing): (String, &Layer, &Routing)| {
            let mut load = vec![0; layer.ffn.experts.len()];
            routing.ids.data().iter().for_each(|&id| load[usize::from(id)] += 1);
            let by = if layer.ffn.routes_by_score() { "bias" } else { "tid2eid" };
            (format!("{prefix}.ffn.gate.{by}"), load)
        };
        self.routings(model).map(of).collect()
    }

    /// The experts that the routers by score chose, `[tokens, num_experts_per_tok]` each, in the order of the layers, the
    /// MTP block last.
    pub fn chosen(&self, model: &Transformer) -> Vec<Matrix<u16>> {
        let by_score = self.routings(model).filter(|(_, layer, _)| layer.ffn.routes_by_score());
        by_score.map(|(_, _, routing)| (*routing.ids).clone()).collect()
    }

    /// Each layer, under the prefix of its tensors, and where it sent the tokens.
    fn routings<'a>(
        &'a self,
        model: &'a Transformer,
    ) -> impl Iterator<Item = (String, &'a Layer, &'a Routing)> {
        let layers = model.layers.iter().zip(&self.backbone.kept.routings).enumerate();
        let layers = layers.map(|(index, (layer, routing))| (format!("layers.{index}"), layer, routing));
        let mtp = model.mtp.iter().map(|mtp| &mtp.layer);
        let mtp = mtp.zip(self.mtp.iter().flat_map(|part| &part.kept.routings));
        layers.chain(mtp.map(|(layer, routing)| ("mtp.0".to_owned(), layer, routing)))
    }
}

impl Part {
    fn new<'t>(
        sequences: impl Iterator<Item = impl ExactSizeIterator<Item = &'t TokenId>>,
        kept: Kept,
        streams: Matrix,
        kv: KvFormat,
    ) -> Self {
        let mut part =
            Self { tokens: Vec::new(), positions: Vec::new(), segments: Vec::new(), kept, streams, kv };
        for sequence in sequences {
            let start = part.tokens.len();
            part.positions.extend(0..sequence.len() as u32);
            part.tokens.extend(sequence.map(|token| token.0));
            part.segments.push(Segment { rows: start..part.tokens.len(), first_position: 0 });
        }
        part
    }

    fn step<'a>(&'a self, angles: &'a RopeAngles) -> Step<'a> {
        let Self { tokens, positions, segments, kv, .. } = self;
        Step { tokens, positions, segments, angles, kv: *kv }
    }

    /// The streams at the tokens that have a next one.
    fn streams_with_next(&self) -> Streams {
        let rows = rows_with_next(&self.segments).flat_map(|row| self.streams.row(row).iter().copied());
        Matrix::from_vec(rows.collect(), self.streams.cols())
    }
}

impl Kept {
    fn layer(&self, index: usize, selection: Option<usize>) -> KeptLayer<'_> {
        KeptLayer {
            sublayers: [&self.sublayers[2 * index], &self.sublayers[2 * index + 1]],
            selection: selection.map(|selection| &self.selections[selection]),
            routing: &self.routings[index],
        }
    }
}

/// The rows of tokens that are not the last of their sequence.
fn rows_with_next(segments: &[Segment]) -> impl Iterator<Item = usize> + '_ {
    segments.iter().flat_map(|segment| segment.rows.start..segment.rows.end - 1)
}
