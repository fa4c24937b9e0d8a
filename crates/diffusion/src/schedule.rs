//! The forward process: how much signal and noise each training timestep has, and the training target.

use burn::prelude::*;
use burn::tensor::{DType, TensorData};

use crate::config::{BetaSchedule, PredictionType, ScheduleConfig};
use crate::error::DiffusionError;
use crate::rounding::round_to_f32;

/// The forward process of DDPM, `latents_t = alpha_t * latents + sigma_t * noise`.
///
/// The tables are f64 on the host, but hold the f32 values of diffusers: networks were trained with those, and
/// unrounded tables are off by 1e-6. Only with zero terminal SNR do they differ, by up to 1e-5 of the last
/// timesteps' small signal, because PyTorch's square root is not always rounded correctly.
///
/// Source: Ho et al. 2020, eq. 4; diffusers 0.42 `scheduling_ddpm.py`.
#[derive(Debug, Clone)]
pub struct NoiseSchedule {
    betas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
    prediction_type: PredictionType,
}

/// The shares of signal and noise at one point, `alpha^2 + sigma^2 = 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NoiseLevel {
    pub(crate) alpha: f64,
    pub(crate) sigma: f64,
}

impl NoiseLevel {
    pub(crate) fn from_alpha_cumprod(alpha_cumprod: f64) -> Self {
        Self { alpha: alpha_cumprod.sqrt(), sigma: (1.0 - alpha_cumprod).sqrt() }
    }

    /// The clean latents that a prediction implies.
    pub(crate) fn clean(self, predicted: PredictionType, output: Tensor<4>, sample: Tensor<4>) -> Tensor<4> {
        match predicted {
            PredictionType::Epsilon => (sample - output * self.sigma) / self.alpha,
            PredictionType::VPrediction => sample * self.alpha - output * self.sigma,
        }
    }

    /// The noise that a prediction implies.
    pub(crate) fn noise(self, predicted: PredictionType, output: Tensor<4>, sample: Tensor<4>) -> Tensor<4> {
        match predicted {
            PredictionType::Epsilon => output,
            PredictionType::VPrediction => output * self.alpha + sample * self.sigma,
        }
    }
}

impl NoiseSchedule {
    /// Computes the tables.
    ///
    /// # Errors
    /// If a beta is not between 0 and 1, or `trained_betas` has the wrong length.
    pub fn new(config: &ScheduleConfig) -> Result<Self, DiffusionError> {
        let mut betas = betas(config)?;
        if let Some((timestep, &beta)) =
            betas.iter().enumerate().find(|(_, beta)| !(**beta > 0.0 && **beta < 1.0))
        {
            return Err(DiffusionError::InvalidBeta { timestep, beta });
        }
        if config.rescale_betas_zero_snr {
            betas = rescale_zero_terminal_snr(&betas);
        }
        let alphas_cumprod = alphas_cumprod(&betas);
        Ok(Self { betas, alphas_cumprod, prediction_type: config.prediction_type })
    }

    /// Number of training timesteps; valid timesteps are below it.
    #[must_use]
    pub fn n_train_timesteps(&self) -> usize {
        self.betas.len()
    }

    /// What the network predicts.
    #[must_use]
    pub fn prediction_type(&self) -> PredictionType {
        self.prediction_type
    }

    /// The variance added at each timestep.
    #[must_use]
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// `alpha_t^2`, the share of the signal in the variance at each timestep.
    #[must_use]
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// The ratio of signal to noise at a timestep, `alpha_t^2 / sigma_t^2`.
    ///
    /// # Panics
    /// If the timestep is not below [`Self::n_train_timesteps`].
    #[must_use]
    pub fn snr(&self, timestep: usize) -> f64 {
        let alpha_cumprod = self.alphas_cumprod[timestep];
        alpha_cumprod / (1.0 - alpha_cumprod)
    }

    /// The forward process, `alpha_t * latents + sigma_t * noise`, with one timestep per sample.
    ///
    /// # Shapes
    /// - `latents`, `noise` and output: `[batch, channels, height, width]`; the output is f32
    ///
    /// # Panics
    /// If there is not one timestep per sample, or one is not below [`Self::n_train_timesteps`].
    ///
    /// Source: Ho et al. 2020, eq. 4; diffusers 0.42 `DDPMScheduler.add_noise`.
    #[must_use]
    pub fn add_noise(&self, latents: Tensor<4>, noise: Tensor<4>, timesteps: &[usize]) -> Tensor<4> {
        let (alpha, sigma) = self.coefficients(&latents, timesteps);
        alpha * latents.cast(DType::F32) + sigma * noise.cast(DType::F32)
    }

