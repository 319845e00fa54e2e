//! What verbs open: a checkpoint from a folder or from the binary itself, its tokenizer, its model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use cuvier_encoding::{Generation, Tokenizer};
use cuvier_engine::TransformerModel;
use cuvier_model::plan::{Plan, Stock, plan as plan_memory, return_large_blocks};
use cuvier_model::{Compute, Transformer};
use cuvier_weights::Checkpoint;

use crate::needs::{Needs, wish_for};
use crate::options::ComputeArgs;
use crate::planning::refusal;

/// The config of the embedded toy model.
pub const CALF_CONFIG: &str = include_str!("../../../models/calf/config.json");
/// Its tokenizer.
pub const CALF_TOKENIZER: &[u8] = include_bytes!("../../../models/calf/tokenizer.json");
const CALF_WEIGHTS: &[u8] = include_bytes!("../../../models/calf/model.safetensors");
const CALF_GENERATION: &str = include_str!("../../../models/calf/generation_config.json");

/// An opened checkpoint.
pub struct Opened {
    /// What to call it.
    pub name: String,
    /// Its files, of which only headers were read.
    pub checkpoint: Arc<Checkpoint>,
    folder: Option<PathBuf>,
}

/// Opens the checkpoint in `folder`, or the embedded one, by config and headers alone: what it takes in memory is known
/// before any of it is there.
pub fn open_model(folder: Option<&Path>) -> anyhow::Result<Opened> {
    match folder {
        Some(folder) => Ok(Opened {
            name: folder_name(folder),
            checkpoint: Arc::new(Checkpoint::open_streamed(folder)?),
            folder: Some(folder.to_owned()),
        }),
        None => Ok(Opened { name: "calf".to_owned(), checkpoint: Arc::new(open_calf()?), folder: None }),
    }
}

fn open_calf() -> anyhow::Result<Checkpoint> {
    Ok(Checkpoint::from_parts(CALF_CONFIG.as_bytes(), Arc::new(CALF_WEIGHTS))?)
}

fn folder_name(folder: &Path) -> String {
    folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// Opens the tokenizer in `folder`, or the embedded one.
pub fn open_tokenizer(folder: Option<&Path>) -> anyhow::Result<Tokenizer> {
    match folder {
        Some(folder) => {
            let file = folder.join("tokenizer.json");
            if !file.exists() {
                bail!("{}: not there; copy the model's tokenizer into the folder", file.display());
            }
            Tokenizer::from_file(&file).with_context(|| file.display().to_string())
        }
        None => Tokenizer::from_bytes(CALF_TOKENIZER).context("the embedded tokenizer"),
    }
}

impl Opened {
    /// The checkpoint with every scale looked at.
    pub fn checked(&self) -> anyhow::Result<Checkpoint> {
        match &self.folder {
            Some(folder) => Ok(Checkpoint::open(folder)?),
            None => open_calf(),
        }
    }

    /// Where weights, states and intermediate results go, within `--memory` or what the machine has free.
    ///
    /// # Errors
    /// If they do not fit; the error says what would.
    pub fn plan(&self, args: &ComputeArgs, needs: Needs) -> anyhow::Result<Plan> {
        let stock = Stock::of_checkpoint(&self.checkpoint)?;
        let wish = wish_for(self.checkpoint.config(), args, needs);
        return_large_blocks();
        plan_memory(&stock, wish)
            .map_err(|refused| anyhow!("{}: {}", self.name, refusal(&refused, &wish, needs.flags)))
    }

    /// The model of the checkpoint, all of it in memory.
    pub fn transformer(&self, compute: &Compute) -> anyhow::Result<Transformer> {
        Ok(Transformer::load(&self.checked()?, compute)?)
    }

    /// The model of the checkpoint, loaded as the plan says.
    pub fn transformer_as(&self, plan: &Plan, compute: &Compute) -> anyhow::Result<Transformer> {
        match plan.streaming {
            Some(streaming) => {
                Ok(Transformer::load_streamed(Arc::clone(&self.checkpoint), compute, streaming)?)
            }
            None => self.transformer(compute),
        }
    }

    /// The model for an engine, loaded as the plan says.
    pub fn engine_model(&self, plan: &Plan, args: &ComputeArgs) -> anyhow::Result<TransformerModel> {
        let compute = args.compute()?;
        let transformer = Arc::new(self.transformer_as(plan, &compute)?);
        Ok(TransformerModel::new(transformer, compute, args.kv.into()))
    }

    /// The tokenizer beside it; one that has more tokens than the model is refused.
    pub fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        let tokenizer = open_tokenizer(self.folder.as_deref())?;
        let vocab_size = self.checkpoint.config().vocab_size;
        if tokenizer.vocab_size() > vocab_size {
            let tokens = tokenizer.vocab_size();
            bail!(
                "the tokenizer has {tokens} tokens, but the model's vocabulary {vocab_size}: they do not belong together"
            );
        }
        Ok(tokenizer)
    }

    /// Temperature and top-p that the checkpoint recommends in its `generation_config.json`; 1 and 1 where it says
    /// nothing, temperature 0 where it says not to sample.
    pub fn sampling_defaults(&self) -> anyhow::Result<(f32, f32)> {
        let text = match &self.folder {
            None => CALF_GENERATION.to_owned(),
            Some(folder) => {
                let file = folder.join("generation_config.json");
                if !file.exists() {
                    return Ok((1.0, 1.0));
                }
                std::fs::read_to_string(&file).with_context(|| file.display().to_string())?
            }
        };
        let config: serde_json::Value = serde_json::from_str(&text).context("generation_config.json")?;
        let number = |key: &str, min: f64, max: f64| {
            let value = config[key].as_f64().unwrap_or(1.0);
            if (min..=max).contains(&value) {
                Ok(value as f32)
            } else {
                bail!("generation_config.json: `{key}` is {value}, not within {min} to {max}")
            }
        };
        let temperature = if config["do_sample"] == false { 0.0 } else { number("temperature", 0.0, 2.0)? };
        Ok((temperature, number("top_p", 0.0, 1.0)?))
    }

    /// Which chat format the checkpoint was trained with: that of the encoder shipped beside its weights, else the
    /// later one.
    pub fn generation(&self) -> anyhow::Result<Generation> {
        let Some(folder) = &self.folder else { return Ok(Generation::Revised0731) };
        let file = folder.join("encoding").join("encoding_dsv4.py");
        if !file.exists() {
            return Ok(Generation::Revised0731);
        }
        let source = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Generation::of_encoder_source(&source).with_context(|| file.display().to_string())
    }
}
