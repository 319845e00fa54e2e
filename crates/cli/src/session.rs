//! What verbs open: a checkpoint from a folder or from the binary itself, its tokenizer, its model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use cuvier_encoding::{Generation, Tokenizer};
use cuvier_engine::TransformerModel;
use cuvier_model::{Compute, KvFormat, Transformer};
use cuvier_types::Bytes;
use cuvier_weights::Checkpoint;

use crate::options::{ComputeArgs, show_size};

/// The config of the embedded toy model.
pub const CALF_CONFIG: &str = include_str!("../../../models/calf/config.json");
/// Its tokenizer.
pub const CALF_TOKENIZER: &[u8] = include_bytes!("../../../models/calf/tokenizer.json");
/// Room for one step's activations and a few short sequences beside the weights.
const WORKSPACE_BYTES: u64 = 1 << 30;
const CALF_WEIGHTS: &[u8] = include_bytes!("../../../models/calf/model.safetensors");
const CALF_GENERATION: &str = include_str!("../../../models/calf/generation_config.json");

/// An opened checkpoint.
pub struct Opened {
    /// What to call it.
    pub name: String,
    /// Its files.
    pub checkpoint: Checkpoint,
    folder: Option<PathBuf>,
}

/// Opens the checkpoint in `folder`, or the embedded one.
pub fn open_model(folder: Option<&Path>) -> anyhow::Result<Opened> {
    match folder {
        Some(folder) => Ok(Opened {
            name: folder_name(folder),
            checkpoint: Checkpoint::open(folder)?,
            folder: Some(folder.to_owned()),
        }),
        None => {
            let checkpoint = Checkpoint::from_parts(CALF_CONFIG.as_bytes(), Arc::new(CALF_WEIGHTS))?;
            Ok(Opened { name: "calf".to_owned(), checkpoint, folder: None })
        }
    }
}

/// Opens what can be known from config and headers alone.
pub fn open_headers(folder: Option<&Path>) -> anyhow::Result<Opened> {
    match folder {
        Some(folder) => Ok(Opened {
            name: folder_name(folder),
            checkpoint: Checkpoint::open_headers(folder)?,
            folder: Some(folder.to_owned()),
        }),
        None => open_model(None),
    }
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
    /// Refuses a ceiling that the weights alone exceed, or all but exceed.
    pub fn check_memory(&self, ceiling: Option<Bytes>) -> anyhow::Result<()> {
        let Some(ceiling) = ceiling else { return Ok(()) };
        let needed = Transformer::weight_bytes(&self.checkpoint) + WORKSPACE_BYTES;
        if needed > ceiling.0 {
            let (needed, ceiling) = (show_size(needed), show_size(ceiling.0));
            bail!(
                "{}: weights and workspace take {needed}, --memory allows {ceiling}; allow {needed}",
                self.name
            );
        }
        Ok(())
    }

    /// The model of the checkpoint, its matrices packed on the threads of `compute`.
    pub fn transformer(&self, compute: &Compute) -> anyhow::Result<Transformer> {
        Ok(Transformer::load(&self.checkpoint, compute)?)
    }

    /// The model for an engine, as the flags ask for it.
    ///
    /// # Errors
    /// If `--memory` is too little, or the checkpoint or the machine refuses.
    pub fn engine_model(&self, args: &ComputeArgs) -> anyhow::Result<TransformerModel> {
        self.check_memory(args.memory)?;
        self.engine_model_on(args.compute()?, args.kv.into())
    }

    /// The model for an engine, on threads that are there.
    ///
    /// # Errors
    /// If the checkpoint refuses.
    pub fn engine_model_on(&self, compute: Compute, kv: KvFormat) -> anyhow::Result<TransformerModel> {
        let transformer = Arc::new(self.transformer(&compute)?);
        Ok(TransformerModel::new(transformer, compute, kv))
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
