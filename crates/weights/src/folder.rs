//! Folders in diffusers' layout: components, their weights and configs, and pipelines of components.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use burn::module::Module;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::archive::write_atomically;
use crate::disk::Disk;
use crate::error::WeightsError;
use crate::load::{LoadOptions, load};
use crate::pickle::Pickles;

/// The config of a component folder.
const CONFIG: &str = "config.json";

/// The config of a pipeline folder.
const MODEL_INDEX: &str = "model_index.json";

/// What the weights of a component folder are called: by diffusers, and by transformers for text encoders.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// The same for pickles.
const PICKLED_STEMS: [&str; 2] = ["diffusion_pytorch_model", "pytorch_model"];

/// The files that hold one model's weights: one, or all shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFiles {
    /// The files, in order of name.
    pub paths: Vec<PathBuf>,
}

impl WeightFiles {
    /// The weights at `path`: the file itself, or what [`find_weights`] finds in the folder under either stem.
    pub(crate) fn of(path: &Path, variant: Option<&str>, pickles: Pickles) -> Result<Self, WeightsError> {
        if !path.exists() {
            return Err(WeightsError::NotFound { path: path.to_owned() });
        }
        if !path.is_dir() {
            return Ok(Self { paths: vec![path.to_owned()] });
        }
        match search(path, &STEMS, variant, "safetensors") {
            Err(WeightsError::NoWeights { looked_for, .. }) if pickles == Pickles::Allowed => {
                search(path, &PICKLED_STEMS, variant, "bin").map_err(|error| match error {
                    WeightsError::NoWeights { dir, looked_for: pickled, found } => {
                        let looked_for = [looked_for, pickled].concat();
                        WeightsError::NoWeights { dir, looked_for, found }
                    }
                    other => other,
                })
            }
            found => found,
        }
    }
}

/// Finds the weights in a component folder: first a shard index, then the single file `stem[.variant].safetensors`.
///
/// Pickles (`.bin`) are never taken. A variant that is not there is an error, not a reason to take another.
///
/// Source: diffusers 0.42, `ModelMixin.from_pretrained`; the three spellings of a variant's index are its present one
/// and its two older ones.
///
/// # Errors
/// [`WeightsError::NoWeights`] lists what is there instead; [`WeightsError::MissingShard`] names a file that the index needs.
pub fn find_weights(dir: &Path, stem: &str, variant: Option<&str>) -> Result<WeightFiles, WeightsError> {
    search(dir, &[stem], variant, "safetensors")
}

fn search(
    dir: &Path,
    stems: &[&str],
    variant: Option<&str>,
    extension: &str,
) -> Result<WeightFiles, WeightsError> {
    let mut looked_for = Vec::new();
    for stem in stems {
        let (indexes, single) = match variant {
            None => (vec![format!("{stem}.{extension}.index.json")], format!("{stem}.{extension}")),
            Some(variant) => (
                vec![
                    format!("{stem}.{extension}.index.{variant}.json"),
                    format!("{stem}.{variant}.{extension}.index.json"),
                    format!("{stem}.{extension}.{variant}.index.json"),
                ],
                format!("{stem}.{variant}.{extension}"),
            ),
        };
        if let Some(index) = indexes.iter().map(|name| dir.join(name)).find(|index| index.is_file()) {
            return shards_of(dir, &index);
        }
        let path = dir.join(&single);
        if path.is_file() {
            return Ok(WeightFiles { paths: vec![path] });
        }
        looked_for.push(single);
    }
    Err(WeightsError::NoWeights { dir: dir.to_owned(), looked_for, found: file_names(dir)? })
}

/// A shard index, as diffusers and transformers write it.
#[derive(Debug, Deserialize)]
struct ShardIndex {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

fn shards_of(dir: &Path, index: &Path) -> Result<WeightFiles, WeightsError> {
    let ShardIndex { weight_map } = read_json(index)?;
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    let mut paths = Vec::with_capacity(shards.len());
    for shard in shards {
        let mut components = Path::new(&shard).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err(WeightsError::ShardOutsideFolder { index: index.to_owned(), shard });
        }
        let path = dir.join(&shard);
        if !path.is_file() {
            return Err(WeightsError::MissingShard { index: index.to_owned(), shard });
        }
        paths.push(path);
    }
    Ok(WeightFiles { paths })
}

