//! Files with the names of the original code: every name, at full size, and what is read from them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use burn::tensor::TensorData;
use flate2::read::GzDecoder;
use pyrograph::backend;
use pyrograph_pipeline::{
    Bundle, BundleConfigs, BundleOptions, ConvertOptions, Converted, TinyBase, TinyModels, controlnet_config,
    convert, load_controlnet, save_controlnet, save_unet,
};
use pyrograph_text::{ClipTextConfig, ClipTextJson, OriginalPart, TextFamily, open_clip_name};
use pyrograph_unet::{ControlNetConfig, ControlNetJson, Naming, Stage, StageKind, UnetConfig, UnetJson};
use pyrograph_vae::{VaeConfig, VaeJson};
use pyrograph_weights::{Disk, Pickles, SaveDtype, SystemDisk, load_tensors, read_header, save_tensors};
use tempfile::TempDir;

use super::cases::{Case, cases};

/// One line of diffusers' answers: which original tensor one of diffusers' names is, and which part of it.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    name: String,
    original: String,
    part: String,
}

fn lines(case: &Case) -> Vec<Line> {
    let path = case.dir.join("places.tsv.gz");
    let mut text = String::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let line = |line: &str| {
        let mut columns = line.split('\t').map(str::to_owned);
        let [name, original, part] = [(); 3].map(|()| columns.next().unwrap());
        Line { name, original, part }
    };
    text.lines().map(line).collect()
}

/// The shapes that the original file of a model has, by names without their prefix.
fn original_shapes(case: &Case, prefix: &str) -> BTreeMap<String, Vec<usize>> {
    let contract = Case { name: case.name.clone(), dir: contract_dir(case) };
    let ours: BTreeMap<String, Vec<usize>> = contract.json("case.json");
    let mut shapes = BTreeMap::new();
    for line in lines(case) {
        let mut shape = ours[&line.name].clone();
        match line.part.as_str() {
            "transposed" => shape.reverse(),
            part if part.starts_with("third") => shape[0] *= 3,
            _ => {}
        }
        shapes.insert(line.original.strip_prefix(prefix).unwrap().to_owned(), shape);
    }
    shapes
}

fn contract_dir(case: &Case) -> std::path::PathBuf {
    crate::fixtures().join("parity/contract").join(case.dir.file_name().unwrap())
}

fn config<T: serde::de::DeserializeOwned>(case: &Case) -> T {
    Case { name: case.name.clone(), dir: contract_dir(case) }.json("config.json")
}

/// Compares all places; `ours` gives original name and part.
fn check(case: &Case, prefix: &str, ours: impl Fn(&str) -> Option<(String, OriginalPart)>) {
    let lines = lines(case);
    assert!(lines.len() > 100, "{}: {} tensors", case.name, lines.len());
    for Line { name, original, part } in lines {
        let (found, found_part) = ours(&name).unwrap_or_else(|| panic!("{}: {name} is unknown", case.name));
        let found_part = match found_part {
            OriginalPart::Whole => "whole".to_owned(),
            OriginalPart::Transposed => "transposed".to_owned(),
            OriginalPart::Third(idx) => format!("third {idx}"),
        };
        assert_eq!((format!("{prefix}{found}"), found_part), (original, part), "{}: {name}", case.name);
    }
}

