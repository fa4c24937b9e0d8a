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
fn the_full_size_unet_has_the_names_and_shapes_of_diffusers() {
    for case in contracts("unet-sd15") {
        let config = UnetConfig::try_from(case.json::<UnetJson>("config.json")).expect("a UNet's config");
        assert_eq!(config, UnetConfig::sd15());
        check(&case, &config.init(&backend::device()), pyrograph_unet::RENAMES, 686);
    }
}

#[test]
fn the_full_size_controlnet_has_the_names_and_shapes_of_diffusers() {
    for case in contracts("controlnet-sd15") {
        let json = case.json::<ControlNetJson>("config.json");
        let config = ControlNetConfig::try_from(json).expect("a ControlNet's config");
        check(&case, &config.init(&backend::device()), pyrograph_unet::RENAMES, 340);
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
fn the_full_size_text_encoder_has_the_names_and_shapes_of_transformers() {
    for case in contracts("clip-l") {
        let config = ClipTextConfig::try_from(case.json::<ClipTextJson>("config.json"))
            .expect("a text encoder's config");
        assert_eq!(config, ClipTextConfig::clip_l());
        check(&case, &config.init(&backend::device()), pyrograph_text::RENAMES, 196);
    }
}
