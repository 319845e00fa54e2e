//! `tensor`: dtypes, shapes, views, buffers and block-scaled formats. No arithmetic.
//!
//! Door: [`Tensor`] (bytes of a checkpoint with dtype and shape), [`MatRef`] and [`MatMut`] (rows of numbers),
//! [`formats`] (what the bytes of FP8, FP4, UE8M0 and BF16 mean, and how numbers are rounded to them).
//!
//! **Invariant:** a view that exists has a shape that fits its memory.

pub mod formats;
mod heap;
mod matrix;
mod paged;
mod panel;
mod storage;
mod weight;

pub use heap::{prefer_huge_pages, return_large_blocks};
pub use matrix::{MatMut, MatRef, Matrix};
pub use paged::{PAGE_ROWS, PagedRows};
pub use panel::{Int8Panel, PANEL_COLS, PANEL_ROWS, panel_column, panels_of};
pub use storage::{Dtype, Storage, Tensor, TensorError};
pub use weight::{WeightFormat, WeightMatrix};