    /// The velocity, `alpha_t * noise - sigma_t * latents`; shapes and panics as in [`Self::add_noise`].
    ///
    /// Source: Salimans and Ho 2022, section 4; diffusers 0.42 `DDPMScheduler.get_velocity`.
    #[must_use]
    pub fn velocity(&self, latents: Tensor<4>, noise: Tensor<4>, timesteps: &[usize]) -> Tensor<4> {
        let (alpha, sigma) = self.coefficients(&latents, timesteps);
        alpha * noise.cast(DType::F32) - sigma * latents.cast(DType::F32)
    }

    /// What the network should predict: the noise or the velocity; shapes and panics as in [`Self::add_noise`].
    #[must_use]
    pub fn target(&self, latents: Tensor<4>, noise: Tensor<4>, timesteps: &[usize]) -> Tensor<4> {
        match self.prediction_type {
            PredictionType::Epsilon => noise.cast(DType::F32),
            PredictionType::VPrediction => self.velocity(latents, noise, timesteps),
        }
    }

    /// `alpha_t` and `sigma_t` of each sample, `[batch, 1, 1, 1]`.
    fn coefficients(&self, latents: &Tensor<4>, timesteps: &[usize]) -> (Tensor<4>, Tensor<4>) {
        let batch = timesteps.len();
        assert_eq!(latents.dims()[0], batch, "one timestep per sample");
        let levels =
            timesteps.iter().map(|&timestep| NoiseLevel::from_alpha_cumprod(self.alphas_cumprod[timestep]));
        let (alphas, sigmas): (Vec<f64>, Vec<f64>) = levels.map(|level| (level.alpha, level.sigma)).unzip();
        let device = latents.device();
        let column =
            |values| Tensor::from_data(TensorData::new(values, [batch, 1, 1, 1]), (&device, DType::F32));
        (column(alphas), column(sigmas))
    }
}

fn betas(config: &ScheduleConfig) -> Result<Vec<f64>, DiffusionError> {
    let n_timesteps = config.n_train_timesteps;
    match &config.beta_schedule {
        BetaSchedule::Linear { beta_start, beta_end } => Ok(linspace(*beta_start, *beta_end, n_timesteps)),
        BetaSchedule::ScaledLinear { beta_start, beta_end } => {
            let roots = linspace(beta_start.sqrt(), beta_end.sqrt(), n_timesteps);
            Ok(roots.into_iter().map(|root| round_to_f32(root * root)).collect())
        }
        BetaSchedule::SquaredCosCapV2 => {
            Ok((0..n_timesteps).map(|t| squared_cosine_beta(t, n_timesteps)).collect())
        }
        BetaSchedule::Trained(betas) if betas.len() == n_timesteps => {
            Ok(betas.iter().map(|&beta| round_to_f32(beta)).collect())
        }
        BetaSchedule::Trained(betas) => {
            Err(DiffusionError::TrainedBetasLength { expected: n_timesteps, found: betas.len() })
        }
    }
}

/// `torch.linspace` in f32: from both ends towards the middle, with a fused multiply-add.
fn linspace(start: f64, end: f64, n_points: usize) -> Vec<f64> {
    let (start, end) = (round_to_f32(start), round_to_f32(end));
    let n_gaps = n_points.saturating_sub(1);
    let step = round_to_f32(round_to_f32(end - start) / n_gaps as f64);
    let value = |i| if i < n_points / 2 { start + step * i as f64 } else { end - step * (n_gaps - i) as f64 };
    (0..n_points).map(|i| round_to_f32(value(i))).collect()
}

