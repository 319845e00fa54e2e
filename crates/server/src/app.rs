//! What all requests share.

use std::sync::Arc;

use cuvier_encoding::Tokenizer;
use cuvier_engine::EngineHandle;
use cuvier_engine::guide::VocabularyError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::constraint::Constraints;
use crate::metrics::Metrics;
use crate::recall::Recall;
use crate::{ApiError, ServerConfig};

/// What all requests share.
pub struct App {
    pub(crate) engine: Arc<EngineHandle>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) config: ServerConfig,
    pub(crate) metrics: Metrics,
    pub(crate) recall: Recall,
    pub(crate) constraints: Constraints,
    pub(crate) started: u64,
    permits: Arc<Semaphore>,
}

impl App {
    /// Takes the engine and what reads and writes its tokens.
    ///
    /// # Errors
    /// If the vocabulary contradicts itself, so that no answer could be held to a grammar.
    pub fn new(
        engine: EngineHandle,
        tokenizer: Tokenizer,
        config: ServerConfig,
    ) -> Result<Self, VocabularyError> {
        let engine = Arc::new(engine);
        Ok(Self {
            permits: Arc::new(Semaphore::new(config.requests_max)),
            metrics: Metrics::new(engine.clone()),
            recall: Recall::default(),
            constraints: Constraints::new(&tokenizer)?,
            started: crate::wire::now(),
            engine,
            tokenizer,
            config,
        })
    }

    /// Checks that one request does not want more answers than there can ever be room for.
    ///
    /// # Errors
    /// If it does: trying again would not help.
    pub(crate) fn check_n_answers(&self, n: u64) -> Result<(), ApiError> {
        let max = self.config.requests_max;
        if n <= max as u64 {
            Ok(())
        } else {
            Err(ApiError::field("n", format!("asks for {n} answers, at most {max}")))
        }
    }

    /// Room for `n` answers.
    ///
    /// # Errors
    /// If there is less at the moment.
    pub(crate) fn admit(&self, n: u64) -> Result<Vec<OwnedSemaphorePermit>, ApiError> {
        let limit = self.config.requests_max;
        let one = |_| self.permits.clone().try_acquire_owned().map_err(|_| ApiError::Busy { limit });
        (0..n).map(one).collect()
    }
}
