//! A model whose state is its tokens, in pages that forks share.

use std::ops::Range;
use std::sync::Arc;

use cuvier_types::{Batch, TokenId};

use super::plan::BLOCK;
use crate::{Logits, Model, RollbackTooFar};

/// Tokens of a page; a segment is one page.
const PAGE: usize = BLOCK;
/// Bytes that a page is said to take, and a segment to be long where nothing else is said.
pub(crate) const PAGE_BYTES: usize = 1000;
/// Bytes that are a state's alone.
pub(crate) const OWN_BYTES: usize = 70;

pub(crate) struct Toy;

#[derive(Clone, Debug)]
pub(crate) struct ToyState {
    pages: Vec<Arc<Vec<TokenId>>>,
    can_go_back: bool,
    segment_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("not a state of this model")]
pub(crate) struct ToyError;

impl ToyState {
    pub(crate) fn new(tokens: &[TokenId]) -> Self {
        let pages = tokens.chunks(PAGE).map(|page| Arc::new(page.to_vec())).collect();
        Self { pages, can_go_back: true, segment_bytes: PAGE_BYTES }
    }

    /// One whose segments have so many bytes.
    pub(crate) fn wide(tokens: &[TokenId], segment_bytes: usize) -> Self {
        Self { segment_bytes, ..Self::new(tokens) }
    }

    /// What it would be behind further tokens; whole pages are shared.
    pub(crate) fn grown_to(&self, tokens: &[TokenId]) -> Self {
        let whole = self.pages.iter().take_while(|page| page.len() == PAGE).cloned();
        let mut pages: Vec<_> = whole.take(tokens.len() / PAGE).collect();
        let rest = &tokens[pages.len() * PAGE..];
        pages.extend(rest.chunks(PAGE).map(|page| Arc::new(page.to_vec())));
        Self { pages, can_go_back: true, ..*self }
    }

    pub(crate) fn tokens(&self) -> Vec<TokenId> {
        self.pages.iter().flat_map(|page| page.iter().copied()).collect()
    }
}

impl Model for Toy {
    type State = ToyState;
    type Error = ToyError;

    fn vocab_size(&self) -> usize {
        1 << 16
    }

    fn context_max(&self) -> usize {
        1 << 20
    }

    fn new_state(&self) -> ToyState {
        ToyState::new(&[])
    }

    fn fork(&self, state: &ToyState) -> ToyState {
        state.clone()
    }

    fn position(state: &ToyState) -> usize {
        state.pages.iter().map(|page| page.len()).sum()
    }

    fn rollback_max(state: &ToyState) -> usize {
        if state.can_go_back { Self::position(state) } else { 0 }
    }

    fn rollback(&self, state: &mut ToyState, tokens: usize) -> Result<(), RollbackTooFar> {
        if !state.can_go_back {
            return Err(RollbackTooFar { asked: tokens, max: 0 });
        }
        let left = state.tokens();
        *state = ToyState::new(&left[..left.len() - tokens]);
        Ok(())
    }

    fn save(&self, _: &ToyState) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&self, _: &[u8]) -> Result<ToyState, ToyError> {
        Err(ToyError)
    }

    fn identity(&self) -> u64 {
        1
    }

    fn hold_from(_: &mut ToyState, _: usize) {}

    fn at(state: &ToyState, position: usize) -> Option<ToyState> {
        let slim = state.grown_to(state.tokens().get(..position)?);
        Some(ToyState { can_go_back: false, ..slim })
    }

    fn memory(state: &ToyState, shared: &mut dyn FnMut(usize, usize)) -> usize {
        state.pages.iter().for_each(|page| shared(Arc::as_ptr(page).addr(), PAGE_BYTES));
        OWN_BYTES
    }

    fn segments(state: &ToyState, range: Range<usize>) -> Vec<u8> {
        let len = state.segment_bytes;
        let segment = |page: &Arc<Vec<TokenId>>| -> Vec<u8> {
            let mut bytes: Vec<u8> = page.iter().flat_map(|token| token.0.to_le_bytes()).collect();
            bytes.resize(len, 0);
            bytes
        };
        state.pages[range].iter().flat_map(segment).collect()
    }

    fn tail(state: &ToyState) -> Vec<u8> {
        let tokens = state.tokens();
        let rest = &tokens[tokens.len() / PAGE * PAGE..];
        std::iter::once(9).chain(rest.iter().flat_map(|token| token.0.to_le_bytes())).collect()
    }

    fn assemble(_: &ToyState, segments: &[&[u8]], tail: &[u8]) -> Result<ToyState, ToyError> {
        let (&[9], tail) = tail.split_at_checked(1).ok_or(ToyError)? else { return Err(ToyError) };
        let parts = segments.iter().map(|segment| &segment[..4 * PAGE]).chain([tail]);
        let tokens: Vec<TokenId> = parts
            .flat_map(|part| part.as_chunks::<4>().0.iter().map(|&token| TokenId(u32::from_le_bytes(token))))
            .collect();
        Ok(ToyState { can_go_back: false, ..ToyState::new(&tokens) })
    }

    fn forward(&mut self, _: &Batch, _: &mut [&mut ToyState]) -> Result<Logits, ToyError> {
        Err(ToyError)
    }
}
