//! The one place that chooses a Burn backend.

use burn::tensor::Device;

/// The name of the backend that [`device`] is of.
pub const NAME: &str = if cfg!(feature = "cuda") {
    "cuda"
} else if cfg!(feature = "wgpu") {
    "wgpu"
} else {
    "cpu"
};

/// Whether activations are computed faster in 16 bits than in 32.
pub const IS_FAST_IN_HALF_PRECISION: bool = cfg!(any(feature = "cuda", feature = "wgpu"));

/// The device this binary was built for: CUDA before wgpu before the CPU.
///
/// The choice is made by Cargo features, never by the environment, so that the same binary does the
/// same thing everywhere.
#[must_use]
pub fn device() -> Device {
    #[cfg(feature = "cuda")]
    return Device::cuda(0);
    #[cfg(all(feature = "wgpu", not(feature = "cuda")))]
    return Device::vulkan(burn::tensor::DeviceKind::DefaultDevice);
    #[cfg(all(feature = "cpu", not(any(feature = "cuda", feature = "wgpu"))))]
    return Device::flex();
    #[cfg(not(any(feature = "cpu", feature = "wgpu", feature = "cuda")))]
    compile_error!("turn on one of the features `cpu`, `wgpu` and `cuda`");
}
