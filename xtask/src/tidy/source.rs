//! Rust files, with what is tests or comment taken out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One Rust file.
pub(super) struct Source {
    /// Relative to the repository, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    /// The text without comment lines and without the test module at its end.
    pub(super) product: String,
    /// Whether a parent declares it under `#[cfg(test)]`.
    is_test_module: bool,
}

impl Source {
    pub(super) fn new(path: String, text: String) -> Self {
        let product = product(&text);
        Self { path, text, product, is_test_module: false }
    }

    /// Whether users run it.
    pub(super) fn is_product(&self) -> bool {
        self.path.starts_with("crates/") && self.path.contains("/src/") && !self.is_test_module
    }

    /// The string literals of the product's code that hold no escapes.
    pub(super) fn literals(&self) -> impl Iterator<Item = &str> {
        self.product.lines().flat_map(|line| line.split('"').skip(1).step_by(2))
    }
}

/// Reads all Rust files of a list of paths.
pub(super) fn read(root: &Path, files: &[String]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in files.iter().filter(|path| path.ends_with(".rs")) {
        let text = fs::read_to_string(root.join(path)).with_context(|| path.clone())?;
        sources.push(Source::new(path.clone(), text));
    }
    let test_modules: BTreeSet<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        source.is_test_module = test_modules.iter().any(|module| {
            source
                .path
                .strip_prefix(module.as_str())
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
    }
    Ok(sources)
}

/// Ends at an inline test module, which by convention is the last item of a file.
fn product(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let code = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

/// The paths, without `.rs`, of the modules in files of their own that exist only for tests.
fn test_modules(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let children = match file {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        other => format!("{folder}/{}", other.trim_end_matches(".rs")),
    };
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]").filter_map(|pair| {
        let (_, name) = pair[1].strip_suffix(';')?.split_once("mod ")?;
        Some(format!("{children}/{name}"))
    });
    declared.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_for_tests_are_found_beside_and_below_their_parent() {
        let modules =
            |path: &str| test_modules(&Source::new(path.to_owned(), "#[cfg(test)]\nmod toy;\n".to_owned()));
        assert_eq!(modules("crates/weights/src/lib.rs"), ["crates/weights/src/toy"]);
        assert_eq!(modules("crates/train/src/plan.rs"), ["crates/train/src/plan/toy"]);
    }

    #[test]
    fn literals_are_what_is_between_quotes() {
        let source = Source::new("a.rs".to_owned(), "f(\"one\", \"two\");\n// \"three\"".to_owned());
        assert_eq!(source.literals().collect::<Vec<_>>(), ["one", "two"]);
    }
}