#[test]
fn every_full_size_name_is_the_one_that_diffusers_converts() {
    for case in cases("original") {
        let model = case.name.strip_prefix("original/").unwrap().to_owned();
        let whole = |name: Option<String>| name.map(|name| (name, OriginalPart::Whole));
        match model.split_once('-').unwrap().0 {
            "unet" => {
                let prefix = "model.diffusion_model.";
                let config = UnetConfig::try_from(config::<UnetJson>(&case)).unwrap();
                let names = config.original_names();
                check(&case, prefix, |name| whole(names.of(name)));
                let shapes = original_shapes(&case, prefix);
                let shape_of = |name: &str| shapes.get(name).map(Vec::as_slice);
                let found = UnetConfig::from_shapes(Naming::Original, &shape_of, None).unwrap();
                assert_eq!(found, config, "{model}: config from shapes");
            }
            "controlnet" => {
                let prefix = "control_model.";
                let config = ControlNetConfig::try_from(config::<ControlNetJson>(&case)).unwrap();
                let names = config.original_names();
                check(&case, prefix, |name| whole(names.of(name)));
                let shapes = original_shapes(&case, prefix);
                let shape_of = |name: &str| shapes.get(name).map(Vec::as_slice);
                let found = ControlNetConfig::from_shapes(Naming::Original, &shape_of).unwrap();
                assert_eq!(ControlNetJson::from(&found), ControlNetJson::from(&config), "{model}");
            }
            "vae" => {
                let prefix = "first_stage_model.";
                let config = VaeConfig::try_from(config::<VaeJson>(&case)).unwrap();
                check(&case, prefix, |name| whole(Some(config.original_name(name))));
                let shapes = original_shapes(&case, prefix);
                let shape_of = |name: &str| shapes.get(name).map(Vec::as_slice);
                // Attention is a convolution there, but its shape is not asked for.
                let found = VaeConfig::from_original_shapes(shape_of, &VaeConfig::sd15()).unwrap();
                assert_eq!(found, config, "{model}: config from shapes");
            }
            _ => {
                let (prefix, family) = match model.as_str() {
                    "clip-l" => ("cond_stage_model.transformer.", TextFamily::Clip),
                    "open-clip-h" => ("cond_stage_model.model.", TextFamily::OpenClipPenultimate),
                    "open-clip-big-g" => ("conditioner.embedders.1.model.", TextFamily::OpenClip),
                    other => panic!("no rule for {other}"),
                };
                if family == TextFamily::Clip {
                    check(&case, prefix, |name| Some((name.to_owned(), OriginalPart::Whole)));
                } else {
                    check(&case, prefix, open_clip_name);
                }
                let shapes = original_shapes(&case, prefix);
                let shape_of = |name: &str| shapes.get(name).map(Vec::as_slice);
                let found = ClipTextConfig::from_original_shapes(shape_of, family).unwrap();
                let config = ClipTextConfig::try_from(config::<ClipTextJson>(&case)).unwrap();
                assert_eq!(
                    (found.d_model, found.n_layers, found.n_heads, found.d_ff, found.activation),
                    (config.d_model, config.n_layers, config.n_heads, config.d_ff, config.activation),
                    "{model}"
                );
            }
        }
    }
}

#[test]
fn the_configs_of_controlnets_without_a_config_are_read_from_their_shapes() {
    for case in cases("contract") {
        if !case.name.contains("controlnet") {
            continue;
        }
        let shapes: BTreeMap<String, Vec<usize>> = case.json("case.json");
        let shape_of = |name: &str| shapes.get(name).map(Vec::as_slice);
        let found = ControlNetConfig::from_shapes(Naming::Diffusers, &shape_of).unwrap();
        let config = ControlNetConfig::try_from(case.json::<ControlNetJson>("config.json")).unwrap();
        let names = |config: &ControlNetConfig| {
            let net = config.init(&backend::device());
            let renames = pyrograph_weights::Renames::new(pyrograph_unet::RENAMES);
            pyrograph_weights::names_and_shapes(&net, &renames)
        };
        assert_eq!(names(&found), names(&config), "{}", case.name);
        assert_eq!(found.unet.context_dim, config.unet.context_dim, "{}", case.name);
    }
}

/// A base with what shapes do not tell as in Stable Diffusion 1: eight heads, groups of 32.
fn small_base() -> TinyBase {
    let base = TinyBase::new(&["red", "circle"]);
    let stage = |kind, channels| Stage { kind, channels, n_heads: 8, ..base.unet.stages[0].clone() };
    let stages = vec![stage(StageKind::CrossAttention, 32), stage(StageKind::Plain, 64)];
    let unet = UnetConfig { stages, norm_groups: 32, ..base.unet.clone() };
    let vae = VaeConfig { channels: vec![32, 64], norm_groups: 32, ..base.vae.clone() };
    let text = ClipTextConfig { n_heads: 1, ..base.text.clone() };
    TinyBase { unet, vae, text, ..base }
}

