//! Are the tensors those that the config implies?

use std::collections::{HashMap, HashSet};

use cuvier_tensor::Dtype;
use cuvier_tensor::formats::FP4_BLOCK;

use super::{Checkpoint, Drafter, Place};
use crate::inventory::{scale_name, scaled_shapes};
use crate::safetensors::known;
use crate::{Family, TensorSpec, WeightsError, inventory};

/// Known by the tensors: the config counts MTP blocks in one release and says nothing true in another.
pub(super) fn drafter(tensors: &HashMap<String, Place>) -> Drafter {
    let stage = |name: &str| name.strip_prefix("mtp.")?.split('.').next()?.parse::<u8>().ok();
    let dspark = |name: &String| {
        name.starts_with("mtp.") && (name.contains(".main_proj.") || name.contains(".markov_head."))
    };
    if tensors.keys().any(dspark) {
        let stages =
            tensors.keys().filter_map(|name| stage(name)).max().map_or(0, |last| usize::from(last) + 1);
        Drafter::DSpark { stages }
    } else if tensors.contains_key("mtp.0.e_proj.weight") || tensors.contains_key("mtp.0.h_proj.weight") {
        Drafter::Mtp
    } else {
        Drafter::None
    }
}

impl Checkpoint {
    /// Checks every implied tensor; returns the names that were.
    pub(super) fn check_inventory(&self) -> Result<HashSet<String>, WeightsError> {
        let mut used = HashSet::new();
        for spec in inventory(&self.config, self.drafter == Drafter::Mtp).iter() {
            let scaled = self.check_spec(&spec)?;
            if scaled {
                used.insert(scale_name(&spec.name));
            }
            used.insert(spec.name);
        }
        Ok(used)
    }

    /// Splits what the model does not use into known and unknown.
    pub(super) fn sort_out(&mut self, used: &HashSet<String>) {
        let drafter = matches!(self.drafter, Drafter::DSpark { .. });
        let known = |name: &String| {
            ["vision.", "aligner.", "image_"].iter().any(|prefix| name.starts_with(prefix))
                || name.ends_with("gate.bias_vl")
                || (drafter && name.starts_with("mtp."))
        };
        let mut rest: Vec<String> =
            self.tensors.keys().filter(|name| !used.contains(*name)).cloned().collect();
        rest.sort();
        (self.ignored, self.unused) = rest.into_iter().partition(known);
    }

    /// Whether the tensor has a companion with scales.
    fn check_spec(&self, spec: &TensorSpec) -> Result<bool, WeightsError> {
        let place = self.find(&spec.name, &spec.shape)?;
        match (known(place.dtype), spec.family) {
            (Some(Dtype::I64), Family::I64) => self.check_shape(place, &spec.shape)?,
            (_, Family::I64) => return Err(self.refuse(place, "I64")),
            (Some(Dtype::F32 | Dtype::BF16), _) => self.check_shape(place, &spec.shape)?,
            // Norms, sinks, biases and hyper-connections are read as plain numbers.
            (_, Family::F32) => return Err(self.refuse(place, "F32 or BF16")),
            (Some(dtype @ (Dtype::F8E4M3 | Dtype::I8)), _) if spec.shape.len() == 2 => {
                self.check_scaled(spec, place, dtype)?;
                return Ok(true);
            }
            (_, Family::Bf16) if spec.shape.len() == 1 => return Err(self.refuse(place, "BF16 or F32")),
            _ => return Err(self.refuse(place, "F8_E4M3 or I8 with scales, BF16 or F32")),
        }
        Ok(false)
    }

    fn check_scaled(&self, spec: &TensorSpec, place: &Place, dtype: Dtype) -> Result<(), WeightsError> {
        if dtype == Dtype::I8 && !spec.shape[1].is_multiple_of(FP4_BLOCK) {
            return Err(self.refuse(place, "anything but FP4, whose blocks of 32 its rows do not fill"));
        }
        let (weight_shape, scale_shape) = scaled_shapes(&spec.shape, dtype);
        self.check_shape(place, &weight_shape)?;
        let scale = self.find(&scale_name(&spec.name), &scale_shape)?;
        match (known(scale.dtype), dtype) {
            (Some(Dtype::F8E8M0), _) | (Some(Dtype::F32), Dtype::F8E4M3) => {
                self.check_shape(scale, &scale_shape)
            }
            (_, Dtype::F8E4M3) => Err(self.refuse(scale, "F8_E8M0 or F32")),
            _ => Err(self.refuse(scale, "F8_E8M0")),
        }
    }

    fn find(&self, name: &str, want: &[usize]) -> Result<&Place, WeightsError> {
        self.tensors.get(name).ok_or_else(|| WeightsError::Missing {
            file: self.listing.clone(),
            name: name.to_owned(),
            want: want.to_vec(),
        })
    }

    fn check_shape(&self, place: &Place, want: &[usize]) -> Result<(), WeightsError> {
        if place.shape == want {
            return Ok(());
        }
        Err(WeightsError::Shape {
            file: self.files[place.file].name.clone(),
            name: place.stored.clone(),
            got: place.shape.clone(),
            want: want.to_vec(),
        })
    }

    fn refuse(&self, place: &Place, want: &'static str) -> WeightsError {
        WeightsError::Dtype {
            file: self.files[place.file].name.clone(),
            name: place.stored.clone(),
            got: place.dtype.name().to_owned(),
            want,
        }
    }
}
