//! Memory for intermediate results, which a step leaves to the next: fresh pages from the system would cost a prefill a
//! tenth of its time.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cuvier_tensor::{Matrix, prefer_huge_pages};

/// Buffers of one type that wait; of more than these, the smallest are given back to the system.
const WAITING_MAX: usize = 128;

/// Buffers that nobody uses now.
#[derive(Debug, Default)]
pub struct Workspace {
    f32s: Waiting<f32>,
    i8s: Waiting<i8>,
    u8s: Waiting<u8>,
    u16s: Waiting<u16>,
    u32s: Waiting<u32>,
    /// Tokens of the largest step so far.
    step: AtomicUsize,
}

/// Buffers of one type.
type Waiting<T> = Mutex<Vec<Vec<T>>>;

/// The numbers that intermediate results consist of.
pub trait Number: Copy + Default {
    /// The buffers that wait for numbers of this type.
    fn waiting(workspace: &Workspace) -> &Mutex<Vec<Vec<Self>>>;
}

macro_rules! numbers {
    ($($number:ident: $field:ident),*) => {$(
        impl Number for $number {
            fn waiting(workspace: &Workspace) -> &Waiting<Self> {
                &workspace.$field
            }
        }
    )*

    impl Workspace {
        fn clear(&self) {
            $(self.$field.lock().unwrap_or_else(PoisonError::into_inner).clear();)*
        }
    }
    };
}

numbers!(f32: f32s, i8: i8s, u8: u8s, u16: u16s, u32: u32s);

impl Workspace {
    /// For a step with more tokens than any before: gives back what smaller ones left. Their buffers would fill the places
    /// of smaller numbers and leave none for the larger, and together they would be more than one large step needs. Where
    /// a large step found all its buffers, a smaller one does, too.
    pub(super) fn make_room(&self, tokens: usize) {
        if tokens > self.step.fetch_max(tokens, Ordering::Relaxed) {
            self.clear();
        }
    }

    /// A matrix whose numbers are whatever an earlier one left there.
    pub(super) fn lend<T: Number>(self: &Arc<Self>, rows: usize, cols: usize) -> Lent<T> {
        let len = rows * cols;
        let mut data = self.take(len);
        data.resize(len, T::default());
        Lent { matrix: Matrix::from_vec(data, cols), workspace: Some(Arc::clone(self)) }
    }

    /// The smallest buffer that is large enough, else a new one in the place of the largest.
    fn take<T: Number>(&self, len: usize) -> Vec<T> {
        if len == 0 {
            return Vec::new();
        }
        let mut waiting = T::waiting(self).lock().unwrap_or_else(PoisonError::into_inner);
        let large_enough = waiting.iter().enumerate().filter(|(_, data)| data.capacity() >= len);
        match large_enough.min_by_key(|(_, data)| data.capacity()) {
            Some((index, _)) => waiting.swap_remove(index),
            None => {
                // The largest that waits was outgrown: the new one takes its place, so that steps that become larger and
                // larger leave nothing behind.
                let outgrown = (0..waiting.len()).max_by_key(|&index| waiting[index].capacity());
                drop(outgrown.map(|index| waiting.swap_remove(index)));
                let mut data = Vec::with_capacity(len);
                prefer_huge_pages(data.spare_capacity_mut());
                data
            }
        }
    }

    fn give<T: Number>(&self, data: Vec<T>) {
        let mut waiting = T::waiting(self).lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(data);
        if waiting.len() > WAITING_MAX {
            let smallest = (0..waiting.len()).min_by_key(|&index| waiting[index].capacity());
            waiting.swap_remove(smallest.unwrap_or(0));
        }
    }
}

/// A matrix in memory that goes back to its [`Compute`](crate::Compute) when it is dropped; one made of a [`Matrix`]
/// has memory of its own.
#[derive(Debug, Default)]
pub struct Lent<T: Number = f32> {
    matrix: Matrix<T>,
    workspace: Option<Arc<Workspace>>,
}

impl<T: Number> From<Matrix<T>> for Lent<T> {
    fn from(matrix: Matrix<T>) -> Self {
        Self { matrix, workspace: None }
    }
}

impl<T: Number> Clone for Lent<T> {
    fn clone(&self) -> Self {
        self.matrix.clone().into()
    }
}

impl<T: Number + PartialEq> PartialEq for Lent<T> {
    fn eq(&self, other: &Self) -> bool {
        self.matrix == other.matrix
    }
}

impl<T: Number> Deref for Lent<T> {
    type Target = Matrix<T>;

    fn deref(&self) -> &Matrix<T> {
        &self.matrix
    }
}

impl<T: Number> DerefMut for Lent<T> {
    fn deref_mut(&mut self) -> &mut Matrix<T> {
        &mut self.matrix
    }
}

impl<T: Number> Drop for Lent<T> {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.matrix).into_vec();
        if let Some(workspace) = self.workspace.take()
            && data.capacity() > 0
        {
            workspace.give(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_has_the_shape_asked_for_and_leaves_its_memory_to_the_next_that_fits() {
        let workspace = Arc::new(Workspace::default());
        let large = workspace.lend::<f32>(10, 100);
        let small = workspace.lend::<f32>(3, 4);
        let [large_at, small_at] = [&large, &small].map(|m| m.data().as_ptr());
        drop((large, small));
        let again = workspace.lend::<f32>(2, 6);
        assert_eq!((again.rows(), again.cols(), again.data().as_ptr()), (2, 6, small_at));
        assert_eq!(workspace.lend::<f32>(1, 13).data().as_ptr(), large_at);
        assert_eq!(workspace.lend::<f32>(0, 5).rows(), 0);
    }

    #[test]
    fn a_step_larger_than_all_before_finds_nothing_waiting_and_a_smaller_one_everything() {
        let workspace = Arc::new(Workspace::default());
        let n_waiting = || workspace.f32s.lock().expect("no test panics").len();
        workspace.make_room(8);
        drop([workspace.lend::<f32>(8, 100), workspace.lend::<f32>(8, 10)]);
        for (tokens, waiting) in [(8, 2), (3, 2), (9, 0)] {
            workspace.make_room(tokens);
            assert_eq!(n_waiting(), waiting, "{tokens}");
        }
    }

    #[test]
    fn what_waits_is_bounded() {
        let workspace = Arc::new(Workspace::default());
        let all: Vec<_> = (1..=2 * WAITING_MAX).map(|rows| workspace.lend::<f32>(rows, 1)).collect();
        drop(all);
        let waiting = workspace.f32s.lock().expect("no test panics");
        assert_eq!(waiting.len(), WAITING_MAX);
        assert!(waiting.iter().all(|data| data.capacity() > WAITING_MAX), "the largest stay");
    }
}
