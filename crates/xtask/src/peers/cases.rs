//! What is timed, and what is hoped for.

use std::fmt;

/// A synthetic checkpoint.
#[derive(Debug, PartialEq)]
pub struct Model {
    pub name: &'static str,
    /// Flags of `cuvier synth`; `SHAPES/` stands for the folder of this file.
    pub synth: &'static [&'static str],
}

/// Two layers (CSA, HCA) of the true width of V4-Flash: what one layer costs at full size.
pub const WIDE2: Model = Model { name: "wide2", synth: &["--shape", "flash", "--layers", "2", "--no-mtp"] };

/// Six narrow layers of every kind: what a token costs beside its weights.
pub const TINY: Model = Model { name: "tiny", synth: &["--shape", "SHAPES/tiny.json"] };

/// What is done to a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// A prompt of this many tokens.
    Prefill(usize),
    /// This many tokens, one after the other, from an empty context.
    Decode(usize),
}

/// A line of the table: the same work by both.
pub struct Case {
    pub model: &'static Model,
    pub work: Work,
    /// Repetitions within one process, after one that is not counted; the round's figure is their median.
    pub repeat: usize,
    /// Times the speed of llama.cpp.
    pub ratio_goal: Option<f64>,
    /// Share of the roof.
    pub roof_goal: Option<f64>,
}

const fn case(model: &'static Model, work: Work, repeat: usize, ratio_goal: f64) -> Case {
    Case { model, work, repeat, ratio_goal: Some(ratio_goal), roof_goal: None }
}

pub const CASES: [Case; 6] = [
    case(&WIDE2, Work::Prefill(512), 2, 4.0),
    case(&WIDE2, Work::Prefill(4096), 1, 6.5),
    Case { roof_goal: Some(0.80), ..case(&WIDE2, Work::Decode(32), 3, 1.45) },
    case(&TINY, Work::Prefill(512), 3, 5.0),
    Case { ratio_goal: None, ..case(&TINY, Work::Prefill(4096), 1, 0.0) },
    case(&TINY, Work::Decode(128), 3, 3.0),
];

/// A run of `cuvier bench` that decodes, by what tells it from others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    pub isa: Option<&'static str>,
    pub context: usize,
    pub slots: usize,
}

/// A line of the second table: one decoding beside another, both ours, on [`WIDE2`].
pub struct Comparison {
    pub label: &'static str,
    pub this: Decoding,
    pub beside: Decoding,
    /// The speed of `this`, in speeds of `beside`.
    pub goal: f64,
}

/// Repetitions in one process of a comparison.
pub const COMPARED_REPEAT: usize = 3;

/// Tokens decoded in every comparison.
pub const COMPARED_TOKENS: usize = 32;

const fn decoding(context: usize, slots: usize) -> Decoding {
    Decoding { isa: None, context, slots }
}

/// What is decoded then ends where the context of the model does.
const LONGEST: usize = (1 << 20) - COMPARED_TOKENS;

pub const COMPARISONS: [Comparison; 4] = [
    Comparison {
        label: "131,072 tokens of context : 4,096",
        this: decoding(131_072, 1),
        beside: decoding(4096, 1),
        goal: 0.90,
    },
    Comparison {
        label: "1,048,544 tokens of context : 4,096",
        this: decoding(LONGEST, 1),
        beside: decoding(4096, 1),
        goal: 0.75,
    },
    Comparison { label: "8 slots : 1", this: decoding(0, 8), beside: decoding(0, 1), goal: 3.0 },
    Comparison {
        label: "AVX2 : AVX-512",
        this: Decoding { isa: Some("avx2"), ..decoding(0, 1) },
        beside: Decoding { isa: Some("avx512"), ..decoding(0, 1) },
        goal: 0.75,
    },
];

impl Work {
    pub fn tokens(self) -> usize {
        match self {
            Self::Prefill(tokens) | Self::Decode(tokens) => tokens,
        }
    }

    /// Its name in `cuvier bench --json`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Prefill(_) => "prefill",
            Self::Decode(_) => "decode",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.model.name, self.work.kind(), self.work.tokens())
    }
}
