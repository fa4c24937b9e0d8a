//! Special kernels for Burn's CPU backend, in f32.
//!
//! Burn runs a network as a chain of primitive operations. Here a whole step of a network is one pass over
//! memory, with a backward pass of its own, vectorised for the processor found at run time. Whatever these
//! kernels do not cover is left to Burn.
//!
//! Every result is the same whatever thread computed which part of it.

pub(crate) mod adamw;
pub(crate) mod adamw8bit;
pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod geglu;
mod half;
pub(crate) mod layer_norm;
pub(crate) mod linear;
mod math;
mod memory;
pub(crate) mod norm;
pub(crate) mod silu;
pub(crate) mod upsample;

use burn::backend::DispatchDevice;
use burn::prelude::*;
use burn::tensor::DType;

/// Whether the special kernels apply to a tensor: it lives on the CPU backend and holds f32.
pub(crate) fn applies<const D: usize>(tensor: &Tensor<D>) -> bool {
    is_on_cpu(tensor) && tensor.dtype() == DType::F32
}

pub(crate) fn is_on_cpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    let device = tensor.device();
    let device = match device.as_dispatch() {
        DispatchDevice::Autodiff(device) => device,
        device => device,
    };
    matches!(device, DispatchDevice::Flex(_))
}

/// Whether, besides, no gradient flows through it, as in an optimizer.
pub(crate) fn applies_untracked(tensor: &Tensor<1>) -> bool {
    applies(tensor) && !tensor.device().is_autodiff()
}
