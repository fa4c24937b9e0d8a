//! AutoencoderKL against diffusers.

use burn::prelude::*;
use pyrograph::backend;
use pyrograph_vae::{
    AutoencoderKl, DiagonalGaussian, LEGACY_ALIASES, Passes, RENAMES, Tiling, VaeConfig, VaeJson,
};
use pyrograph_weights::{LoadOptions, Renames, load};
use serde_json::Value;

use super::cases::{Case, assert_close, cases};
use crate::tolerance;

fn load_vae(case: &Case, file: &str, device: &Device) -> AutoencoderKl {
    let config = VaeConfig::try_from(case.json::<VaeJson>("config.json")).expect("an autoencoder's config");
    let renames = Renames::new(RENAMES);
    let options = LoadOptions { renames, aliases: LEGACY_ALIASES, ..LoadOptions::default() };
    load(config.init(device), &case.dir.join(file), &options)
        .unwrap_or_else(|error| panic!("{}: {file}: {error}", case.name))
}

#[test]
fn encoder_decoder_and_draws_equal_those_of_diffusers() {
    let device = backend::device();
    for case in cases("vae") {
        let vae = load_vae(&case, "weights.safetensors", &device);
        let inputs = case.tensors("inputs.safetensors");
        let expected = case.tensors("expected.safetensors");
        let image = inputs.float::<4>("image", &device);
        let posterior = vae.encode(image.clone());
        let sample = posterior.sample(inputs.float("noise", &device));
        let expected_sample = expected.float::<4>("sample", &device);
        for (part, actual) in [
            ("encoder", vae.encoder().forward(image)),
            ("moments", posterior.moments()),
            ("sample", sample.clone()),
            ("latents", vae.scale(sample)),
            ("decoder", vae.decoder().forward(expected_sample.clone())),
            ("decoded", vae.decode(expected_sample)),
        ] {
            assert_close(
                &format!("{}: {part}", case.name),
                actual,
                expected.float::<4>(part, &device),
                tolerance::OUTPUT,
            );
        }
        let again = DiagonalGaussian::from_moments(posterior.moments());
        assert_eq!(again.moments().into_data(), posterior.moments().into_data(), "{}: moments", case.name);
    }
}

#[test]
fn tiles_equal_those_of_diffusers() {
    let device = backend::device();
    for case in cases("vae") {
        let vae = load_vae(&case, "weights.safetensors", &device);
        let tiled = case.tensors("tiled.safetensors");
        let config = VaeConfig::try_from(case.json::<VaeJson>("config.json")).expect("checked by `load_vae`");
        let passes = Passes { slicing: false, tiling: Some(Tiling::of(&config)) };
        let (image, sample) = (tiled.float::<4>("image", &device), tiled.float::<4>("sample", &device));
        let whole = vae.decode(sample.clone());
        for (part, actual) in
            [("moments", vae.encode_in(passes, image).moments()), ("decoded", vae.decode_in(passes, sample))]
        {
            let expected = tiled.float::<4>(part, &device);
            assert_close(&format!("{}: tiled {part}", case.name), actual, expected, tolerance::OUTPUT);
        }
        let difference = (tiled.float::<4>("decoded", &device) - whole).abs().max().into_scalar::<f32>();
        assert!(difference > 1e-3, "{}: tiles make no difference", case.name);
    }
}

#[test]
fn files_with_the_old_attention_names_load_to_the_same_model() {
    let device = backend::device();
    let mut n_checked = 0;
    for case in cases("vae") {
        if case.json::<Value>("case.json")["legacy_names"] == true {
            let sample = case.tensors("expected.safetensors").float::<4>("sample", &device);
            let [old, new] = ["legacy.safetensors", "weights.safetensors"]
                .map(|file| load_vae(&case, file, &device).decode(sample.clone()).into_data());
            assert_eq!(old, new, "{}", case.name);
            n_checked += 1;
        }
    }
    assert!(n_checked > 0, "no case with old names");
}
