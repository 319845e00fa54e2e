//! Tensors by name: the trained weights of a model, or their gradients.

use std::collections::BTreeMap;

use cuvier_tensor::Matrix;

/// Tensors under their checkpoint names, in order of name. A vector is a matrix of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    tensors: BTreeMap<String, Matrix>,
}

impl Parameters {
    /// Puts `tensor` in the place of `name`.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Matrix) {
        self.tensors.insert(name.into(), tensor);
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Matrix> {
        self.tensors.get(name)
    }

    /// The tensor of this name.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Matrix> {
        self.tensors.get_mut(name)
    }

    /// All of them, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Matrix)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// All of them, in order of name.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Matrix)> {
        self.tensors.iter_mut().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// How many numbers they are.
    pub fn numbers(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.data().len()).sum()
    }

    /// Zeros in the same shapes.
    pub fn zeros_like(&self) -> Self {
        let zeros =
            |(name, tensor): (&String, &Matrix)| (name.clone(), Matrix::zeros(tensor.rows(), tensor.cols()));
        Self { tensors: self.tensors.iter().map(zeros).collect() }
    }
}
