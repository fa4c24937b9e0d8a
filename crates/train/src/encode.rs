//! Latents and prompt embeddings never change during a run, so they are computed once and kept.

use std::collections::HashMap;
use std::hash::Hash;

use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_pipeline::Bundle;

/// Encodes images and captions, and remembers what it has encoded.
///
/// Samples are encoded one by one: in a batch the same image could come out with other last bits, and a resumed
/// run batches the first encoding differently.
#[derive(Debug)]
pub(crate) struct Encoder {
    device: Device,
    moments: Memory<String, 4>,
    prompts: Memory<String, 3>,
}

impl Encoder {
    /// An encoder that keeps at most `memory_bytes` of each, on the host.
    #[must_use]
    pub(crate) fn new(memory_bytes: usize, device: Device) -> Self {
        Self { device, moments: Memory::new(memory_bytes), prompts: Memory::new(memory_bytes) }
    }

    /// Where it computes.
    #[must_use]
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The moments of a sample's latents.
    ///
    /// # Shapes
    /// - image_signed: `3 * side * side` numbers in [-1, 1]
    /// - output: `[1, 2 * latent_channels, height, width]`
    pub(crate) fn moments(
        &mut self,
        bundle: &Bundle,
        sample_id: &str,
        image_signed: &[f32],
        side: usize,
    ) -> Tensor<4> {
        let device = &self.device;
        self.moments.get_or_compute(sample_id.to_owned(), device, || {
            let data = TensorData::new(image_signed.to_vec(), [1, 3, side, side]);
            bundle.vae.encode(Tensor::from_data(data, device)).moments()
        })
    }

    /// A caption's prompt embeddings.
    ///
    /// # Shapes
    /// - output: `[1, tokens, context_dim]`
    pub(crate) fn prompt(&mut self, bundle: &Bundle, caption: &str) -> Tensor<3> {
        let device = &self.device;
        self.prompts.get_or_compute(caption.to_owned(), device, || bundle.encode_prompts(&[caption], device))
    }
}

/// Tensors by key, up to a number of bytes; what comes later is computed each time.
#[derive(Debug)]
struct Memory<K, const D: usize> {
    kept: HashMap<K, TensorData>,
    bytes_left: usize,
}

impl<K: Eq + Hash, const D: usize> Memory<K, D> {
    fn new(bytes: usize) -> Self {
        Self { kept: HashMap::new(), bytes_left: bytes }
    }

    fn get_or_compute(&mut self, key: K, device: &Device, compute: impl FnOnce() -> Tensor<D>) -> Tensor<D> {
        if let Some(data) = self.kept.get(&key) {
            return Tensor::from_data(data.clone(), device);
        }
        let tensor = compute();
        let data = tensor.to_data();
        let bytes = data.as_bytes().len();
        if bytes <= self.bytes_left {
            self.bytes_left -= bytes;
            self.kept.insert(key, data);
        }
        tensor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_computed_once_and_the_rest_each_time() {
        let device = Device::flex();
        let mut memory = Memory::<u32, 1>::new(2 * 4);
        let mut computed = Vec::new();
        for key in [1, 2, 1, 2] {
            let value = memory.get_or_compute(key, &device, || {
                computed.push(key);
                Tensor::from_floats([1.0, 2.0], &device)
            });
            assert_eq!(value.try_into_vec_as::<f32>().expect("f32"), [1.0, 2.0]);
        }
        assert_eq!(computed, [1, 2, 2]);
    }
}
