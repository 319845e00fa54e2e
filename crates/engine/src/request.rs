//! A request, and the check at the door.

use cuvier_types::{SamplingParams, TokenId};

use crate::{Guide, RequestError};

/// One prompt to be continued.
#[derive(Debug)]
pub struct Request {
    /// The tokens to continue; for a conversation, those that are new.
    pub prompt: Vec<TokenId>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// The most tokens to draw; `None` draws until the context is full. 0 computes the prompt and draws nothing.
    pub max_tokens: Option<usize>,
    /// Drawing one of these ends the answer. It is still told, as the answer's last token.
    pub stop_tokens: Vec<TokenId>,
    /// Who shares with whom: what was computed in one scope is never used in another.
    pub scope: u64,
    /// Positions in the prompt up to which others are believed to begin alike, such as the end of instructions and
    /// tools; states are kept there, on disk too. Those beyond the prompt count for nothing.
    pub marks: Vec<usize>,
    /// Says which tokens may be drawn; `None` allows all. One that comes to its end allows only its end token, so that
    /// should be among the `stop_tokens`.
    pub guide: Option<Box<dyn Guide>>,
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) vocab_size: usize,
    pub(crate) context_max: usize,
}

impl Request {
    /// A request with default sampling and no end but the context's.
    pub fn new(prompt: Vec<TokenId>) -> Self {
        Self {
            prompt,
            sampling: SamplingParams::default(),
            max_tokens: None,
            stop_tokens: Vec::new(),
            scope: 0,
            marks: Vec::new(),
            guide: None,
        }
    }

    /// Checks all that does not depend on what came before the prompt.
    pub(crate) fn check(&self, bounds: Bounds) -> Result<(), RequestError> {
        bounds.check_tokens("prompt", self.prompt.iter().copied())?;
        bounds.check_tokens("stop_tokens", self.stop_tokens.iter().copied())?;
        bounds.check_tokens("logit_bias", self.sampling.logit_bias.iter().map(|&(token, _)| token))?;
        check_sampling(&self.sampling)
    }

    /// Checks that `n_prompt` tokens, history included, can be answered.
    pub(crate) fn check_len(&self, n_prompt: usize, bounds: Bounds) -> Result<(), RequestError> {
        let n_draws_at_least = usize::from(self.max_tokens != Some(0));
        if n_prompt == 0 {
            Err(RequestError::EmptyPrompt)
        } else if n_prompt + n_draws_at_least > bounds.context_max {
            Err(RequestError::PromptTooLong { prompt: n_prompt, context_max: bounds.context_max })
        } else {
            Ok(())
        }
    }
}

impl Bounds {
    pub(crate) fn check_tokens(
        self,
        place: &'static str,
        mut tokens: impl Iterator<Item = TokenId>,
    ) -> Result<(), RequestError> {
        let vocab_size = self.vocab_size;
        match tokens.find(|token| token.0 as usize >= vocab_size) {
            Some(token) => Err(RequestError::TokenOutOfVocabulary { place, token, vocab_size }),
            None => Ok(()),
        }
    }
}

fn check_sampling(sampling: &SamplingParams) -> Result<(), RequestError> {
    // Comparisons are false for NaN, so every test states what is allowed.
    let check = |name, value: f32, allowed: bool, range| {
        if allowed { Ok(()) } else { Err(RequestError::ParameterOutOfRange { name, value, range }) }
    };
    let is_within = |value: f32, low: f32, high: f32| (low..=high).contains(&value);
    let SamplingParams { temperature, top_p, min_p, repetition_penalty, .. } = *sampling;
    let SamplingParams { presence_penalty, frequency_penalty, .. } = *sampling;
    check("temperature", temperature, is_within(temperature, 0.0, 2.0), "0 to 2")?;
    check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, at most 1")?;
    check("min_p", min_p, is_within(min_p, 0.0, 1.0), "0 to 1")?;
    let is_positive = repetition_penalty > 0.0 && repetition_penalty.is_finite();
    check("repetition_penalty", repetition_penalty, is_positive, "above 0 and finite")?;
    check("presence_penalty", presence_penalty, is_within(presence_penalty, -2.0, 2.0), "-2 to 2")?;
    check("frequency_penalty", frequency_penalty, is_within(frequency_penalty, -2.0, 2.0), "-2 to 2")?;
    for &(_, bias) in &sampling.logit_bias {
        check("logit_bias", bias, bias <= 100.0, "at most 100")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const BOUNDS: Bounds = Bounds { vocab_size: 10, context_max: 8 };

    fn with(change: impl FnOnce(&mut SamplingParams)) -> Result<(), RequestError> {
        let mut request = Request::new(vec![TokenId(1)]);
        change(&mut request.sampling);
        request.check(BOUNDS)
    }

    #[test]
    fn the_edges_of_every_range_are_allowed() {
        for value in [0.0, 2.0] {
            assert_eq!(with(|s| s.temperature = value), Ok(()));
        }
        assert_eq!(with(|s| s.top_p = 1.0), Ok(()));
        assert_eq!(with(|s| s.min_p = 1.0), Ok(()));
        assert_eq!(with(|s| (s.presence_penalty, s.frequency_penalty) = (-2.0, 2.0)), Ok(()));
        assert_eq!(with(|s| s.logit_bias = vec![(TokenId(9), -1000.0), (TokenId(0), 100.0)]), Ok(()));
    }

    #[test]
    fn a_parameter_outside_its_range_is_named_with_its_value() {
        let error = with(|s| s.temperature = 2.5).unwrap_err();
        assert_eq!(error.to_string(), "`temperature` is 2.5, must be 0 to 2");
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            assert!(with(|s| s.temperature = bad).is_err(), "{bad}");
            assert!(with(|s| s.top_p = bad).is_err(), "{bad}");
            assert!(with(|s| s.min_p = bad).is_err(), "{bad}");
            assert!(with(|s| s.repetition_penalty = bad).is_err(), "{bad}");
        }
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(with(|s| s.presence_penalty = bad).is_err(), "{bad}");
            assert!(with(|s| s.frequency_penalty = bad).is_err(), "{bad}");
            assert!(with(|s| s.logit_bias = vec![(TokenId(0), bad)]).is_err(), "{bad}");
        }
        assert!(with(|s| s.top_p = 0.0).is_err());
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_refused_wherever_it_stands() {
        let token = TokenId(10);
        let refused = |place| RequestError::TokenOutOfVocabulary { place, token, vocab_size: 10 };
        assert_eq!(Request::new(vec![token]).check(BOUNDS), Err(refused("prompt")));
        let stop = Request { stop_tokens: vec![token], ..Request::new(vec![]) };
        assert_eq!(stop.check(BOUNDS), Err(refused("stop_tokens")));
        assert_eq!(with(|s| s.logit_bias = vec![(token, 0.0)]), Err(refused("logit_bias")));
    }

    #[test]
    fn a_prompt_must_leave_room_for_what_it_asks() {
        let mut request = Request::new(vec![]);
        assert_eq!(request.check_len(0, BOUNDS), Err(RequestError::EmptyPrompt));
        assert_eq!(request.check_len(7, BOUNDS), Ok(()));
        let too_long = RequestError::PromptTooLong { prompt: 8, context_max: 8 };
        assert_eq!(request.check_len(8, BOUNDS), Err(too_long));
        request.max_tokens = Some(0);
        assert_eq!(request.check_len(8, BOUNDS), Ok(()));
    }
}
