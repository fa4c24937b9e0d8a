//! How far a result may be from PyTorch's, or from another way to the same: on the CPU, on wgpu and on CUDA.
//!
//! Those of wgpu are for f32 throughout. CUDA may multiply f32 with the ten bits of TF32; its column leaves room for that
//! and has not been measured.

/// What a network gives, as a fraction of its largest value.
pub(crate) const OUTPUT: f64 = of([1e-4, 1e-4, 2e-3]);
/// Adding noise, one step.
pub(crate) const NOISING: f64 = of([1e-6, 1e-6, 1e-6]);
/// A sampler's whole way, without a network.
pub(crate) const SAMPLING: f64 = of([1e-5, 1e-5, 1e-5]);
/// The same of samplers that divide by a small sigma what was rounded at a large one.
pub(crate) const SOLVING: f64 = of([5e-5, 5e-5, 5e-5]);
/// Losses, gradients and parameters after optimizer steps, relative, in the L2 norm.
pub(crate) const TRAINING: f64 = of([1e-3, 1e-3, 1e-2]);
/// The same of samples in one batch and one by one: gradients and pictures.
pub(crate) const BATCHING: f64 = of([1e-4, 1e-4, 2e-3]);

/// The levels of pictures, between 0 and 1.
pub(crate) const PICTURE: f64 = of([4e-4, 4e-3, 2e-2]);

const fn of([cpu, wgpu, cuda]: [f64; 3]) -> f64 {
    if cfg!(feature = "cuda") {
        cuda
    } else if cfg!(feature = "wgpu") {
        wgpu
    } else {
        cpu
    }
}
