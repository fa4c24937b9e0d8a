//! Tensor operations of diffusion models, each in one place so that a faster version reaches every model.
//!
//! Each operation is a plain composition of Burn's own: correct on every backend, with gradients by automatic
//! differentiation. With the feature `flex`, the ones that training on the CPU spends its time in have special
//! kernels with backward passes of their own, equal to the composition but for rounding.

mod adamw;
mod adamw8bit;
mod attention;
mod cast;
mod conv;
#[cfg(test)]
mod draw;
#[cfg(feature = "flex")]
mod flex;
mod geglu;
mod layer_norm;
mod linear;
mod norm;
mod silu;
mod upsample;

pub use adamw::{AdamWState, AdamWStep, adamw, sum_of_squares};
pub use adamw8bit::{AdamW8bitState, BLOCK, Quantized, adamw8bit};
pub use attention::{attention, causal_attention, merge_heads, split_heads};
pub use conv::conv2d;
pub use geglu::geglu;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use norm::{group_norm, group_norm_silu};
pub use silu::silu;
pub use upsample::upsample_nearest;
