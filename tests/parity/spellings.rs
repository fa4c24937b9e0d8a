//! Every name under which diffusers and transformers write weights.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::TensorData;
use pyrograph::backend;
use pyrograph_text::{ClipTextConfig, ClipTextJson, OPTIONAL_PREFIX};
use pyrograph_vae::{VaeConfig, VaeJson};
use pyrograph_weights::{
    LoadOptions, Pickles, Renames, SaveOptions, SystemDisk, WeightsError, load, load_tensors, save,
};
use serde::Deserialize;

use super::cases::{Case, cases};

#[derive(Deserialize)]
struct Folder {
    component: String,
    /// Its weights are those of the other files with the other sign.
    variant: String,
    pickle: bool,
}

#[test]
fn every_spelling_of_diffusers_and_transformers_gives_the_same_weights() {
    for case in cases("spellings") {
        let folder: Folder = case.json("case.json");
        let pickles = if folder.pickle { Pickles::Allowed } else { Pickles::Refused };
        let expected = load_tensors(&case.dir.join("expected.safetensors")).expect("safetensors");
        for (variant, sign) in [(None, 1.0), (Some(folder.variant.as_str()), -1.0)] {
            let found = read(&case, &folder, variant, pickles)
                .unwrap_or_else(|error| panic!("{}, {variant:?}: {error}", case.name));
            assert_eq!(found.len(), expected.len(), "{}, {variant:?}", case.name);
            for (name, values) in &expected {
                let signed: Vec<f32> = values.iter::<f32>().map(|value| sign * value).collect();
                let signed = TensorData::new(signed, values.shape().clone());
                assert_eq!(found[name], signed, "{}, {variant:?}: {name}", case.name);
            }
        }
    }
}

#[test]
fn a_variant_or_a_pickle_that_was_not_asked_for_is_never_taken() {
    for case in cases("spellings") {
        let folder: Folder = case.json("case.json");
        let pickles = if folder.pickle { Pickles::Allowed } else { Pickles::Refused };
        let refused = |variant, pickles| {
            let outcome = read(&case, &folder, variant, pickles);
            let error = outcome.expect_err(&format!("{}: something was read", case.name));
            assert!(matches!(error, WeightsError::NoWeights { .. }), "{}: {error:?}", case.name);
            error.hint().expect("a way out")
        };
        refused(Some("bf16"), pickles);
        if folder.pickle {
            let hint = refused(None, Pickles::Refused);
            assert!(hint.contains("--allow-pickle"), "{}: {hint}", case.name);
        }
    }
}

/// What a component's module holds after it was filled from the case's folder, by the names of transformers 5.
fn read(
    case: &Case,
    folder: &Folder,
    variant: Option<&str>,
    pickles: Pickles,
) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    let device = backend::device();
    let options = LoadOptions { variant, pickles, ..LoadOptions::default() };
    if folder.component == "vae" {
        let config = VaeConfig::try_from(case.json::<VaeJson>("config.json")).expect("a VAE's config");
        let renames = Renames::new(pyrograph_vae::RENAMES);
        filled(config.init(&device), &case.dir, &LoadOptions { renames, ..options })
    } else {
        let json = case.json::<ClipTextJson>("config.json");
        let config = ClipTextConfig::try_from(json).expect("a text encoder's config");
        let options = LoadOptions { optional_prefix: Some(OPTIONAL_PREFIX), ..options };
        let tensors = filled(config.init(&device), &case.dir, &options)?;
        let prefix = format!("{OPTIONAL_PREFIX}.");
        Ok(tensors.into_iter().map(|(name, data)| (name.replacen(&prefix, "", 1), data)).collect())
    }
}

fn filled<M: Module>(
    module: M,
    path: &Path,
    options: &LoadOptions<'_>,
) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    let module = load(module, path, options)?;
    let desk = tempfile::tempdir().expect("a folder");
    let file = desk.path().join("filled.safetensors");
    let saved = SaveOptions { renames: options.renames, ..SaveOptions::default() };
    save(&module, &file, &saved, &SystemDisk)?;
    load_tensors(&file)
}
