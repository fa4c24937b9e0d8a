//! Which files of a repository are needed: never all of them, which may be a dozen copies of the same weights.

use std::collections::BTreeSet;

use crate::error::HubError;
use crate::name::RepoName;

pub(crate) mod data;

/// What a repository is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A whole model in diffusers' layout, without the parts named in `without`, whose weights come from elsewhere.
    Pipeline {
        /// The weights' variant, such as `fp16`.
        variant: Option<String>,
        /// Folders of parts of which the config is enough.
        without: Vec<&'static str>,
        /// Whether weights may be pickles.
        pickles: Pickles,
    },
    /// One part of a model: at the root of its repository, or in a folder of the part's usual name.
    Part {
        /// The usual name, such as `vae`.
        folder: &'static str,
        /// The weights' variant.
        variant: Option<String>,
        /// Whether weights may be pickles.
        pickles: Pickles,
    },
    /// A tokenizer, at the root or in `tokenizer`.
    Tokenizer,
    /// The samples of a data set.
    Dataset {
        /// The configuration, if not the only or default one.
        config: Option<String>,
        /// The split, such as `train`.
        split: String,
    },
}

/// Whether weights may be pickles, where there are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pickles {
    /// They are left alone.
    Refused,
    /// They are taken.
    Allowed,
}

/// The files to download.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) paths: Vec<String>,
    /// The folder in the repository that is what was wanted; empty for the root.
    pub(crate) folder: String,
}

/// Parts of a pipeline that are used; a safety checker is none.
const PARTS: [&str; 4] = ["unet", "vae", "text_encoder", "text_encoder_2"];

/// Parts without weights.
const PLAIN_PARTS: [&str; 3] = ["tokenizer", "tokenizer_2", "scheduler"];

/// The names of weights in a part's folder: those of diffusers and of transformers, and of the latter's pickles.
const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];

/// Chooses from a repository's paths.
///
/// # Errors
/// If something without which the rest is of no use is not there.
pub(crate) fn choose(wanted: &Wanted, name: &RepoName, paths: &[&str]) -> Result<Chosen, HubError> {
    match wanted {
        Wanted::Pipeline { variant, without, pickles } => {
            pipeline(name, paths, variant.as_deref(), without, *pickles)
        }
        Wanted::Part { folder, variant, pickles } => part(name, paths, folder, variant.as_deref(), *pickles),
        Wanted::Tokenizer => tokenizer(name, paths),
        Wanted::Dataset { config, split } => data::choose(name, paths, config.as_deref(), split),
    }
}

fn pipeline(
    name: &RepoName,
    paths: &[&str],
    variant: Option<&str>,
    without: &[&str],
    pickles: Pickles,
) -> Result<Chosen, HubError> {
    const INDEX: &str = "model_index.json";
    if !paths.contains(&INDEX) {
        return Err(HubError::NotAPipeline { name: name.clone(), found: some(paths) });
    }
    let mut chosen = vec![INDEX.to_owned()];
    for folder in PARTS {
        let files = files_in(paths, folder);
        if files.is_empty() {
            continue;
        }
        chosen.extend(configs(&files).map(|file| format!("{folder}/{file}")));
        if !without.contains(&folder) {
            let weights = weights(name, folder, &files, variant, pickles)?;
            chosen.extend(weights.iter().map(|file| format!("{folder}/{file}")));
        }
    }
    for folder in PLAIN_PARTS {
        let files = files_in(paths, folder);
        chosen.extend(texts(&files).map(|file| format!("{folder}/{file}")));
    }
    Ok(Chosen { paths: chosen, folder: String::new() })
}

fn part(
    name: &RepoName,
    paths: &[&str],
    folder: &str,
    variant: Option<&str>,
    pickles: Pickles,
) -> Result<Chosen, HubError> {
    let config = format!("{folder}/config.json");
    let folder = match () {
        () if paths.contains(&"config.json") => "",
        () if paths.contains(&&*config) => folder,
        () => {
            let file = "config.json".to_owned();
            return Err(HubError::NoConfig { name: name.clone(), file, found: some(paths) });
        }
    };
    let files = files_in(paths, folder);
    let weights = weights(name, folder, &files, variant, pickles)?;
    let chosen = configs(&files).map(str::to_owned).chain(weights).map(|file| joined(folder, &file));
    Ok(Chosen { paths: chosen.collect(), folder: folder.to_owned() })
}

