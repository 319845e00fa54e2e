//! Memory of a thread for the pieces of products, which it keeps from one piece to the next.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use crate::fp4::Blocks;

/// What the pieces of a product need besides their outputs.
#[derive(Default)]
pub(crate) struct Workbench {
    /// Inputs in the form that products read.
    pub(crate) gathered: Blocks,
    /// Products that are not yet where they belong.
    pub(crate) parts: [Vec<f32>; 2],
}

thread_local! {
    static WORKBENCH: Cell<Option<Box<Workbench>>> = const { Cell::new(None) };
}

/// The workbench of this thread; put back when it is dropped.
pub(crate) struct Taken(Option<Box<Workbench>>);

impl Workbench {
    /// The workbench of this thread, with whatever lies there; a new one if it is taken.
    pub(crate) fn take() -> Taken {
        Taken(Some(WORKBENCH.take().unwrap_or_default()))
    }
}

impl Deref for Taken {
    type Target = Workbench;

    fn deref(&self) -> &Workbench {
        self.0.as_ref().expect("taken until it is dropped")
    }
}

impl DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut Workbench {
        self.0.as_mut().expect("taken until it is dropped")
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        WORKBENCH.set(self.0.take());
    }
}
