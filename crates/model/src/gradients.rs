//! Where a backward pass puts the gradients of the weights.

use cuvier_kernels::{Compute, Store, decoded, matmul, matmul_transposed};
use cuvier_tensor::{MatMut, MatRef, Matrix, WeightMatrix};

use crate::Parameters;

/// The gradients of the tensors below one name.
pub(crate) struct Gradients<'a> {
    all: &'a mut Parameters,
    prefix: String,
}

impl<'a> Gradients<'a> {
    /// Of all tensors.
    pub(crate) fn new(all: &'a mut Parameters) -> Self {
        Self { all, prefix: String::new() }
    }

    /// Of the tensors whose names go on behind `name` and a dot.
    pub(crate) fn below(&mut self, name: &str) -> Gradients<'_> {
        let prefix = self.name(name) + ".";
        Gradients { all: self.all, prefix }
    }

    /// The gradient of `name`, taken out to be added to; [`Gradients::put`] brings it back.
    ///
    /// # Panics
    /// If there is none: gradients are made in the shapes of the model's own parameters.
    pub(crate) fn take(&mut self, name: &str) -> Matrix {
        let name = self.name(name);
        let place = self.all.get_mut(&name).unwrap_or_else(|| panic!("a gradient of {name}"));
        std::mem::take(place)
    }

    /// Brings a gradient back.
    pub(crate) fn put(&mut self, name: &str, gradient: Matrix) {
        let name = self.name(name);
        self.all.insert(name, gradient);
    }

    /// Runs `add` on the gradient of `name`.
    pub(crate) fn with<T>(&mut self, name: &str, add: impl FnOnce(&mut Matrix) -> T) -> T {
        let mut gradient = self.take(name);
        let result = add(&mut gradient);
        self.put(name, gradient);
        result
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// The gradient of the weights of `out = x * wᵀ`, added to `dw`.
pub(crate) fn add_weight_gradient(c: &Compute, dout: MatRef<'_>, x: MatRef<'_>, dw: MatMut<'_>) {
    matmul_transposed(c, dout, x, Store::Add, dw);
}

/// The gradient of the inputs of `out = x * wᵀ`.
pub(crate) fn input_gradient(c: &Compute, dout: MatRef<'_>, w: &WeightMatrix, store: Store, dx: MatMut<'_>) {
    matmul(c, dout, decoded(c, w).view(), store, dx);
}
