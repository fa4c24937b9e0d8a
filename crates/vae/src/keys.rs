//! How module paths are spelt in diffusers' files.

/// Pairs of (path fragment of the modules, path fragment in the file), on whole segments.
///
/// Source: diffusers `AutoencoderKL` (0.42).
pub const RENAMES: &[(&str, &str)] = &[("to_out", "to_out.0")];

/// Pairs of (path fragment in an old file, path fragment in a file written today), on whole segments.
///
/// The published autoencoders of Stable Diffusion 1.x, 2.x and XL name the layers of their attention so. Some of
/// them hold these weights as 1x1 convolutions, `[channels, channels, 1, 1]` instead of `[channels, channels]`.
///
/// Source: diffusers `ModelMixin._convert_deprecated_attention_blocks` (0.42).
pub const LEGACY_ALIASES: &[(&str, &str)] =
    &[("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