fn tokenizer(name: &RepoName, paths: &[&str]) -> Result<Chosen, HubError> {
    let has_one = |folder: &str| {
        ["vocab.json", "tokenizer.json"].iter().any(|file| paths.contains(&&*joined(folder, file)))
    };
    let Some(folder) = ["", "tokenizer"].into_iter().find(|folder| has_one(folder)) else {
        let file = "vocab.json".to_owned();
        return Err(HubError::NoConfig { name: name.clone(), file, found: some(paths) });
    };
    let files = files_in(paths, folder);
    let chosen = texts(&files).filter(|file| !file.ends_with(".md")).map(|file| joined(folder, file));
    Ok(Chosen { paths: chosen.collect(), folder: folder.to_owned() })
}

/// The weights in a part's folder: first a list of shards, then a single file, as they are looked for when they are read.
fn weights(
    name: &RepoName,
    folder: &str,
    files: &[&str],
    variant: Option<&str>,
    pickles: Pickles,
) -> Result<Vec<String>, HubError> {
    let endings: &[&str] = match pickles {
        Pickles::Refused => &["safetensors"],
        Pickles::Allowed => &["safetensors", "bin"],
    };
    for ending in endings {
        for stem in STEMS {
            let (indexes, single) = match variant {
                None => (vec![format!("{stem}.{ending}.index.json")], format!("{stem}.{ending}")),
                Some(variant) => (
                    vec![
                        format!("{stem}.{ending}.index.{variant}.json"),
                        format!("{stem}.{variant}.{ending}.index.json"),
                        format!("{stem}.{ending}.{variant}.index.json"),
                    ],
                    format!("{stem}.{variant}.{ending}"),
                ),
            };
            if let Some(index) = indexes.into_iter().find(|index| files.contains(&&**index)) {
                let shards = files.iter().filter(|file| is_shard(file, stem, variant, ending));
                return Ok(std::iter::once(index).chain(shards.map(|&file| file.to_owned())).collect());
            }
            if files.contains(&&*single) {
                return Ok(vec![single]);
            }
        }
    }
    let is_weight = |file: &str| {
        [".safetensors", ".bin", ".msgpack", ".ckpt", ".pth"].iter().any(|end| file.ends_with(end))
    };
    Err(HubError::NoWeights {
        name: name.clone(),
        folder: if folder.is_empty() { ".".to_owned() } else { folder.to_owned() },
        variant: variant.map(str::to_owned),
        found: files.iter().filter(|file| is_weight(file)).map(|&file| file.to_owned()).collect(),
    })
}

/// Whether a file is `stem-00001-of-00002.ending`, with the variant in either place.
fn is_shard(file: &str, stem: &str, variant: Option<&str>, ending: &str) -> bool {
    let numbers = |rest: &str| {
        rest.split_once("-of-").is_some_and(|(number, n)| {
            [number, n]
                .iter()
                .all(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        })
    };
    let between = |before: &str, after: &str| {
        file.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(numbers)
    };
    match variant {
        None => between(&format!("{stem}-"), &format!(".{ending}")),
        Some(variant) => {
            between(&format!("{stem}.{variant}-"), &format!(".{ending}"))
                || between(&format!("{stem}-"), &format!(".{variant}.{ending}"))
        }
    }
}

/// The names of the files that are in a folder itself.
fn files_in<'a>(paths: &[&'a str], folder: &str) -> Vec<&'a str> {
    let below = |path: &'a str| match folder {
        "" => Some(path),
        _ => path.strip_prefix(folder)?.strip_prefix('/'),
    };
    paths.iter().filter_map(|path| below(path)).filter(|name| !name.contains('/')).collect()
}

/// Configs, without lists of shards.
fn configs<'a>(files: &[&'a str]) -> impl Iterator<Item = &'a str> {
    files.iter().copied().filter(|file| *file == "config.json")
}

/// What a tokenizer or a scheduler is made of.
fn texts<'a>(files: &[&'a str]) -> impl Iterator<Item = &'a str> {
    const USED: [&str; 7] = [
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "scheduler_config.json",
    ];
    files.iter().copied().filter(|file| USED.contains(file))
}

