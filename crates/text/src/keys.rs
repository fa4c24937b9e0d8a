//! How module paths are spelt in transformers' files.

/// Pairs of (path fragment of the modules, path fragment in the file): none, every path is a name as it stands.
pub const RENAMES: &[(&str, &str)] = &[];

/// The segment that all names start with in some files and do not in others.
///
/// transformers 5.6 and later save `CLIPTextModel` without this prefix and load it with or without; earlier versions
/// need it. Module paths have it, so what is saved loads everywhere.
pub const OPTIONAL_PREFIX: &str = "text_model";

/// Last segments of the names of tensors that are in old files and hold nothing learned.
pub const IGNORED: &[&str] = &["position_ids"];