/// A small base as a folder, and in one file with the original names beside tensors that nobody needs.
fn tiny_base(dir: &Path) -> BTreeMap<String, TensorData> {
    let base = small_base();
    let device = backend::device();
    let (unet, vae, text_encoder) =
        (base.unet.init(&device), base.vae.init(&device), base.text.init(&device));
    let models = TinyModels { unet: &unet, vae: &vae, text_encoder: &text_encoder };
    base.write(models, SaveDtype::F32, &dir.join("base")).unwrap();
    let configs = BundleConfigs::open(&dir.join("base"), &BundleOptions::default()).unwrap();
    let read = |file: &str| load_tensors(&dir.join("base").join(file)).unwrap();
    let mut tensors = BTreeMap::new();
    let unet = configs.unet.original_names();
    for (name, data) in read("unet/diffusion_pytorch_model.safetensors") {
        tensors.insert(format!("model.diffusion_model.{}", unet.of(&name).unwrap()), data);
    }
    for (name, data) in read("vae/diffusion_pytorch_model.safetensors") {
        tensors.insert(format!("first_stage_model.{}", configs.vae.original_name(&name)), data);
    }
    for (name, data) in read("text_encoder/model.safetensors") {
        tensors.insert(format!("cond_stage_model.transformer.{name}"), data);
    }
    let number = || TensorData::new(vec![1_i64], [1]);
    for name in [
        "model_ema.decay",
        "alphas_cumprod",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
    ] {
        tensors.insert(name.to_owned(), number());
    }
    save_tensors(&dir.join("base.safetensors"), &tensors, &BTreeMap::new(), &SystemDisk).unwrap();
    tensors
}

#[test]
fn a_single_file_fills_the_networks_of_its_folder() {
    let desk = TempDir::new().unwrap();
    let mut tensors = tiny_base(desk.path());
    let (folder, file) = (desk.path().join("base"), desk.path().join("base.safetensors"));
    let tokenizer = folder.join("tokenizer");
    let options = BundleOptions { tokenizer: Some(&tokenizer), ..BundleOptions::default() };
    let open = |path: &Path| Bundle::open(path, &options, &backend::device());
    let (from_folder, from_file) = (open(&folder).unwrap(), open(&file).unwrap());
    let saved = |bundle: &Bundle, name: &str| {
        let dir = desk.path().join(name);
        SystemDisk.create_dir(&dir).unwrap();
        save_unet(&bundle.unet, &bundle.unet_config, &dir, &SystemDisk).unwrap();
        let unet = std::fs::read(dir.join("diffusion_pytorch_model.safetensors")).unwrap();
        let vae = pyrograph_weights::SaveOptions::default();
        pyrograph_weights::save(&bundle.vae, &dir.join("vae.safetensors"), &vae, &SystemDisk).unwrap();
        let text = bundle.text.first.model();
        pyrograph_weights::save(text, &dir.join("text.safetensors"), &vae, &SystemDisk).unwrap();
        [
            unet,
            std::fs::read(dir.join("vae.safetensors")).unwrap(),
            std::fs::read(dir.join("text.safetensors")).unwrap(),
        ]
    };
    assert!(saved(&from_folder, "a") == saved(&from_file, "b"), "the weights differ");
    assert_eq!(from_file.scheduler.prediction_type.as_deref(), Some("epsilon"));

    // Strict: what is under a network's prefix must be known.
    let number = TensorData::new(vec![1.0_f32], [1]);
    tensors.insert("model.diffusion_model.extra.weight".to_owned(), number);
    let out = tensors.remove("first_stage_model.decoder.conv_out.bias").unwrap();
    let write = |tensors: &BTreeMap<String, TensorData>| {
        save_tensors(&file, tensors, &BTreeMap::new(), &SystemDisk).unwrap();
    };
    write(&tensors);
    let told = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text.push_str(&format!("; {error}"));
            source = error.source();
        }
        text
    };
    let error = told(&open(&file).unwrap_err());
    assert!(error.contains("unused: model.diffusion_model.extra.weight"), "{error}");
    tensors.remove("model.diffusion_model.extra.weight");
    write(&tensors);
    let error = told(&open(&file).unwrap_err());
    assert!(error.contains("missing: first_stage_model.decoder.conv_out.bias"), "{error}");
    tensors.insert("first_stage_model.decoder.conv_out.bias".to_owned(), out);

    // A file without one of its networks says which.
    tensors.retain(|name, _| !name.starts_with("cond_stage_model."));
    write(&tensors);
    let error = told(&open(&file).unwrap_err());
    assert!(error.contains("no component `text_encoder`"), "{error}");
}

