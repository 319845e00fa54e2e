//! Parameters and router facts as safetensors files, and whether they are those of a config.

use std::borrow::Cow;
use std::path::Path;

use cuvier_model::Parameters;
use cuvier_tensor::{Dtype, Matrix, Tensor};
use cuvier_weights::{ModelConfig, StoredTensor, inventory, read_tensors, write_tensors};

use super::SaveError;
use crate::routers::{Keeper, Routers, keeper_of};

/// Writes parameters, or what an optimiser keeps like them, in F32: every bit.
pub(super) fn write_parameters(path: &Path, parameters: &Parameters) -> Result<(), SaveError> {
    let tensors: Vec<(&str, &Matrix)> = parameters.iter().collect();
    let stored: Vec<StoredTensor> = tensors
        .iter()
        .map(|(name, tensor)| stored(name, Dtype::F32, [tensor.rows(), tensor.cols()]))
        .collect();
    let bytes = |index: usize| Cow::Owned(f32_bytes(tensors[index].1.data()));
    Ok(write_tensors(path, &stored, bytes)?)
}

pub(super) fn read_parameters(path: &Path) -> Result<Parameters, SaveError> {
    let mut parameters = Parameters::default();
    for (name, tensor) in read_tensors(path)? {
        let (numbers, [_, cols]) = f32_numbers(path, &name, &tensor)?;
        parameters.insert(name, Matrix::from_vec(numbers, cols));
    }
    Ok(parameters)
}

/// Biases in F32 as one row, tables of experts in I64.
pub(super) fn write_routers(path: &Path, routers: &Routers) -> Result<(), SaveError> {
    let mut tensors = Vec::new();
    for (name, table) in &routers.tables {
        let bytes = table.data().iter().flat_map(|&expert| i64::from(expert).to_le_bytes()).collect();
        tensors.push((stored(name, Dtype::I64, [table.rows(), table.cols()]), bytes));
    }
    for (name, bias) in &routers.biases {
        tensors.push((stored(name, Dtype::F32, [1, bias.len()]), f32_bytes(bias)));
    }
    let (stored, bytes): (Vec<StoredTensor>, Vec<Vec<u8>>) = tensors.into_iter().unzip();
    Ok(write_tensors(path, &stored, |index| Cow::Borrowed(bytes[index].as_slice()))?)
}

pub(super) fn read_routers(path: &Path) -> Result<Routers, SaveError> {
    let mut routers = Routers::default();
    for (name, tensor) in read_tensors(path)? {
        if tensor.dtype() == Dtype::I64 {
            let experts = tensor.bytes().as_chunks::<8>().0.iter().map(|&id| {
                let id = i64::from_le_bytes(id);
                u16::try_from(id).map_err(|_| SaveError::tensor(path, &name, format!("names expert {id}")))
            });
            let [_, per_token] = shape_of(path, &name, &tensor)?;
            let table = Matrix::from_vec(experts.collect::<Result<_, _>>()?, per_token);
            routers.tables.insert(name, table);
        } else {
            let (bias, _) = f32_numbers(path, &name, &tensor)?;
            routers.biases.insert(name, bias);
        }
    }
    Ok(routers)
}

/// Are these the trained tensors of `config`, all of them and no others, and all numbers finite?
pub(super) fn check_parameters(
    path: &Path,
    config: &ModelConfig,
    parameters: &Parameters,
) -> Result<(), SaveError> {
    let mut expected = 0;
    for (name, want) in kept_by(config, Keeper::Parameters) {
        expected += 1;
        let got = parameters.get(&name).map(|tensor| [tensor.rows(), tensor.cols()]);
        expect_shape(path, &name, got, want)?;
    }
    if parameters.iter().count() > expected {
        let known: std::collections::HashSet<String> =
            kept_by(config, Keeper::Parameters).map(|(name, _)| name).collect();
        if let Some((name, _)) = parameters.iter().find(|(name, _)| !known.contains(*name)) {
            return Err(SaveError::tensor(path, name, "is not one of this config"));
        }
    }
    match parameters.iter().find(|(_, tensor)| tensor.data().iter().any(|x| !x.is_finite())) {
        Some((name, _)) => Err(SaveError::tensor(path, name, "holds a value that is not a finite number")),
        None => Ok(()),
    }
}

/// Are these the biases and tables of `config`, and do all experts exist?
pub(super) fn check_routers(path: &Path, config: &ModelConfig, routers: &Routers) -> Result<(), SaveError> {
    for (name, want) in kept_by(config, Keeper::Biases) {
        expect_shape(path, &name, routers.biases.get(&name).map(|bias| [1, bias.len()]), want)?;
    }
    for (name, want) in kept_by(config, Keeper::Tables) {
        let table = routers.tables.get(&name);
        expect_shape(path, &name, table.map(|table| [table.rows(), table.cols()]), want)?;
        let experts = table.map(Matrix::data).unwrap_or_default();
        if let Some(expert) = experts.iter().find(|&&expert| usize::from(expert) >= config.n_routed_experts) {
            let problem = format!("names expert {expert}; there are {}", config.n_routed_experts);
            return Err(SaveError::tensor(path, &name, problem));
        }
    }
    Ok(())
}

/// Name, rows and columns of each tensor of `config` that `keeper` has.
fn kept_by(config: &ModelConfig, keeper: Keeper) -> impl Iterator<Item = (String, [usize; 2])> {
    let specs = inventory(config, config.num_nextn_predict_layers > 0).iter();
    specs.filter(move |spec| keeper_of(spec) == keeper).map(|spec| {
        let shape = match *spec.shape {
            [rows, cols] => [rows, cols],
            _ => [1, spec.elements()],
        };
        (spec.name, shape)
    })
}

fn expect_shape(path: &Path, name: &str, got: Option<[usize; 2]>, want: [usize; 2]) -> Result<(), SaveError> {
    match got {
        Some(got) if got == want => Ok(()),
        Some(got) => {
            Err(SaveError::tensor(path, name, format!("has shape {got:?}, the config implies {want:?}")))
        }
        None => Err(SaveError::tensor(path, name, format!("is missing; the config implies shape {want:?}"))),
    }
}

fn f32_numbers(path: &Path, name: &str, tensor: &Tensor) -> Result<(Vec<f32>, [usize; 2]), SaveError> {
    let shape = shape_of(path, name, tensor)?;
    match tensor.to_f32() {
        Some(numbers) if tensor.dtype() == Dtype::F32 => Ok((numbers, shape)),
        _ => Err(SaveError::tensor(path, name, format!("is stored as {}, expected F32", tensor.dtype()))),
    }
}

fn shape_of(path: &Path, name: &str, tensor: &Tensor) -> Result<[usize; 2], SaveError> {
    match *tensor.shape() {
        [rows, cols] if cols > 0 => Ok([rows, cols]),
        _ => Err(SaveError::tensor(
            path,
            name,
            format!("has shape {:?}, expected rows and columns", tensor.shape()),
        )),
    }
}

fn stored(name: &str, dtype: Dtype, shape: [usize; 2]) -> StoredTensor {
    StoredTensor { name: name.to_owned(), dtype, shape: shape.to_vec() }
}

fn f32_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
