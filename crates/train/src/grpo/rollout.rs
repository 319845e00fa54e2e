//! Answers drawn from the engine.

use std::num::NonZeroUsize;
use std::sync::Arc;

use cuvier_encoding::Tokenizer;
use cuvier_engine::{Engine, EngineConfig, EngineError, Request, TransformerModel};
use cuvier_kernels::{Compute, Isa, KvFormat};
use cuvier_model::Transformer;
use cuvier_types::{Event, SamplingParams, TokenId};

use crate::data::{Body, DataError, Encoder, Sample, SampleError};

/// A question with a verifier.
#[derive(Clone, Debug)]
pub struct Question {
    /// What is asked, and what judges the answer.
    pub sample: Sample,
    /// The prompt.
    pub prompt: Vec<TokenId>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// Which question it answers.
    pub question: usize,
    /// The tokens drawn, the end of turn included.
    pub tokens: Vec<TokenId>,
    /// The log-probability of each under the model that drew it.
    pub logprobs: Vec<f32>,
}

impl Question {
    /// The question of a sample; `None` if nothing verifies it.
    ///
    /// # Errors
    /// If the vocabulary cannot write it.
    pub fn new(sample: Sample, encoder: Encoder<'_>) -> Result<Option<Self>, SampleError> {
        let Body::Chat(chat) = &sample.body else { return Ok(None) };
        if sample.answer.is_none() {
            return Ok(None);
        }
        let prompt = encoder.question(chat)?;
        Ok(Some(Self { sample, prompt }))
    }

    /// Whether an answer is the one that is wanted.
    pub fn is_right(&self, rollout: &Rollout, tokenizer: &Tokenizer) -> bool {
        let text = tokenizer.decode(&rollout.tokens);
        self.sample.verdict(&text).is_some_and(|verdict| self.sample.wants(verdict))
    }
}

/// How answers are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// Answers to each question.
    pub answers: usize,
    /// Tokens of an answer, at most.
    pub tokens_max: usize,
    /// What chance follows from.
    pub seed: u64,
}

/// Draws answers to each question at temperature 1, from an engine that runs `model` as it is, with exact state: the
/// log-probabilities are those that a training pass over the same tokens finds.
///
/// # Errors
/// If no engine can be started, or a question does not fit the model's context.
pub fn draw(
    model: &Arc<Transformer>,
    questions: &[&Question],
    stop: TokenId,
    drawing: Drawing,
    threads: NonZeroUsize,
    isa: Isa,
) -> Result<Vec<Rollout>, EngineError> {
    let compute = Compute::new(isa, threads).map_err(EngineError::Thread)?;
    let model = TransformerModel::new(Arc::clone(model), compute, KvFormat::F32);
    let config = EngineConfig { batch_tokens_max: 1024, sequences_max: 64, ..EngineConfig::default() };
    let engine = Engine::start(model, config)?;
    let mut streams = Vec::new();
    for (question, asked) in questions.iter().enumerate() {
        for answer in 0..drawing.answers {
            let index = (question * drawing.answers + answer) as u64;
            let seed = drawing.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(index);
            let sampling = SamplingParams { logprobs: Some(0), seed, ..SamplingParams::default() };
            let request = Request {
                sampling,
                max_tokens: Some(drawing.tokens_max),
                stop_tokens: vec![stop],
                ..Request::new(asked.prompt.clone())
            };
            streams.push((question, engine.submit(request)?));
        }
    }
    let mut rollouts = Vec::with_capacity(streams.len());
    for (question, stream) in streams {
        let mut rollout = Rollout { question, tokens: Vec::new(), logprobs: Vec::new() };
        for event in stream {
            if let Event::Token { token, logprobs } = event {
                rollout.tokens.push(token);
                rollout.logprobs.push(logprobs.map_or(0.0, |logprobs| logprobs.logprob));
            }
        }
        rollouts.push(rollout);
    }
    Ok(rollouts)
}

/// The questions of a file of samples.
///
/// # Errors
/// If the file cannot be read, or a sample not be written.
pub(crate) fn questions(file: &std::path::Path, encoder: Encoder<'_>) -> Result<Vec<Question>, DataError> {
    let mut questions = Vec::new();
    for (sample, line) in crate::data::SampleFile::open(file)?.zip(1..) {
        let located = |source| DataError::Line { file: file.to_owned(), line, source };
        questions.extend(Question::new(sample?, encoder).map_err(located)?);
    }
    Ok(questions)
}
