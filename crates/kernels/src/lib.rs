//! Tensor operations of diffusion models, each in one place so that a faster version reaches every model.
//!
//! The operations here are plain compositions of Burn's own: correct on every backend, with gradients by
//! automatic differentiation.

mod attention;
mod conv;
#[cfg(feature = "flex")]
mod flex;
mod geglu;
mod norm;

pub use attention::{attention, merge_heads, split_heads};
pub use conv::conv2d;
pub use geglu::geglu;
pub use norm::group_norm_silu;
