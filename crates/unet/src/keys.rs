//! How module paths are spelt in diffusers' files, where Rust cannot spell them so.

/// Pairs of (path fragment of the modules, path fragment in the file), on whole segments.
///
/// Of the two spellings that map to `proj_in` and to `proj_out`, a model has one or the other.
///
/// Source: diffusers `UNet2DConditionModel` and `ControlNetModel` (0.42).
pub const RENAMES: &[(&str, &str)] = &[
    ("to_out", "to_out.0"),
    ("ff.proj_in", "ff.net.0.proj"),
    ("ff.proj_out", "ff.net.2"),
    ("proj_in.conv", "proj_in"),
    ("proj_in.linear", "proj_in"),
    ("proj_out.conv", "proj_out"),
    ("proj_out.linear", "proj_out"),
];

/// What a ControlNet's parameter was born as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterGroup {
    /// A copy of the UNet's.
    Copied,
    /// Part of the hint embedding, which is new.
    HintEmbedding,
    /// Of a zero convolution.
    ZeroConv,
}

impl ParameterGroup {
    /// The group of the parameter at a path of the module.
    #[must_use]
    pub fn of(path: &str) -> Self {
        match path.split('.').next() {
            Some("controlnet_cond_embedding") => Self::HintEmbedding,
            Some("controlnet_down_blocks" | "controlnet_mid_block") => Self::ZeroConv,
            _ => Self::Copied,
        }
    }
}
