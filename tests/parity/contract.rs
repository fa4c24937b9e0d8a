//! The names and shapes of full-size models, from shapes alone: no weight is ever allocated.

use std::collections::BTreeMap;

use burn::prelude::*;
use pyrograph::backend;
use pyrograph_unet::{ControlNetConfig, ControlNetJson, RENAMES, UnetConfig, UnetJson};
use pyrograph_weights::{Renames, names_and_shapes};

use super::cases::{Case, cases};

fn check<M: Module>(case: &Case, module: &M, n_tensors: usize) {
    let expected: BTreeMap<String, Vec<usize>> = case.json("case.json");
    let found = names_and_shapes(module, &Renames::new(RENAMES));
    assert_eq!(expected.len(), n_tensors, "{}: number of tensors", case.name);
    for (name, shape) in &expected {
        assert_eq!(found.get(name), Some(shape), "{}: {name}", case.name);
    }
    assert_eq!(found.len(), expected.len(), "{}: tensors that diffusers does not have", case.name);
}

#[test]
fn full_size_sd15_has_the_names_and_shapes_of_diffusers() {
    let device = backend::device();
    let mut n_checked = 0;
    for case in cases("contract") {
        if case.name.ends_with("/unet-sd15") {
            let config = UnetConfig::try_from(case.json::<UnetJson>("config.json")).expect("a UNet's config");
            assert_eq!(config, UnetConfig::sd15());
            check(&case, &config.init(&device), 686);
            n_checked += 1;
        } else if case.name.ends_with("/controlnet-sd15") {
            let json = case.json::<ControlNetJson>("config.json");
            check(&case, &ControlNetConfig::try_from(json).expect("a config").init(&device), 340);
            n_checked += 1;
        }
    }
    assert!(n_checked >= 2, "UNet and ControlNet");
}
