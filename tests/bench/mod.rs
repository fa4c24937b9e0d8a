//! Times of single operations, forward and backward, at the sizes of Stable Diffusion 1.5.
//!
//! `cargo xtask bench --kernels` runs this and `tests/reference/bench_kernels.py`, which times the same in PyTorch.

#[cfg(feature = "cpu")]
mod gradient;

use std::time::Instant;

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNormConfig, LayerNormConfig, LinearConfig, PaddingConfig2d};
use burn::prelude::*;
use burn::tensor::Distribution;
use image::{Rgb, RgbImage};
use pyrograph_data::{Interpolation, Side, Transform, Turn, decode_rgb8};
use pyrograph_kernels::{attention, conv2d, geglu, group_norm_silu, layer_norm};

const N_RUNS: usize = 20;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// What to call `backward` of, so that it begins with `gradient` where the backend lets us.
#[cfg_attr(not(feature = "cpu"), expect(unused_variables, reason = "other backends begin with a sum"))]
fn begin<const D: usize>(output: Tensor<D>, gradient: &Tensor<D>) -> Tensor<1> {
    #[cfg(feature = "cpu")]
    return gradient::begin(output, gradient.clone());
    #[cfg(not(feature = "cpu"))]
    output.sum()
}

/// Prints the least seconds of a forward and a backward pass towards `inputs`, from one gradient of the output.
#[expect(clippy::print_stdout, reason = "a measurement is to be read")]
fn time<const D: usize, const E: usize>(
    name: &str,
    inputs: &[Tensor<D>],
    forward: impl Fn(&[Tensor<D>]) -> Tensor<E>,
) {
    let device = inputs[0].device();
    let shape = forward(inputs).shape();
    let gradient = Tensor::<E>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let run = || {
        let inputs: Vec<_> = inputs.iter().map(|input| input.clone().detach().require_grad()).collect();
        let start = Instant::now();
        let output = forward(&inputs);
        device.sync().unwrap();
        let forward_seconds = start.elapsed().as_secs_f64();
        let gradients = begin(output, &gradient).backward();
        device.sync().unwrap();
        drop(gradients);
        (forward_seconds, start.elapsed().as_secs_f64() - forward_seconds)
    };
    run();
    let (mut least_forward, mut least_backward) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..N_RUNS {
        let (forward, backward) = run();
        least_forward = least_forward.min(forward);
        least_backward = least_backward.min(backward);
    }
    println!(r#"{{"name": "{name}", "forward": {least_forward:.6}, "backward": {least_backward:.6}}}"#);
}

fn conv(channels: [usize; 2], kernel: usize, stride: usize, device: &Device) -> Conv2d {
    let padding = (kernel - 1) / 2;
    Conv2dConfig::new(channels, [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
        .init(device)
}

/// The device without and with gradients.
fn devices() -> (Device, Device) {
    pyrograph::allocator::keep_freed_memory();
    let plain = pyrograph::backend::device();
    (plain.clone(), plain.autodiff())
}

#[test]
#[ignore = "measures, and decides nothing"]
fn convolutions() {
    let (plain, device) = devices();
    for (channels_in, channels_out, side) in [
        (320, 320, 64),
        (640, 640, 32),
        (1280, 1280, 16),
        (320, 320, 32),
        (640, 640, 16),
        (1280, 1280, 8),
        (1280, 1280, 4),
        (1920, 640, 32),
        (128, 128, 256),
    ] {
        let input = [random([1, channels_in, side, side], &device)];
        for (frozen, weights) in [("", &device), (" frozen", &plain)] {
            let conv = conv([channels_in, channels_out], 3, 1, weights);
            let name = format!("conv3x3 {channels_in}-{channels_out} {side}x{side}{frozen}");
            time(&name, &input, |input| conv2d(&conv, input[0].clone()));
        }
    }
    for (channels, side) in [(320, 64), (1280, 16)] {
        let conv = conv([channels, channels], 1, 1, &device);
        let input = [random([1, channels, side, side], &device)];
        time(&format!("conv1x1 {channels} {side}x{side}"), &input, |input| conv2d(&conv, input[0].clone()));
    }
}

#[test]
#[ignore = "measures, and decides nothing"]
fn attention_heads() {
    let (_, device) = devices();
    for (n_heads, n_queries, n_keys, d_head) in
        [(8, 4096, 4096, 40), (8, 1024, 1024, 80), (8, 1024, 1024, 40), (8, 256, 256, 160), (8, 4096, 77, 40)]
    {
        let [query, key, value] =
            [n_queries, n_keys, n_keys].map(|tokens| random([1, n_heads, tokens, d_head], &device));
        time(&format!("attention {n_heads}x{n_queries}x{n_keys}x{d_head}"), &[query, key, value], |inputs| {
            attention(inputs[0].clone(), inputs[1].clone(), inputs[2].clone())
        });
    }
}

#[test]
#[ignore = "measures, and decides nothing"]
fn token_operations() {
    let (_, device) = devices();
    let norm = GroupNormConfig::new(32, 320).init(&device);
    time("group norm + SiLU 320x64x64", &[random([1, 320, 64, 64], &device)], |input| {
        group_norm_silu(&norm, input[0].clone())
    });
    time("GEGLU 4096x2560", &[random([1, 4096, 2560], &device)], |input| geglu(input[0].clone()));
    let norm = LayerNormConfig::new(320).with_epsilon(1e-5).init(&device);
    time("layer norm 4096x320", &[random([1, 4096, 320], &device)], |input| {
        layer_norm(&norm, 1e-5, input[0].clone())
    });
    let linear = LinearConfig::new(320, 2560).init(&device);
    time("linear 4096x320x2560", &[random([1, 4096, 320], &device)], |input| {
        linear.forward(input[0].clone())
    });
}

/// A picture with edges, slopes and noise, 1024 px wide and 768 high.
fn picture() -> RgbImage {
    let mut noise = 1_u32;
    RgbImage::from_fn(1024, 768, |x, y| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let disk = if (x.abs_diff(500).pow(2) + y.abs_diff(400).pow(2)) < 200 * 200 { 90 } else { 0 };
        let level = |shift: u32| (x * shift / 16 + y / 4) % 128 + disk + (noise >> 28);
        Rgb([1, 3, 5].map(|shift| u8::try_from(level(shift)).unwrap()))
    })
}

#[test]
#[ignore = "measures, and decides nothing"]
fn pictures() {
    pyrograph::allocator::keep_freed_memory();
    let turn = Turn { seed: 0, epoch: 0 };
    // Kept, for PyTorch to read the same files.
    let folder = tempfile::tempdir().unwrap().keep();
    let transform = Transform::new(Side::try_from(512_usize).unwrap(), Interpolation::Bilinear);
    for name in ["picture.png", "picture.jpg"] {
        let path = folder.join(name);
        picture().save(&path).unwrap();
        let load = || {
            let image = decode_rgb8(&path).unwrap();
            let hint = decode_rgb8(&path).unwrap();
            let start = Instant::now();
            let sample = transform.apply(&image, &hint, "a", turn).unwrap();
            drop(sample);
            start.elapsed().as_secs_f64()
        };
        let whole = || {
            let start = Instant::now();
            transform.apply(&decode_rgb8(&path).unwrap(), &decode_rgb8(&path).unwrap(), "a", turn).unwrap();
            start.elapsed().as_secs_f64()
        };
        let least = |measure: &dyn Fn() -> f64| (0..10).map(|_| measure()).fold(f64::INFINITY, f64::min);
        let (geometry, whole) = (least(&load), least(&whole));
        println!(
            r#"{{"name": "two of {name}", "path": "{}", "decode": {:.6}, "resize": {geometry:.6}}}"#,
            path.display(),
            whole - geometry,
        );
    }
}
