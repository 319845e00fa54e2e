//! The releases of V4, and how each spells the effort of thinking.

use std::str::FromStr;

use thiserror::Error;

/// Which release a checkpoint belongs to. They differ in the text that sets the effort of thinking and in nothing
/// else.
///
/// Source: `encoding/encoding_dsv4.py` of the two releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// The first release, April 2026.
    Preview,
    /// The release of 31 July 2026 and those after it.
    Revised0731,
}

/// Whether the model thinks before it answers, and how hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thinking {
    /// It answers at once.
    Off,
    /// It thinks briefly.
    Low,
    /// It thinks.
    High,
    /// It thinks as long as it can.
    Max,
}

/// A name of an effort that no API knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown effort `{got}`: none, minimal, low, medium, high, xhigh, max or ultra")]
pub struct UnknownEffort {
    /// The name.
    pub got: String,
}

/// Neither release of V4.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown generation `{got}`: preview or 0731")]
pub struct UnknownGeneration {
    /// The name, or what was recognised.
    pub got: String,
}

const THOROUGH: &str = concat!(
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n",
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root ",
    "cause, rigorously stress-testing your logic against all potential paths, edge cases, and adversarial ",
    "scenarios.\n",
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered ",
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n",
);

const EXHAUSTIVE: &str = concat!(
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n",
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose ",
    "the problem into its most fundamental components, trace every causal chain to its root, and resolve the ",
    "underlying cause rather than any surface symptom.\n",
    "Do not stop reasoning until you have independently verified the solution from multiple angles and are certain ",
    "that no assumption remains unchecked and no error remains undiscovered.\n\n",
);

impl Generation {
    /// Recognises the release by the source of the encoder that lies beside its weights,
    /// `encoding/encoding_dsv4.py`.
    ///
    /// # Errors
    /// If it is the encoder of V4.1, whose format is another.
    pub fn of_encoder_source(source: &str) -> Result<Self, UnknownGeneration> {
        if source.contains("<｜System｜>") {
            return Err(UnknownGeneration { got: "V4.1".to_owned() });
        }
        Ok(if source.contains("Beyond maximum") { Self::Revised0731 } else { Self::Preview })
    }

    /// The text that opens a thinking prompt; empty at the effort that is the model's normal.
    pub(super) fn effort_text(self, thinking: Thinking) -> &'static str {
        match (self, thinking) {
            (Self::Preview, Thinking::Max) | (Self::Revised0731, Thinking::High) => THOROUGH,
            (Self::Revised0731, Thinking::Max) => EXHAUSTIVE,
            (Self::Preview, Thinking::Off | Thinking::Low | Thinking::High)
            | (Self::Revised0731, Thinking::Off | Thinking::Low) => "",
        }
    }
}

impl FromStr for Generation {
    type Err = UnknownGeneration;

    /// `preview` or `0731`.
    fn from_str(name: &str) -> Result<Self, UnknownGeneration> {
        match name {
            "preview" => Ok(Self::Preview),
            "0731" => Ok(Self::Revised0731),
            _ => Err(UnknownGeneration { got: name.to_owned() }),
        }
    }
}

impl Thinking {
    /// What DeepSeek's API takes a missing effort for.
    pub const UNSET: Self = Self::High;
}

impl FromStr for Thinking {
    type Err = UnknownEffort;

    /// The names that OpenAI's, Anthropic's and DeepSeek's APIs give to efforts, as DeepSeek's own API maps them.
    fn from_str(name: &str) -> Result<Self, UnknownEffort> {
        match name {
            "none" => Ok(Self::Off),
            "minimal" | "low" => Ok(Self::Low),
            "medium" | "high" | "xhigh" => Ok(Self::High),
            "max" | "ultra" => Ok(Self::Max),
            _ => Err(UnknownEffort { got: name.to_owned() }),
        }
    }
}
