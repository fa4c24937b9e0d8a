//! The one place that chooses a Burn backend.

use burn::backend::{Backend, DTypeUsage, DTypeUsageSet, Dispatch};
use burn::tensor::{DType, Device};
use pyrograph_pipeline::Precision;
use pyrograph_train::{DeviceMemory, OptimizerConfig, TrainPlan};

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

/// Where the device keeps its tensors.
pub const DEVICE_MEMORY: DeviceMemory =
    if cfg!(any(feature = "cuda", feature = "wgpu")) { DeviceMemory::Own } else { DeviceMemory::Main };

/// Why this machine's device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver lists no device, or there is no driver.
    #[error("this program was built for {NAME}, and no such device was found")]
    NotFound,
    /// The device lacks a format of 16 bits.
    #[error("this {NAME} device cannot {what} {format}")]
    Format {
        /// The format, as `--mixed_precision` spells it.
        format: &'static str,
        /// `store` or `compute in`.
        what: &'static str,
    },
    /// The device has no integers of 8 bits, in which `adamw8bit` keeps its moments.
    #[error("this {NAME} device cannot store 8-bit integers, which `--optimizer adamw8bit` needs")]
    Moments,
    /// There is a device, and it does not compute.
    #[error("the {NAME} device does not work: {reason}")]
    Broken {
        /// What the backend said.
        reason: String,
    },
}

impl DeviceError {
    /// Whether another setting would do on this device.
    #[must_use]
    pub fn is_of_a_setting(&self) -> bool {
        matches!(self, Self::Format { .. } | Self::Moments)
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if let Self::Moments = self {
            return Some("`--optimizer adafactor` and `lion` remember less than `adamw`, too".to_owned());
        }
        if let Self::Format { format, what } = self {
            let other = if *format == "bf16" { "fp16" } else { "bf16" };
            let keep =
                if *what == "store" { "" } else { ", or keep only the weights in it: `--compute f32`" };
            return Some(format!("try `--mixed_precision {other}` or `no`{keep}"));
        }
        let driver = match NAME {
            "cuda" => "NVIDIA's driver, until `nvidia-smi` lists a card,",
            _ => "a Vulkan driver, until `vulkaninfo --summary` lists a device,",
        };
        Some(format!("install {driver} or use a build for another backend: `--features cpu` needs no device"))
    }
}

/// The device this binary was built for: CUDA before wgpu before the CPU.
///
/// The choice is made by Cargo features, never by the environment, so that the same binary does the
/// same thing everywhere. Nothing is asked of the device yet: see [`open`].
#[must_use]
pub fn device() -> Device {
    #[cfg(feature = "cuda")]
    return Device::cuda(0);
    #[cfg(all(feature = "wgpu", not(feature = "cuda")))]
    return Device::wgpu(burn::tensor::DeviceKind::DefaultDevice);
    #[cfg(all(feature = "cpu", not(any(feature = "cuda", feature = "wgpu"))))]
    return Device::flex();
    #[cfg(not(any(feature = "cpu", feature = "wgpu", feature = "cuda")))]
    compile_error!("turn on one of the features `cpu`, `wgpu` and `cuda`");
}

/// [`device`], after it has computed something.
///
/// # Errors
/// There is no such device on this machine, or it does not work.
pub fn open() -> Result<Device, DeviceError> {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    gpu::probe()?;
    Ok(device())
}

/// Refuses a plan that needs a format which the device does not have.
///
/// # Errors
/// The device cannot store the weights' format or the moments', or cannot compute in the activations'.
pub fn require(device: &Device, plan: &TrainPlan) -> Result<(), DeviceError> {
    require_precision(device, plan.precision.precision())?;
    let has_bytes = usage(device, DType::U8).contains(DTypeUsage::Storage);
    if matches!(plan.optimizer.algorithm, OptimizerConfig::AdamW8bit(_)) && !has_bytes {
        return Err(DeviceError::Moments);
    }
    Ok(())
}

/// Refuses a precision that the device does not have. Vulkan, for one, stores bf16 and has no arithmetic for it.
///
/// # Errors
/// The device cannot store the weights' format, or cannot compute in the activations'.
pub fn require_precision(device: &Device, precision: Precision) -> Result<(), DeviceError> {
    for (dtype, needed, what) in [
        (precision.weights, DTypeUsage::Storage, "store"),
        (precision.compute, DTypeUsage::Arithmetic, "compute in"),
    ] {
        if !usage(device, dtype).contains(needed) {
            let format = if dtype == DType::BF16 { "bf16" } else { "fp16" };
            return Err(DeviceError::Format { format, what });
        }
    }
    Ok(())
}

fn usage(device: &Device, dtype: DType) -> DTypeUsageSet {
    Dispatch::dtype_usage(device.as_dispatch(), dtype)
}

/// What the device calls itself, if it has a name.
#[must_use]
pub fn device_name(device: &Device) -> Option<String> {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    return device.identity().map(|identity| identity.name);
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    {
        let _ = device;
        None
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu {
    use std::any::Any;
    use std::panic;

    use burn::tensor::{DeviceType, Tensor};

    use super::{Device, DeviceError, device, device_name};

    #[cfg(feature = "cuda")]
    const TYPE: DeviceType = DeviceType::Cuda;
    #[cfg(not(feature = "cuda"))]
    const TYPE: DeviceType = DeviceType::Wgpu;

    /// Burn's backends panic where a driver is missing or refuses, so a first sum is made where that can be caught.
    pub(super) fn probe() -> Result<(), DeviceError> {
        if Device::enumerate(TYPE).is_empty() {
            return Err(DeviceError::NotFound);
        }
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let sum = panic::catch_unwind(|| {
            let device = device();
            let sum = Tensor::<1>::ones([8], &device).sum().into_scalar::<f32>();
            (sum, device_name(&device))
        });
        panic::set_hook(hook);
        match sum {
            Ok((8.0, name)) => {
                tracing::info!("running on {}", name.unwrap_or_else(|| "a device without a name".to_owned()));
                Ok(())
            }
            Ok((sum, _)) => Err(DeviceError::Broken { reason: format!("it adds eight ones up to {sum}") }),
            Err(payload) => Err(DeviceError::Broken { reason: message(&*payload) }),
        }
    }

    fn message(payload: &(dyn Any + Send)) -> String {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it gave up").to_owned()
    }
}