fn joined(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

/// Files or, of what is deeper, folders, for an error.
fn some(paths: &[&str]) -> Vec<String> {
    let top = |path: &&str| {
        path.split_once('/').map_or_else(|| (*path).to_owned(), |(folder, _)| format!("{folder}/"))
    };
    let tops: BTreeSet<String> = paths.iter().filter(|path| **path != ".gitattributes").map(top).collect();
    tops.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wanted: &Wanted, paths: &[&str]) -> Result<Vec<String>, String> {
        let name = RepoName::parse("org/name").unwrap();
        let mut chosen = choose(wanted, &name, paths).map_err(|error| error.to_string())?;
        chosen.paths.sort();
        Ok(chosen.paths)
    }

    fn whole(variant: Option<&str>) -> Wanted {
        Wanted::Pipeline {
            variant: variant.map(str::to_owned),
            without: Vec::new(),
            pickles: Pickles::Refused,
        }
    }

    /// As `stabilityai/stable-diffusion-xl-base-1.0` and others have it.
    const XL: &[&str] = &[
        ".gitattributes",
        "README.md",
        "model_index.json",
        "sd_xl_base_1.0.safetensors",
        "scheduler/scheduler_config.json",
        "safety_checker/model.safetensors",
        "text_encoder/config.json",
        "text_encoder/flax_model.msgpack",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/openvino_model.bin",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "vae_1_0/diffusion_pytorch_model.safetensors",
    ];

    #[test]
    fn a_pipeline_is_its_parts_in_one_variant() {
        let common = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "unet/config.json",
            "vae/config.json",
        ];
        for (variant, dotted) in [(None, ""), (Some("fp16"), ".fp16")] {
            let mut expected: Vec<String> = common.map(str::to_owned).to_vec();
            expected.push(format!("text_encoder/model{dotted}.safetensors"));
            expected.push(format!("unet/diffusion_pytorch_model{dotted}.safetensors"));
            expected.push(format!("vae/diffusion_pytorch_model{dotted}.safetensors"));
            expected.sort();
            assert_eq!(chosen(&whole(variant), XL).unwrap(), expected);
        }
        assert_eq!(
            chosen(&whole(Some("bf16")), XL).unwrap_err(),
            "`org/name` has no safetensors of variant `bf16` in `unet`"
        );
        assert_eq!(
            chosen(&whole(None), &["README.md", "v1-5-pruned.safetensors"]).unwrap_err(),
            "`org/name` is not a model in diffusers' layout: it has no `model_index.json`"
        );
        let without = Wanted::Pipeline { variant: None, without: vec!["unet"], pickles: Pickles::Refused };
        let paths = chosen(&without, XL).unwrap();
        assert!(paths.contains(&"unet/config.json".to_owned()));
        assert!(!paths.iter().any(|path| path.starts_with("unet/diffusion")), "{paths:?}");
    }

    #[test]
    fn shards_go_with_their_list_in_every_spelling_of_a_variant() {
        let of = |variant: Option<&str>| Wanted::Part {
            folder: "controlnet",
            variant: variant.map(str::to_owned),
            pickles: Pickles::Refused,
        };
        let paths = [
            "config.json",
            "diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model-00001-of-00002.safetensors",
            "diffusion_pytorch_model-00002-of-00002.safetensors",
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
            "diffusion_pytorch_model-00001-of-00001.fp16.safetensors",
            "diffusion_pytorch_model-a-of-b.safetensors",
        ];
        assert_eq!(
            chosen(&of(None), &paths).unwrap(),
            ["config.json", paths[2], paths[3], paths[1]].map(str::to_owned)
        );
        assert_eq!(chosen(&of(Some("fp16")), &paths).unwrap(), ["config.json", paths[6], paths[5], paths[4]]);
    }

    #[test]
    fn a_tokenizer_is_in_either_form_at_the_root_or_in_its_folder() {
        for (paths, expected) in [
            (&["vocab.json", "merges.txt", "config.json"][..], &["vocab.json", "merges.txt"][..]),
            (&["unet/config.json", "tokenizer/tokenizer.json"], &["tokenizer/tokenizer.json"]),
        ] {
            assert_eq!(chosen(&Wanted::Tokenizer, paths).unwrap(), sorted(expected));
        }
        assert_eq!(
            chosen(&Wanted::Tokenizer, &["config.json"]).unwrap_err(),
            "`org/name` has no `vocab.json`"
        );
    }

    fn sorted(paths: &[&str]) -> Vec<String> {
        let mut paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn a_part_is_at_the_root_or_in_its_folder() {
        let name = RepoName::parse("org/name").unwrap();
        let wanted = Wanted::Part { folder: "vae", variant: None, pickles: Pickles::Refused };
        assert_eq!(choose(&wanted, &name, XL).unwrap().folder, "vae");
        let alone =
            ["config.json", "diffusion_pytorch_model.safetensors", "model.ckpt", "sdxl.vae.safetensors"];
        assert_eq!(
            choose(&wanted, &name, &alone).unwrap(),
            Chosen { paths: alone[..2].iter().map(|&path| path.to_owned()).collect(), folder: String::new() }
        );
        let pickled = ["config.json", "diffusion_pytorch_model.bin"];
        assert_eq!(chosen(&wanted, &pickled).unwrap_err(), "`org/name` has no safetensors in `.`");
        let allowed = Wanted::Part { folder: "vae", variant: None, pickles: Pickles::Allowed };
        assert_eq!(chosen(&allowed, &pickled).unwrap(), pickled);
    }
}
