//! The names that CLIP text encoders have in the files of OpenCLIP, and configs from the shapes of tensors.

use crate::error::TextError;
use crate::{Activation, ClipTextConfig, ClipTextJson, TextProjection};

/// Which part of an original tensor is one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginalPart {
    /// All of it.
    Whole,
    /// All of it, rows and columns exchanged.
    Transposed,
    /// A third of its rows, counted from 0: queries, keys and values are one tensor there.
    Third(usize),
}

/// What is outside of the layers: transformers, OpenCLIP.
const OUTSIDE: &[(&str, &str, OriginalPart)] = &[
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight", OriginalPart::Whole),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding", OriginalPart::Whole),
    ("text_model.final_layer_norm.weight", "ln_final.weight", OriginalPart::Whole),
    ("text_model.final_layer_norm.bias", "ln_final.bias", OriginalPart::Whole),
    ("text_projection.weight", "text_projection", OriginalPart::Transposed),
];

/// What is inside of a layer.
const INSIDE: &[(&str, &str, OriginalPart)] = &[
    ("self_attn.q_proj.weight", "attn.in_proj_weight", OriginalPart::Third(0)),
    ("self_attn.q_proj.bias", "attn.in_proj_bias", OriginalPart::Third(0)),
    ("self_attn.k_proj.weight", "attn.in_proj_weight", OriginalPart::Third(1)),
    ("self_attn.k_proj.bias", "attn.in_proj_bias", OriginalPart::Third(1)),
    ("self_attn.v_proj.weight", "attn.in_proj_weight", OriginalPart::Third(2)),
    ("self_attn.v_proj.bias", "attn.in_proj_bias", OriginalPart::Third(2)),
    ("self_attn.out_proj.weight", "attn.out_proj.weight", OriginalPart::Whole),
    ("self_attn.out_proj.bias", "attn.out_proj.bias", OriginalPart::Whole),
    ("layer_norm1.weight", "ln_1.weight", OriginalPart::Whole),
    ("layer_norm1.bias", "ln_1.bias", OriginalPart::Whole),
    ("layer_norm2.weight", "ln_2.weight", OriginalPart::Whole),
    ("layer_norm2.bias", "ln_2.bias", OriginalPart::Whole),
    ("mlp.fc1.weight", "mlp.c_fc.weight", OriginalPart::Whole),
    ("mlp.fc1.bias", "mlp.c_fc.bias", OriginalPart::Whole),
    ("mlp.fc2.weight", "mlp.c_proj.weight", OriginalPart::Whole),
    ("mlp.fc2.bias", "mlp.c_proj.bias", OriginalPart::Whole),
];

/// OpenCLIP's name of a tensor with transformers' name, and which part of that it is; `None` for one that a text encoder
/// does not have.
///
/// Source: diffusers 0.42 `convert_open_clip_checkpoint`, the other way round.
#[must_use]
pub fn open_clip_name(name: &str) -> Option<(String, OriginalPart)> {
    if let Some((_, theirs, part)) = OUTSIDE.iter().find(|(ours, ..)| *ours == name) {
        return Some(((*theirs).to_owned(), *part));
    }
    let (layer, rest) = name.strip_prefix("text_model.encoder.layers.")?.split_once('.')?;
    let (_, theirs, part) = INSIDE.iter().find(|(ours, ..)| *ours == rest)?;
    Some((format!("transformer.resblocks.{layer}.{theirs}"), *part))
}

/// Whose text encoder it is, which tells what shapes do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFamily {
    /// OpenAI's CLIP, with transformers' names: of Stable Diffusion 1.x and the first of XL.
    Clip,
    /// OpenCLIP without its last layer: of Stable Diffusion 2.x, which takes the states before that.
    OpenClipPenultimate,
    /// OpenCLIP with its projection: the second of XL.
    OpenClip,
}

/// Channels of an attention head in every published text encoder.
const HEAD_CHANNELS: usize = 64;

/// No text encoder has as many layers; a file is not asked for more.
const MAX_LAYERS: usize = 1 << 10;

impl ClipTextConfig {
    /// The config of a text encoder's tensors, with the names of its family's single-file checkpoints.
    ///
    /// # Errors
    /// [`TextError`] if a tensor is missing or the numbers make no text encoder.
    pub fn from_original_shapes<'a>(
        shape_of: impl Fn(&str) -> Option<&'a [usize]>,
        family: TextFamily,
    ) -> Result<Self, TextError> {
        let theirs = |ours: &str| match family {
            TextFamily::Clip => ours.to_owned(),
            TextFamily::OpenClipPenultimate | TextFamily::OpenClip => {
                open_clip_name(ours).map_or_else(|| ours.to_owned(), |(theirs, _)| theirs)
            }
        };
        let shape = |ours: &str| -> Result<[usize; 2], TextError> {
            let name = theirs(ours);
            let shape = shape_of(&name).and_then(|shape| shape.try_into().ok());
            shape.ok_or(TextError::NoTensor { name })
        };
        let [vocab_size, d_model] = shape("text_model.embeddings.token_embedding.weight")?;
        let [max_tokens, _] = shape("text_model.embeddings.position_embedding.weight")?;
        let [d_ff, _] = shape("text_model.encoder.layers.0.mlp.fc1.weight")?;
        let has_layer = |idx: &usize| {
            shape_of(&theirs(&format!("text_model.encoder.layers.{idx}.mlp.fc1.weight"))).is_some()
        };
        let n_layers = (0..MAX_LAYERS).take_while(has_layer).count();
        let (family_config, n_layers, projection) = match family {
            TextFamily::Clip => (Self::clip_l(), n_layers, TextProjection::Absent(Some(d_model))),
            TextFamily::OpenClipPenultimate => {
                // Diffusers' own folders have no last layer, and files that are made of them neither.
                let n_layers = if n_layers > OPEN_CLIP_H_LAYERS { n_layers - 1 } else { n_layers };
                (Self::open_clip_h(), n_layers, Self::open_clip_h().projection)
            }
            TextFamily::OpenClip => {
                let [_, width] = shape("text_projection.weight")?;
                (Self::open_clip_big_g(), n_layers, TextProjection::To(width))
            }
        };
        let config = Self {
            vocab_size,
            max_tokens,
            d_model,
            d_ff,
            n_layers,
            n_heads: (d_model / HEAD_CHANNELS).max(1),
            activation: if family == TextFamily::Clip { Activation::QuickGelu } else { Activation::Gelu },
            projection,
            ..family_config
        };
        // The way through the JSON checks what a written config is checked for.
        ClipTextConfig::try_from(ClipTextJson::from(&config))
    }
}

/// Layers that Stable Diffusion 2.x has of OpenCLIP ViT-H/14.
const OPEN_CLIP_H_LAYERS: usize = 23;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_keys_and_values_are_thirds_of_one_tensor() {
        let place = |name: &str| open_clip_name(name).unwrap();
        assert_eq!(
            place("text_model.encoder.layers.11.self_attn.v_proj.bias"),
            ("transformer.resblocks.11.attn.in_proj_bias".to_owned(), OriginalPart::Third(2))
        );
        assert_eq!(place("text_projection.weight"), ("text_projection".to_owned(), OriginalPart::Transposed));
        assert_eq!(open_clip_name("text_model.encoder.layers.0.mlp.fc3.weight"), None);
    }
}