fn file_names(dir: &Path) -> Result<Vec<String>, WeightsError> {
    let unreadable = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => WeightsError::NotFound { path: dir.to_owned() },
        _ => WeightsError::Read { path: dir.to_owned(), source },
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        names.push(entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Reads a json file of a folder, as `config.json` or `scheduler_config.json`.
///
/// # Errors
/// If the file is not there, cannot be read, or does not parse; each names the file.
pub fn read_config<T: DeserializeOwned>(dir: &Path, file: &str) -> Result<T, WeightsError> {
    read_json(&dir.join(file))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, WeightsError> {
    let text = fs::read(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => WeightsError::NotFound { path: path.to_owned() },
        _ => WeightsError::Read { path: path.to_owned(), source },
    })?;
    serde_json::from_slice(&text).map_err(|source| WeightsError::Json { path: path.to_owned(), source })
}

/// Writes a json file into a folder as diffusers does: two spaces, keys in order, a final line feed. The file is written
/// beside its name, synced and renamed.
///
/// # Errors
/// If the value cannot be json or the file cannot be written.
pub fn write_config<T: Serialize>(
    dir: &Path,
    file: &str,
    config: &T,
    disk: &dyn Disk,
) -> Result<(), WeightsError> {
    let path = dir.join(file);
    // Going through `Value` puts the keys in order.
    let json = serde_json::to_value(config)
        .and_then(|value| serde_json::to_string_pretty(&value))
        .map_err(|source| WeightsError::Json { path: path.clone(), source })?;
    write_atomically(disk, &path, |file| {
        writeln!(file, "{json}").map_err(|source| WeightsError::Write { path: path.clone(), source })
    })
}

/// Writes a text file into a folder, beside its name, synced and renamed.
///
/// # Errors
/// If the file cannot be written.
pub fn write_text(dir: &Path, file: &str, text: &str, disk: &dyn Disk) -> Result<(), WeightsError> {
    let path = dir.join(file);
    write_atomically(disk, &path, |file| {
        file.write_all(text.as_bytes()).map_err(|source| WeightsError::Write { path: path.clone(), source })
    })
}

/// The class that a folder or a config says it is: diffusers' `_class_name`, else the first of transformers'
/// `architectures`. `None` if there is no config or it does not say.
///
/// # Errors
/// If there is a config and it cannot be read.
pub fn class_name(dir: &Path) -> Result<Option<String>, WeightsError> {
    let Some(file) = [MODEL_INDEX, CONFIG].into_iter().find(|file| dir.join(file).is_file()) else {
        return Ok(None);
    };
    let config: Value = read_config(dir, file)?;
    let class =
        config.get("_class_name").or_else(|| config.get("architectures").and_then(|list| list.get(0)));
    Ok(class.and_then(Value::as_str).map(str::to_owned))
}

/// Says in words what is at a path, for an error about the wrong kind.
fn describe(path: &Path) -> Result<String, WeightsError> {
    if path.is_file() {
        return Ok("a single-file checkpoint".to_owned());
    }
    Ok(match class_name(path)? {
        Some(class) if class.contains("XL") && class.contains("Pipeline") => {
            format!("an SDXL pipeline ({class})")
        }
        Some(class) if class.contains("Pipeline") => format!("a pipeline ({class})"),
        Some(class) if class.starts_with("ControlNet") => format!("a ControlNet ({class})"),
        Some(class) => format!("a bare model ({class})"),
        None => "a folder without model_index.json or config.json".to_owned(),
    })
}

/// A folder with `config.json` and weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentDir {
    path: PathBuf,
}

impl ComponentDir {
    /// Opens a component folder that says it is one of `classes` (as `["ControlNetModel"]`), or does not say.
    ///
    /// # Errors
    /// [`WeightsError::NotFound`] and [`WeightsError::WrongKind`], which says what the path is instead.
    pub fn open(path: &Path, classes: &[&str]) -> Result<Self, WeightsError> {
        if !path.exists() {
            return Err(WeightsError::NotFound { path: path.to_owned() });
        }
        let silent = path.join(CONFIG).is_file();
        let fits = match class_name(path)? {
            Some(class) => classes.contains(&class.as_str()),
            None => silent,
        };
        if fits {
            return Ok(Self { path: path.to_owned() });
        }
        let expected = format!("a {} folder", classes.join(" or "));
        Err(WeightsError::WrongKind { path: path.to_owned(), expected, found: describe(path)? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its `config.json`.
    ///
    /// # Errors
    /// As [`read_config`].
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, WeightsError> {
        read_config(&self.path, CONFIG)
    }

    /// Fills `module` with its weights.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load<M: Module>(&self, module: M, options: &LoadOptions<'_>) -> Result<M, WeightsError> {
        load(module, &self.path, options)
    }
}

/// A folder with `model_index.json` and one sub-folder per component.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineFolder {
    path: PathBuf,
    class: String,
    components: BTreeMap<String, String>,
    settings: BTreeMap<String, Value>,
}

impl PipelineFolder {
    /// Opens a pipeline folder of one of `classes`, as `["StableDiffusionPipeline"]`.
    ///
    /// # Errors
    /// [`WeightsError::NotFound`], and [`WeightsError::WrongKind`] for a single file, a bare model, a ControlNet or a
    /// pipeline of another class, which it names.
    pub fn open(path: &Path, classes: &[&str]) -> Result<Self, WeightsError> {
        if !path.exists() {
            return Err(WeightsError::NotFound { path: path.to_owned() });
        }
        let wrong_kind = || -> Result<WeightsError, WeightsError> {
            let expected = format!("a {} folder", classes.join(" or "));
            Ok(WeightsError::WrongKind { path: path.to_owned(), expected, found: describe(path)? })
        };
        if !path.join(MODEL_INDEX).is_file() {
            return Err(wrong_kind()?);
        }
        let folder = Self::open_any(path)?;
        if classes.contains(&folder.class.as_str()) { Ok(folder) } else { Err(wrong_kind()?) }
    }

    /// Opens a pipeline folder of whatever class.
    pub(crate) fn open_any(path: &Path) -> Result<Self, WeightsError> {
        let index: BTreeMap<String, Value> = read_config(path, MODEL_INDEX)?;
        let mut folder = Self {
            path: path.to_owned(),
            class: String::new(),
            components: BTreeMap::new(),
            settings: BTreeMap::new(),
        };
        for (key, value) in index {
            match &value {
                Value::String(class) if key == "_class_name" => folder.class.clone_from(class),
                _ if key.starts_with('_') => {}
                // A component is [library, class]; one that was left out is [null, null].
                Value::Array(pair) if pair.len() == 2 => {
                    if let [_, Value::String(class)] = pair.as_slice() {
                        folder.components.insert(key, class.clone());
                    }
                }
                _ => {
                    folder.settings.insert(key, value);
                }
            }
        }
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pipeline's class, as `StableDiffusionPipeline`.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Component names and their classes; those that were left out are not listed.
    pub fn components(&self) -> &BTreeMap<String, String> {
        &self.components
    }

    /// The pipeline's own settings, as `requires_safety_checker`.
    pub fn settings(&self) -> &BTreeMap<String, Value> {
        &self.settings
    }

    /// The folder of a component that has weights, as `unet`.
    ///
    /// # Errors
    /// [`WeightsError::MissingComponent`] if the pipeline has none of that name, and as [`ComponentDir::open`].
    pub fn component(&self, name: &str, classes: &[&str]) -> Result<ComponentDir, WeightsError> {
        ComponentDir::open(&self.component_path(name)?, classes)
    }

    /// The path of a component that has no weights, as `tokenizer` or `scheduler`.
    ///
    /// # Errors
    /// [`WeightsError::MissingComponent`] if the index does not list it or its folder is not there.
    pub fn component_path(&self, name: &str) -> Result<PathBuf, WeightsError> {
        let path = self.path.join(name);
        if self.components.contains_key(name) && path.is_dir() {
            return Ok(path);
        }
        let found = self.components.keys().filter(|name| self.path.join(name).is_dir()).cloned().collect();
        Err(WeightsError::MissingComponent { dir: self.path.clone(), component: name.to_owned(), found })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::SystemDisk;
    use crate::toy::{RENAMES, Toy, write_file};

    const OPTIONS: LoadOptions<'_> = LoadOptions {
        renames: RENAMES,
        aliases: &[],
        optional_prefix: None,
        ignore: &[],
        variant: None,
        pickles: Pickles::Refused,
        places: None,
        names_only: false,
    };

    fn names(files: &WeightFiles) -> Vec<String> {
        files.paths.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    /// A folder with the toy in two shards under an index of the given name.
    fn sharded(index: &str, shards: [&str; 2]) -> TempDir {
        let dir = TempDir::new().unwrap();
        let mut head = Toy::new(&Device::flex()).tensors();
        let tail = head.split_off("blocks.1");
        let mut weight_map = serde_json::Map::new();
        for (shard, tensors) in shards.iter().zip([head, tail]) {
            write_file(&dir.path().join(shard), &tensors);
            weight_map.extend(tensors.into_keys().map(|name| (name, json!(shard))));
        }
        write_config(
            dir.path(),
            index,
            &json!({"metadata": {"total_size": 1}, "weight_map": weight_map}),
            &SystemDisk,
        )
        .unwrap();
        dir
    }

    #[test]
    fn shards_load_as_one_model() {
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let dir = sharded("model.safetensors.index.json", shards);
        assert_eq!(names(&find_weights(dir.path(), "model", None).unwrap()), shards);
        assert!(load(Toy::new(&Device::flex()), dir.path(), &OPTIONS).is_ok());
    }

    #[test]
    fn all_spellings_of_a_variants_shards_are_found() {
        for (index, shard) in [
            ("model.safetensors.index.fp16.json", "model.fp16-00001-of-00002.safetensors"),
            ("model.fp16.safetensors.index.json", "model-00001-of-00002.fp16.safetensors"),
            ("model.safetensors.fp16.index.json", "model-00001-of-00002.fp16.safetensors"),
        ] {
            let dir = sharded(index, [shard, "second.safetensors"]);
            let options = LoadOptions { variant: Some("fp16"), ..OPTIONS };
            assert!(load(Toy::new(&Device::flex()), dir.path(), &options).is_ok(), "{index}");
            assert!(load(Toy::new(&Device::flex()), dir.path(), &OPTIONS).is_err(), "{index}");
        }
    }

    #[test]
    fn a_tensor_in_two_shards_or_a_lost_shard_is_an_error() {
        let shards = ["a.safetensors", "b.safetensors"];
        let dir = sharded("model.safetensors.index.json", shards);
        fs::copy(dir.path().join(shards[0]), dir.path().join(shards[1])).unwrap();
        let err = load(Toy::new(&Device::flex()), dir.path(), &OPTIONS).unwrap_err();
        assert!(matches!(err, WeightsError::DuplicateTensor { .. }), "{err:?}");

        fs::remove_file(dir.path().join(shards[1])).unwrap();
        let err = load(Toy::new(&Device::flex()), dir.path(), &OPTIONS).unwrap_err();
        assert!(matches!(err, WeightsError::MissingShard { .. }), "{err:?}");
    }

    #[test]
    fn an_index_cannot_lead_out_of_its_folder() {
        for shard in ["../secret.safetensors", "/etc/passwd", "sub/model.safetensors", "..", ""] {
            let dir = TempDir::new().unwrap();
            write_config(
                dir.path(),
                "model.safetensors.index.json",
                &json!({"weight_map": {"a": shard}}),
                &SystemDisk,
            )
            .unwrap();
            let err = find_weights(dir.path(), "model", None).unwrap_err();
            assert!(matches!(err, WeightsError::ShardOutsideFolder { .. }), "{shard}: {err:?}");
        }
    }

    #[test]
    fn a_variant_is_taken_only_when_asked_for() {
        let dir = TempDir::new().unwrap();
        let tensors = Toy::new(&Device::flex()).tensors();
        write_file(&dir.path().join("model.fp16.safetensors"), &tensors);
        assert_eq!(
            names(&find_weights(dir.path(), "model", Some("fp16")).unwrap()),
            ["model.fp16.safetensors"]
        );
        let err = find_weights(dir.path(), "model", None).unwrap_err();
        let expected = "has no model.safetensors; it has model.fp16.safetensors";
        assert!(err.to_string().ends_with(expected), "{err}");
        assert!(err.hint().unwrap().contains("variant"));
    }

    #[test]
    fn a_folder_of_pickles_is_refused_with_the_way_out() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("diffusion_pytorch_model.bin"), "PK").unwrap();
        let err = load(Toy::new(&Device::flex()), dir.path(), &OPTIONS).unwrap_err();
        let expected = "has no diffusion_pytorch_model.safetensors or model.safetensors; it has diffusion_pytorch_model.bin";
        assert!(err.to_string().ends_with(expected), "{err}");
        assert!(err.hint().unwrap().contains("--allow-pickle"));
    }

    #[test]
    fn configs_are_written_with_keys_in_order_and_errors_name_the_file() {
        let dir = TempDir::new().unwrap();
        write_config(dir.path(), CONFIG, &json!({"b": 1, "a": [2]}), &SystemDisk).unwrap();
        let text = fs::read_to_string(dir.path().join(CONFIG)).unwrap();
        assert_eq!(text, "{\n  \"a\": [\n    2\n  ],\n  \"b\": 1\n}\n");
        let err = read_config::<Vec<i32>>(dir.path(), CONFIG).unwrap_err();
        assert!(err.to_string().contains("config.json"), "{err}");
        assert!(matches!(
            read_config::<Value>(dir.path(), "absent.json"),
            Err(WeightsError::NotFound { .. })
        ));
    }

    #[test]
    fn a_pipeline_lists_its_components() {
        let dir = TempDir::new().unwrap();
        let index = json!({
            "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1",
            "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
            "safety_checker": [null, null], "requires_safety_checker": false,
        });
        write_config(dir.path(), MODEL_INDEX, &index, &SystemDisk).unwrap();
        fs::create_dir(dir.path().join("unet")).unwrap();
        write_config(
            &dir.path().join("unet"),
            CONFIG,
            &json!({"_class_name": "UNet2DConditionModel"}),
            &SystemDisk,
        )
        .unwrap();

        let folder = PipelineFolder::open(dir.path(), &["StableDiffusionPipeline"]).unwrap();
        assert_eq!(folder.components().keys().collect::<Vec<_>>(), ["unet", "vae"]);
        assert_eq!(folder.settings()["requires_safety_checker"], json!(false));
        assert!(folder.component("unet", &["UNet2DConditionModel"]).is_ok());
        assert!(matches!(folder.component("unet", &["AutoencoderKL"]), Err(WeightsError::WrongKind { .. })));
        let err = folder.component("vae", &["AutoencoderKL"]).unwrap_err();
        assert!(err.to_string().ends_with("has no component `vae`; it has unet"), "{err}");
        assert!(folder.component_path("safety_checker").is_err());
    }

    #[test]
    fn a_model_of_another_kind_is_named() {
        let dir = TempDir::new().unwrap();
        let open = |name: &str, file: &str, config: &Value| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            write_config(&path, file, config, &SystemDisk).unwrap();
            PipelineFolder::open(&path, &["StableDiffusionPipeline"]).unwrap_err().to_string()
        };
        for (name, file, class, found) in [
            (
                "xl",
                MODEL_INDEX,
                "StableDiffusionXLPipeline",
                "is an SDXL pipeline (StableDiffusionXLPipeline)",
            ),
            ("control", CONFIG, "ControlNetModel", "is a ControlNet (ControlNetModel)"),
            ("unet", CONFIG, "UNet2DConditionModel", "is a bare model (UNet2DConditionModel)"),
        ] {
            let err = open(name, file, &json!({"_class_name": class}));
            assert!(err.contains(found) && err.ends_with("not a StableDiffusionPipeline folder"), "{err}");
        }
        let single = dir.path().join("v1-5.safetensors");
        fs::write(&single, "").unwrap();
        let err = PipelineFolder::open(&single, &["StableDiffusionPipeline"]).unwrap_err();
        assert!(err.to_string().contains("is a single-file checkpoint"), "{err}");
        let absent = PipelineFolder::open(&dir.path().join("absent"), &["StableDiffusionPipeline"]);
        assert!(matches!(absent, Err(WeightsError::NotFound { .. })));
    }

    #[test]
    fn transformers_configs_name_their_class_too() {
        let dir = TempDir::new().unwrap();
        write_config(dir.path(), CONFIG, &json!({"architectures": ["CLIPTextModel"]}), &SystemDisk).unwrap();
        assert_eq!(class_name(dir.path()).unwrap().as_deref(), Some("CLIPTextModel"));
        assert!(ComponentDir::open(dir.path(), &["CLIPTextModel"]).is_ok());
        assert!(ComponentDir::open(dir.path(), &["ControlNetModel"]).is_err());
    }
}
