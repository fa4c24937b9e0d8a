//! Which files of a data set are needed.

use super::{Chosen, some};
use crate::error::HubError;
use crate::name::RepoName;

/// Words that say which split a file is of.
///
/// Source: `SPLIT_KEYWORDS` of `datasets` 4.0.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// What is never data: a script would have to be executed.
const NOT_DATA: [&str; 8] = [".py", ".md", ".gitattributes", ".gitignore", ".pyc", ".sh", ".yaml", ".yml"];

/// The Parquet files of a configuration and split or, if there are none, all that may be data.
pub(super) fn choose(
    name: &RepoName,
    paths: &[&str],
    config: Option<&str>,
    split: &str,
) -> Result<Chosen, HubError> {
    let no_data =
        || HubError::NoData { name: name.clone(), config: config.map(str::to_owned), found: some(paths) };
    let is_of_config = |path: &&str| config.is_none_or(|config| path.split('/').next() == Some(config));
    let parquet: Vec<&str> =
        paths.iter().copied().filter(|path| path.ends_with(".parquet")).filter(is_of_config).collect();
    // Beside pictures, Parquet is a table of them.
    let is_table = |path: &&str| path.rsplit('/').next() == Some("metadata.parquet");
    if !parquet.is_empty() && !parquet.iter().any(is_table) {
        let of_split = of_split(&parquet, split);
        let (folder, of_folder) = usual_config(&of_split, config);
        return if of_folder.is_empty() { Err(no_data()) } else { Ok(Chosen { paths: of_folder, folder }) };
    }
    let is_data = |path: &&str| !NOT_DATA.iter().any(|ending| path.ends_with(ending));
    let data: Vec<String> =
        paths.iter().copied().filter(is_data).filter(is_of_config).map(str::to_owned).collect();
    if data.is_empty() { Err(no_data()) } else { Ok(Chosen { paths: data, folder: String::new() }) }
}

/// Whether the repository has a script that would make its samples, and no Parquet files.
pub(crate) fn is_script(name: &RepoName, paths: &[&str]) -> bool {
    let script = format!("{}.py", name.short());
    paths.contains(&&*script) && !paths.iter().any(|path| path.ends_with(".parquet"))
}

/// The files of a split, or all if no file says which one it is of.
fn of_split<'a>(paths: &[&'a str], split: &str) -> Vec<&'a str> {
    let words = |path: &str| -> Vec<String> {
        path.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_ascii_lowercase).collect()
    };
    let is_of = |path: &str, keywords: &[&str]| words(path).iter().any(|word| keywords.contains(&&**word));
    let known = SPLITS.iter().find(|(name, _)| *name == split);
    let keywords = known.map_or(std::slice::from_ref(&split), |(_, keywords)| keywords);
    if !paths
        .iter()
        .any(|path| is_of(path, keywords) || SPLITS.iter().any(|(_, keywords)| is_of(path, keywords)))
    {
        return paths.to_vec();
    }
    paths.iter().copied().filter(|path| is_of(path, keywords)).collect()
}

/// Of several configurations, each in its folder as in the converted branch, that of the name `default`, or the first one.
fn usual_config(paths: &[&str], config: Option<&str>) -> (String, Vec<String>) {
    fn owned(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|&path| path.to_owned()).collect()
    }
    let config_of = |path: &str| -> Option<String> {
        let parts: Vec<&str> = path.split('/').collect();
        (parts.len() == 3).then(|| parts[0].to_owned())
    };
    let configs: Option<Vec<String>> = paths.iter().map(|path| config_of(path)).collect();
    let Some(configs) = configs.filter(|configs| config.is_none() && !configs.is_empty()) else {
        return (String::new(), owned(paths));
    };
    let usual = configs.iter().find(|config| *config == "default").unwrap_or(&configs[0]).clone();
    let below = format!("{usual}/");
    let paths: Vec<&str> = paths.iter().copied().filter(|path| path.starts_with(&below)).collect();
    (usual, owned(&paths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(paths: &[&str], config: Option<&str>, split: &str, expected: &[&str], folder: &str) {
        let name = RepoName::parse("org/fill50k").unwrap();
        let chosen = choose(&name, paths, config, split).unwrap();
        assert_eq!(
            (&chosen.paths[..], &*chosen.folder),
            (&expected.iter().map(|&p| p.to_owned()).collect::<Vec<_>>()[..], folder)
        );
    }

    #[test]
    fn parquet_files_of_the_split_are_enough() {
        let pushed = ["README.md", "data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"];
        check(&pushed, None, "train", &pushed[2..], "");
        check(&pushed, None, "test", &pushed[1..2], "");
        check(&["a.parquet", "b.parquet"], None, "train", &["a.parquet", "b.parquet"], "");
        let name = RepoName::parse("org/name").unwrap();
        assert!(matches!(choose(&name, &pushed, None, "validation"), Err(HubError::NoData { .. })));
    }

    #[test]
    fn the_converted_branch_has_a_folder_for_each_configuration() {
        let converted =
            ["default/train/0000.parquet", "small/train/0000.parquet", "default/test/0000.parquet"];
        check(&converted, None, "train", &converted[..1], "default");
        check(&converted, Some("small"), "train", &converted[1..2], "");
        check(&converted[1..2], None, "train", &converted[1..2], "small");
    }

    #[test]
    fn without_parquet_everything_but_scripts_is_data() {
        let script = ["fill50k.py", "README.md", "train.jsonl", "images.zip", "conditioning_images.zip"];
        let name = RepoName::parse("fusing/fill50k").unwrap();
        assert!(is_script(&name, &script));
        check(&script, None, "train", &script[2..], "");
        check(
            &["metadata.parquet", "images/0.png"],
            None,
            "train",
            &["metadata.parquet", "images/0.png"],
            "",
        );
        assert!(choose(&name, &script[..2], None, "train").is_err());
    }
}
