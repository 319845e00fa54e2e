//! Memory for intermediate results, which a step leaves to the next: fresh pages from the system would cost a prefill a
//! tenth of its time.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use cuvier_tensor::Matrix;

/// Buffers that wait; of more than these, the smallest are given back to the system.
const WAITING_MAX: usize = 32;

/// Buffers that nobody uses now.
#[derive(Debug, Default)]
pub(super) struct Workspace(Mutex<Vec<Vec<f32>>>);

impl Workspace {
    /// A matrix whose numbers are whatever an earlier one left there.
    pub(super) fn lend(&self, rows: usize, cols: usize) -> Lent<'_> {
        let len = rows * cols;
        let mut data = self.take(len);
        data.resize(len, 0.0);
        Lent { matrix: Matrix::from_vec(data, cols), workspace: self }
    }

    /// The smallest buffer that is large enough, else a new one.
    fn take(&self, len: usize) -> Vec<f32> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let large_enough = waiting.iter().enumerate().filter(|(_, data)| data.capacity() >= len);
        match large_enough.min_by_key(|(_, data)| data.capacity()) {
            Some((index, _)) => waiting.swap_remove(index),
            None => Vec::with_capacity(len),
        }
    }

    fn give(&self, data: Vec<f32>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(data);
        if waiting.len() > WAITING_MAX {
            let smallest = (0..waiting.len()).min_by_key(|&index| waiting[index].capacity());
            waiting.swap_remove(smallest.unwrap_or(0));
        }
    }
}

/// A matrix in memory that goes back to its [`Compute`](crate::Compute) when it is dropped.
#[derive(Debug)]
pub struct Lent<'c> {
    matrix: Matrix,
    workspace: &'c Workspace,
}

impl Lent<'_> {
    /// The matrix for good: its memory does not come back.
    pub fn keep(mut self) -> Matrix {
        std::mem::take(&mut self.matrix)
    }
}

impl Deref for Lent<'_> {
    type Target = Matrix;

    fn deref(&self) -> &Matrix {
        &self.matrix
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Matrix {
        &mut self.matrix
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.matrix).into_vec();
        if data.capacity() > 0 {
            self.workspace.give(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_has_the_shape_asked_for_and_leaves_its_memory_to_the_next_that_fits() {
        let workspace = Workspace::default();
        let large = workspace.lend(10, 100);
        let small = workspace.lend(3, 4);
        let [large_at, small_at] = [&large, &small].map(|m| m.data().as_ptr());
        drop((large, small));
        let again = workspace.lend(2, 6);
        assert_eq!((again.rows(), again.cols(), again.data().as_ptr()), (2, 6, small_at));
        assert_eq!(workspace.lend(1, 13).data().as_ptr(), large_at);
        assert_eq!(workspace.lend(0, 5).rows(), 0);
    }

    #[test]
    fn what_waits_is_bounded() {
        let workspace = Workspace::default();
        let all: Vec<_> = (1..=2 * WAITING_MAX).map(|rows| workspace.lend(rows, 1)).collect();
        drop(all);
        let waiting = workspace.0.lock().expect("no test panics");
        assert_eq!(waiting.len(), WAITING_MAX);
        assert!(waiting.iter().all(|data| data.capacity() > WAITING_MAX), "the largest stay");
    }
}
