//! The names and shapes of full-size models, from shapes alone: no weight is ever allocated.

use std::collections::BTreeMap;

use burn::prelude::*;
use pyrograph::backend;
use pyrograph_text::{ClipTextConfig, ClipTextJson};
use pyrograph_unet::{ControlNetConfig, ControlNetJson, UnetConfig, UnetJson};
use pyrograph_vae::{VaeConfig, VaeJson};
use pyrograph_weights::{Renames, names_and_shapes};

use super::cases::{Case, cases};

fn check<M: Module>(
    case: &Case,
    module: &M,
    renames: &'static [(&'static str, &'static str)],
    n_tensors: usize,
) {
    let expected: BTreeMap<String, Vec<usize>> = case.json("case.json");
    let renames = Renames::new(renames);
    let found = names_and_shapes(module, &renames);
    assert_eq!(expected.len(), n_tensors, "{}: number of tensors", case.name);
    for (name, shape) in &expected {
        assert_eq!(found.get(name), Some(shape), "{}: {name}", case.name);
    }
    assert_eq!(found.len(), expected.len(), "{}: tensors that the original does not have", case.name);
    for name in found.keys() {
        assert_eq!(&renames.to_file(&renames.to_ours(name)), name, "{}: there and back", case.name);
    }
}

fn contracts(name: &str) -> Vec<Case> {
    let mut found = cases("contract");
    found.retain(|case| case.name == format!("contract/{name}"));
    assert!(!found.is_empty(), "no contract of {name}");
    found
}

#[test]
fn the_full_size_unets_have_the_names_and_shapes_of_diffusers() {
    for (name, preset, n_tensors) in [
        ("unet-sd15", UnetConfig::sd15(), 686),
        ("unet-sd21", UnetConfig::sd21(), 686),
        ("unet-sdxl", UnetConfig::sdxl(), 1680),
    ] {
        for case in contracts(name) {
            let config = UnetConfig::try_from(case.json::<UnetJson>("config.json")).expect("a UNet's config");
            assert_eq!(config, preset, "{name}");
            check(&case, &config.init(&backend::device()), pyrograph_unet::RENAMES, n_tensors);
        }
    }
}

#[test]
fn the_full_size_controlnets_have_the_names_and_shapes_of_diffusers() {
    for (name, n_tensors) in [
        ("controlnet-sd15", 340),
        ("controlnet-sd21", 340),
        ("controlnet-sdxl", 844),
        ("controlnet-sdxl-mid", 224),
        ("controlnet-sdxl-small", 124),
    ] {
        for case in contracts(name) {
            let json = case.json::<ControlNetJson>("config.json");
            let config = ControlNetConfig::try_from(json).expect("a ControlNet's config");
            check(&case, &config.init(&backend::device()), pyrograph_unet::RENAMES, n_tensors);
        }
    }
}

#[test]
fn the_full_size_autoencoder_has_the_names_and_shapes_of_diffusers() {
    for case in contracts("vae-sd15") {
        let config =
            VaeConfig::try_from(case.json::<VaeJson>("config.json")).expect("an autoencoder's config");
        assert_eq!(config, VaeConfig::sd15());
        check(&case, &config.init(&backend::device()), pyrograph_vae::RENAMES, 248);
    }
}

#[test]
fn the_full_size_text_encoders_have_the_names_and_shapes_of_transformers() {
    for (name, preset, n_tensors) in [
        ("clip-l", ClipTextConfig::clip_l(), 196),
        ("open-clip-h", ClipTextConfig::open_clip_h(), 372),
        ("open-clip-big-g", ClipTextConfig::open_clip_big_g(), 517),
    ] {
        for case in contracts(name) {
            let config = ClipTextConfig::try_from(case.json::<ClipTextJson>("config.json"))
                .expect("a text encoder's config");
            assert_eq!(config, preset, "{name}");
            check(&case, &config.init(&backend::device()), pyrograph_text::RENAMES, n_tensors);
        }
    }
}