#[test]
fn a_controlnet_is_read_from_each_kind_of_file() {
    let desk = TempDir::new().unwrap();
    tiny_base(desk.path());
    let unet = BundleConfigs::open(&desk.path().join("base"), &BundleOptions::default()).unwrap().unet;
    let config = ControlNetConfig::for_unet(&unet);
    let device = backend::device();
    let folder = desk.path().join("controlnet");
    SystemDisk.create_dir(&folder).unwrap();
    save_controlnet(&config.init(&device), &config, &folder, &SystemDisk).unwrap();
    let weights = folder.join("diffusion_pytorch_model.safetensors");
    let ours = load_tensors(&weights).unwrap();
    let names = config.original_names();
    let renamed = |prefix: &str| -> BTreeMap<String, TensorData> {
        ours.iter()
            .map(|(name, data)| (format!("{prefix}{}", names.of(name).unwrap()), data.clone()))
            .collect()
    };
    let mut whole = renamed("control_model.");
    whole.insert("model.diffusion_model.out.2.bias".to_owned(), TensorData::new(vec![1.0_f32], [1]));
    for (name, tensors) in [
        ("plain", ours.clone()),
        ("alone", renamed("")),
        ("prefixed", renamed("control_model.")),
        ("whole", whole),
    ] {
        let file = desk.path().join(format!("{name}.safetensors"));
        save_tensors(&file, &tensors, &BTreeMap::new(), &SystemDisk).unwrap();
        assert_eq!(controlnet_config(&file, Pickles::Refused).unwrap().hint, config.hint, "{name}");
        let (net, found) = load_controlnet(&file, Pickles::Refused, &device).unwrap();
        let again = desk.path().join(name);
        SystemDisk.create_dir(&again).unwrap();
        save_controlnet(&net, &found, &again, &SystemDisk).unwrap();
        let reread = std::fs::read(again.join("diffusion_pytorch_model.safetensors")).unwrap();
        assert!(reread == std::fs::read(&weights).unwrap(), "{name}: the weights differ");
    }
    let error = load_controlnet(
        &desk.path().join("base/unet/diffusion_pytorch_model.safetensors"),
        Pickles::Refused,
        &device,
    );
    let error = std::error::Error::source(&error.unwrap_err()).unwrap().to_string();
    assert!(error.contains("is a UNet, not a ControlNet"), "{error}");
}

#[test]
fn a_base_goes_into_one_file_and_back_bit_for_bit() {
    let desk = TempDir::new().unwrap();
    tiny_base(desk.path());
    let device = backend::device();
    let (folder, file) = (desk.path().join("base"), desk.path().join("converted.safetensors"));
    let options = ConvertOptions { title: Some("A small base"), ..ConvertOptions::default() };
    let converted = convert(&folder, &file, &options, &device, &SystemDisk).unwrap();
    assert_eq!(converted, Converted::Base(Naming::Original));
    let header = read_header(&file, None, Pickles::Refused).unwrap();
    let expected = read_header(&desk.path().join("base.safetensors"), None, Pickles::Refused).unwrap();
    let needed = |name: &&String| !["ema", "alphas", "position_ids"].iter().any(|part| name.contains(part));
    assert_eq!(
        header.shapes.keys().collect::<Vec<_>>(),
        expected.shapes.keys().filter(needed).collect::<Vec<_>>()
    );
    assert_eq!(header.shapes["first_stage_model.encoder.mid.attn_1.q.weight"].len(), 4);
    assert_eq!(header.metadata["modelspec.title"], "A small base");
    assert_eq!(header.metadata["modelspec.architecture"], "stable-diffusion-v1");
    assert_eq!(header.metadata["modelspec.prediction_type"], "v");

    let back = desk.path().join("back");
    convert(&file, &back, &ConvertOptions::default(), &device, &SystemDisk).unwrap();
    for name in [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ] {
        let [before, after] = [&folder, &back].map(|dir| std::fs::read(dir.join(name)).unwrap());
        assert!(before == after, "{name} differs");
    }
    // Its scheduler knows from the file's metadata what the UNet predicts.
    let tokenizer = folder.join("tokenizer");
    let options = BundleOptions { tokenizer: Some(&tokenizer), ..BundleOptions::default() };
    let bundle = Bundle::open(&back, &options, &device).unwrap();
    assert_eq!(bundle.scheduler.prediction_type.as_deref(), Some("v_prediction"));
    assert_eq!(bundle.unet_config, Bundle::open(&file, &options, &device).unwrap().unet_config);

    // Halves are those of rounding each number.
    let half = desk.path().join("half.safetensors");
    let options = ConvertOptions { dtype: Some(SaveDtype::F16), ..ConvertOptions::default() };
    convert(&folder, &half, &options, &device, &SystemDisk).unwrap();
    let [halves, floats] = [&half, &file].map(|path| load_tensors(path).unwrap());
    for (name, floats) in floats {
        let rounded = floats.convert_dtype(burn::tensor::DType::F16);
        assert_eq!(halves[&name], rounded, "{name}");
    }
}