/// Source: Nichol and Dhariwal 2021, section 3.2; diffusers 0.42 `betas_for_alpha_bar`.
fn squared_cosine_beta(timestep: usize, n_timesteps: usize) -> f64 {
    let alpha_bar = |time: f64| ((time + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    let [time, next_time] = [timestep, timestep + 1].map(|t| t as f64 / n_timesteps as f64);
    round_to_f32((1.0 - alpha_bar(next_time) / alpha_bar(time)).min(0.999))
}

/// Running product of `1 - beta`. As in torch, each entry is rounded to f32 but the product is carried in f64.
fn alphas_cumprod(betas: &[f64]) -> Vec<f64> {
    betas
        .iter()
        .scan(1.0, |product, beta| {
            *product *= round_to_f32(1.0 - beta);
            Some(round_to_f32(*product))
        })
        .collect()
}

/// Shifts and scales the square roots of [`alphas_cumprod`] so that the last is zero and the first stays.
///
/// Source: Lin et al. 2023, algorithm 1; diffusers 0.42 `rescale_zero_terminal_snr`.
fn rescale_zero_terminal_snr(betas: &[f64]) -> Vec<f64> {
    let roots: Vec<f64> =
        alphas_cumprod(betas).into_iter().map(|product| round_to_f32(product.sqrt())).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else {
        return Vec::new();
    };
    let scale = round_to_f32(first / round_to_f32(first - last));
    let mut previous = 1.0;
    let rescaled = roots.into_iter().map(|root| {
        let root = round_to_f32(round_to_f32(root - last) * scale);
        let product = round_to_f32(root * root);
        let beta = round_to_f32(1.0 - round_to_f32(product / previous));
        previous = product;
        beta
    });
    rescaled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable_diffusion(prediction_type: PredictionType) -> ScheduleConfig {
        ScheduleConfig {
            n_train_timesteps: 1000,
            beta_schedule: BetaSchedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012 },
            rescale_betas_zero_snr: false,
            prediction_type,
        }
    }

    #[test]
    fn zero_terminal_snr_keeps_the_first_timestep_and_removes_the_last_signal() {
        let plain = NoiseSchedule::new(&stable_diffusion(PredictionType::Epsilon)).unwrap();
        let config =
            ScheduleConfig { rescale_betas_zero_snr: true, ..stable_diffusion(PredictionType::Epsilon) };
        let rescaled = NoiseSchedule::new(&config).unwrap();
        assert!((rescaled.alphas_cumprod()[0] - plain.alphas_cumprod()[0]).abs() < 1e-6);
        assert_eq!(rescaled.alphas_cumprod()[999], 0.0);
        assert_eq!(rescaled.betas()[999], 1.0);
    }

    #[test]
    fn betas_that_are_no_variances_are_rejected() {
        for (beta_start, beta_end, wrong_timestep) in
            [(0.0, 0.02, 0), (-0.1, 0.02, 0), (0.5, 1.0, 999), (f64::NAN, 0.1, 0)]
        {
            let config = ScheduleConfig {
                beta_schedule: BetaSchedule::Linear { beta_start, beta_end },
                ..stable_diffusion(PredictionType::Epsilon)
            };
            match NoiseSchedule::new(&config) {
                Err(DiffusionError::InvalidBeta { timestep, .. }) => assert_eq!(timestep, wrong_timestep),
                other => panic!("{beta_start}..{beta_end}: {other:?}"),
            }
        }
    }

    #[test]
    fn trained_betas_of_the_wrong_length_are_rejected() {
        let config = ScheduleConfig {
            beta_schedule: BetaSchedule::Trained(vec![0.1; 999]),
            ..stable_diffusion(PredictionType::Epsilon)
        };
        assert!(matches!(
            NoiseSchedule::new(&config),
            Err(DiffusionError::TrainedBetasLength { expected: 1000, found: 999 })
        ));
    }

    #[test]
    fn each_sample_gets_the_noise_of_its_own_timestep() {
        let device = Device::flex();
        let schedule = NoiseSchedule::new(&stable_diffusion(PredictionType::Epsilon)).unwrap();
        let latents = Tensor::<4>::ones([2, 1, 1, 1], &device);
        let noise = Tensor::<4>::zeros([2, 1, 1, 1], &device);
        let noisy: Vec<f32> =
            schedule.add_noise(latents, noise, &[0, 999]).into_data().try_into_vec().unwrap();
        assert!((noisy[0] - 0.99915_f32.sqrt()).abs() < 1e-6, "{noisy:?}");
        assert!((noisy[1] - 0.0682651).abs() < 1e-6, "{noisy:?}");
    }

    #[test]
    fn a_perfect_velocity_gives_back_latents_and_noise() {
        let device = Device::flex();
        let schedule = NoiseSchedule::new(&stable_diffusion(PredictionType::VPrediction)).unwrap();
        let latents = Tensor::<4>::from_floats([[[[0.5, -2.0]]]], &device);
        let noise = Tensor::<4>::from_floats([[[[-1.5, 0.25]]]], &device);
        let noisy = schedule.add_noise(latents.clone(), noise.clone(), &[700]);
        let target = schedule.target(latents.clone(), noise.clone(), &[700]);
        let level = NoiseLevel::from_alpha_cumprod(schedule.alphas_cumprod()[700]);
        let clean = level.clean(PredictionType::VPrediction, target.clone(), noisy.clone());
        let implied_noise = level.noise(PredictionType::VPrediction, target, noisy);
        assert!((clean - latents).abs().max().into_scalar::<f32>() < 1e-6);
        assert!((implied_noise - noise).abs().max().into_scalar::<f32>() < 1e-6);
    }

    #[test]
    fn epsilon_target_is_the_noise() {
        let device = Device::flex();
        let schedule = NoiseSchedule::new(&stable_diffusion(PredictionType::Epsilon)).unwrap();
        let noise = Tensor::<4>::from_floats([[[[-1.5, 0.25]]]], &device);
        let target = schedule.target(noise.zeros_like(), noise.clone(), &[3]);
        target.into_data().assert_eq(&noise.into_data(), true);
    }
}
