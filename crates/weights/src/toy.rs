//! A small module for tests with what real ones have: nested vectors, options, every leaf that the crate knows.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    Embedding, EmbeddingConfig, GroupNorm, GroupNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::tensor::{Device, TensorData};

use crate::{Renames, SystemDisk, save_tensors};

pub(crate) const RENAMES: Renames = Renames::new(&[("to_out", "to_out.0"), ("ff.proj_in", "ff.net.0.proj")]);

#[derive(Module, Debug)]
pub(crate) struct Toy {
    pub(crate) conv_in: Conv2d,
    pub(crate) blocks: Vec<Block>,
    pub(crate) token_embedding: Embedding,
    pub(crate) conv_shortcut: Option<Conv2d>,
    pub(crate) absent: Option<Linear>,
}

#[derive(Module, Debug)]
pub(crate) struct Block {
    pub(crate) group_norm: GroupNorm,
    pub(crate) norm1: LayerNorm,
    pub(crate) to_q: Linear,
    pub(crate) to_out: Linear,
    pub(crate) ff: FeedForward,
}

#[derive(Module, Debug)]
pub(crate) struct FeedForward {
    pub(crate) proj_in: Linear,
}

impl Toy {
    pub(crate) fn new(device: &Device) -> Self {
        let block = || Block {
            group_norm: GroupNormConfig::new(2, 4).init(device),
            norm1: LayerNormConfig::new(4).init(device),
            to_q: LinearConfig::new(4, 4).with_bias(false).init(device),
            to_out: LinearConfig::new(4, 3).init(device),
            ff: FeedForward { proj_in: LinearConfig::new(4, 40).init(device) },
        };
        Self {
            conv_in: Conv2dConfig::new([3, 4], [3, 3]).init(device),
            blocks: vec![block(), block()],
            token_embedding: EmbeddingConfig::new(5, 4).init(device),
            conv_shortcut: Some(Conv2dConfig::new([4, 4], [1, 1]).init(device)),
            absent: None,
        }
    }

    pub(crate) fn tensors(&self) -> BTreeMap<String, TensorData> {
        crate::names_and_shapes(self, &RENAMES)
            .into_iter()
            .enumerate()
            .map(|(index, (name, shape))| (name, ramp(index, shape)))
            .collect()
    }
}

/// Distinct values that every float type of 16 bits or more can hold.
pub(crate) fn ramp(start: usize, shape: Vec<usize>) -> TensorData {
    let n_elements = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..n_elements).map(|index| ((start + index) % 128) as f32).collect();
    TensorData::new(values, shape)
}

/// Writes tensors as a file that some other program could have written.
pub(crate) fn write_file(path: &Path, tensors: &BTreeMap<String, TensorData>) {
    save_tensors(path, tensors, &BTreeMap::new(), &SystemDisk).unwrap();
}