#[test]
fn an_open_clip_text_encoder_survives_both_ways() {
    let desk = TempDir::new().unwrap();
    tiny_base(desk.path());
    let device = backend::device();
    let config_path = desk.path().join("base/text_encoder/config.json");
    let config = std::fs::read_to_string(&config_path).unwrap().replace("quick_gelu", "gelu");
    std::fs::write(&config_path, config).unwrap();
    let (folder, file) = (desk.path().join("base"), desk.path().join("v2.safetensors"));
    convert(&folder, &file, &ConvertOptions::default(), &device, &SystemDisk).unwrap();
    let header = read_header(&file, None, Pickles::Refused).unwrap();
    let name = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight";
    assert_eq!(header.shapes[name], [3 * 64, 64]);
    assert_eq!(header.metadata["modelspec.architecture"], "stable-diffusion-v2-768-v");
    let back = desk.path().join("back");
    convert(&file, &back, &ConvertOptions::default(), &device, &SystemDisk).unwrap();
    let name = "text_encoder/model.safetensors";
    let [before, after] = [&folder, &back].map(|dir| std::fs::read(dir.join(name)).unwrap());
    assert!(before == after, "{name} differs");
}

#[test]
fn a_controlnet_goes_into_a_file_and_back_bit_for_bit() {
    let desk = TempDir::new().unwrap();
    tiny_base(desk.path());
    let unet = BundleConfigs::open(&desk.path().join("base"), &BundleOptions::default()).unwrap().unet;
    let config = ControlNetConfig::for_unet(&unet);
    let device = backend::device();
    let (folder, file, back) =
        (desk.path().join("net"), desk.path().join("net.safetensors"), desk.path().join("back"));
    SystemDisk.create_dir(&folder).unwrap();
    save_controlnet(&config.init(&device), &config, &folder, &SystemDisk).unwrap();
    let options = ConvertOptions::default();
    let converted = convert(&folder, &file, &options, &device, &SystemDisk).unwrap();
    assert_eq!(converted, Converted::ControlNet(Naming::Original));
    let header = read_header(&file, None, Pickles::Refused).unwrap();
    assert!(header.shapes.keys().all(|name| name.starts_with("control_model.")));
    assert_eq!(header.metadata["modelspec.architecture"], "stable-diffusion-v1/controlnet");
    convert(&file, &back, &options, &device, &SystemDisk).unwrap();
    let name = "diffusion_pytorch_model.safetensors";
    let [before, after] = [&folder, &back].map(|dir| std::fs::read(dir.join(name)).unwrap());
    assert!(before == after);
    // With diffusers' names in one file.
    let plain = desk.path().join("plain.safetensors");
    let options = ConvertOptions { naming: Some(Naming::Diffusers), ..options };
    convert(&folder, &plain, &options, &device, &SystemDisk).unwrap();
    assert_eq!(load_tensors(&plain).unwrap(), load_tensors(&folder.join(name)).unwrap());
    for misread in ["my-shuffle.safetensors", "Instant_ID.safetensors"] {
        let error = convert(&folder, &desk.path().join(misread), &options, &device, &SystemDisk).unwrap_err();
        assert!(error.to_string().contains("would be misread"), "{error}");
    }
}
