//! The names that autoencoders have in the files of their authors' code, and configs from the shapes of tensors.

use crate::error::ConfigError;
use crate::{VaeConfig, VaeJson};

/// What has another name: diffusers, original. The rest of a name stays.
const LAYERS: &[(&str, &str)] = &[
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
    ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
    ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
    ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
    ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
    ("downsamplers.0.conv", "downsample.conv"),
    ("upsamplers.0.conv", "upsample.conv"),
];

/// No autoencoder has as many levels or blocks; a file is not asked for more.
const MAX_BLOCKS: usize = 64;

impl VaeConfig {
    /// The original name of a tensor with diffusers' name, as it follows `first_stage_model.` in a checkpoint.
    ///
    /// The original decoder counts its levels from the finest. Linear weights of the attention are 1x1 convolutions there.
    ///
    /// Source: diffusers 0.42 `convert_ldm_vae_checkpoint`, the other way round.
    #[must_use]
    pub fn original_name(&self, name: &str) -> String {
        let mut original = name.to_owned();
        for (level, is_up) in (0..self.channels.len()).flat_map(|level| [(level, false), (level, true)]) {
            let (ours, theirs) = if is_up {
                let from_the_finest = self.channels.len() - 1 - level;
                (format!(".up_blocks.{level}."), format!(".up.{from_the_finest}."))
            } else {
                (format!(".down_blocks.{level}."), format!(".down.{level}."))
            };
            if let Some((part, rest)) = name.split_once(&ours) {
                let rest = match rest.strip_prefix("resnets.") {
                    Some(rest) => format!("block.{rest}"),
                    None => rest.to_owned(),
                };
                original = format!("{part}{theirs}{rest}");
            }
        }
        for (ours, theirs) in LAYERS {
            if let Some((before, after)) = original.split_once(&format!("{ours}.")) {
                original = format!("{before}{theirs}.{after}");
            }
        }
        original
    }

    /// The config of an autoencoder's tensors with original names; scaling and size are a family's.
    ///
    /// # Errors
    /// [`ConfigError`] if a tensor is missing or the numbers make no autoencoder.
    pub fn from_original_shapes<'a>(
        shape_of: impl Fn(&str) -> Option<&'a [usize]>,
        family: &Self,
    ) -> Result<Self, ConfigError> {
        let shape = |name: &str| -> Result<[usize; 4], ConfigError> {
            let shape = shape_of(name).and_then(|shape| shape.try_into().ok());
            shape.ok_or_else(|| ConfigError::NoTensor { name: name.to_owned() })
        };
        let block = |level: usize, idx: usize| format!("encoder.down.{level}.block.{idx}.conv1.weight");
        let mut channels = Vec::new();
        while channels.len() < MAX_BLOCKS && shape_of(&block(channels.len(), 0)).is_some() {
            let [level_channels, ..] = shape(&block(channels.len(), 0))?;
            channels.push(level_channels);
        }
        let has_block = |idx: &usize| shape_of(&block(0, *idx)).is_some();
        let [_, in_channels, ..] = shape("encoder.conv_in.weight")?;
        let [_, latent_channels, ..] = shape("decoder.conv_in.weight")?;
        let [out_channels, ..] = shape("decoder.conv_out.weight")?;
        let config = Self {
            in_channels,
            out_channels,
            latent_channels,
            channels,
            n_resnets: (0..MAX_BLOCKS).take_while(has_block).count(),
            mid_attention: shape_of("encoder.mid.attn_1.norm.weight").is_some(),
            quant_conv: shape_of("quant_conv.weight").is_some(),
            post_quant_conv: shape_of("post_quant_conv.weight").is_some(),
            ..family.clone()
        };
        // The way through the JSON checks what a written config is checked for.
        VaeConfig::try_from(VaeJson::from(&config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_the_decoder_are_counted_from_the_finest() {
        let vae = VaeConfig::sd15();
        for (ours, theirs) in [
            ("encoder.conv_in.weight", "encoder.conv_in.weight"),
            (
                "encoder.down_blocks.1.resnets.0.conv_shortcut.bias",
                "encoder.down.1.block.0.nin_shortcut.bias",
            ),
            ("encoder.down_blocks.2.downsamplers.0.conv.weight", "encoder.down.2.downsample.conv.weight"),
            ("encoder.mid_block.attentions.0.to_out.0.weight", "encoder.mid.attn_1.proj_out.weight"),
            ("decoder.mid_block.resnets.1.norm2.bias", "decoder.mid.block_2.norm2.bias"),
            ("decoder.up_blocks.0.resnets.2.conv1.weight", "decoder.up.3.block.2.conv1.weight"),
            ("decoder.up_blocks.2.upsamplers.0.conv.weight", "decoder.up.1.upsample.conv.weight"),
            ("decoder.conv_norm_out.weight", "decoder.norm_out.weight"),
            ("post_quant_conv.weight", "post_quant_conv.weight"),
        ] {
            assert_eq!(vae.original_name(ours), theirs);
        }
    }
}
