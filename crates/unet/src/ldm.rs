//! The names that UNets and ControlNets have in the files of their authors' code, which most single-file checkpoints use.

use crate::{ControlNetConfig, StageKind, UnetConfig};

/// What the residual blocks' layers are called: diffusers, original.
const RESNET: &[(&str, &str)] = &[
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];

/// What is outside of all blocks: diffusers, original.
const OUTSIDE: &[(&str, &str)] = &[
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];

/// From diffusers' names to the original ones, for one model.
///
/// The original code counts its blocks through all resolution levels, so the numbers depend on the config. Inside of
/// transformers both have the same names.
///
/// Source: diffusers 0.42 `convert_ldm_unet_checkpoint` and `convert_controlnet_checkpoint`, the other way round.
#[derive(Debug, Clone)]
pub struct OriginalNames {
    /// Leading segments: diffusers, original.
    blocks: Vec<(String, String)>,
}

impl UnetConfig {
    /// The names of the UNet, as they follow `model.diffusion_model.` in a checkpoint.
    #[must_use]
    pub fn original_names(&self) -> OriginalNames {
        let mut blocks = encoder_blocks(self);
        let mut idx = 0;
        for (stage_idx, stage) in self.stages.iter().rev().enumerate() {
            let up = format!("up_blocks.{stage_idx}");
            let attends = stage.kind == StageKind::CrossAttention;
            for layer in 0..=stage.n_resnets {
                blocks.push((format!("{up}.resnets.{layer}"), format!("output_blocks.{idx}.0")));
                if attends {
                    blocks.push((format!("{up}.attentions.{layer}"), format!("output_blocks.{idx}.1")));
                }
                idx += 1;
            }
            let place = if attends { 2 } else { 1 };
            blocks
                .push((format!("{up}.upsamplers.0.conv"), format!("output_blocks.{}.{place}.conv", idx - 1)));
        }
        OriginalNames { blocks }
    }
}

impl ControlNetConfig {
    /// The names of the ControlNet, as they follow `control_model.` in a file.
    #[must_use]
    pub fn original_names(&self) -> OriginalNames {
        let mut blocks = encoder_blocks(&self.unet);
        // One for the first convolution, each residual block and each downsampler, which the last level does not have.
        let n_zero_convs: usize = self.unet.stages.iter().map(|stage| stage.n_resnets + 1).sum();
        for idx in 0..n_zero_convs {
            blocks.push((format!("controlnet_down_blocks.{idx}"), format!("zero_convs.{idx}.0")));
        }
        blocks.push(("controlnet_mid_block".to_owned(), "middle_block_out.0".to_owned()));
        let hint = "controlnet_cond_embedding";
        // An activation stands between two convolutions, so these have the even numbers.
        let n_inner = 2 * (self.hint.channels.len() - 1);
        blocks.push((format!("{hint}.conv_in"), "input_hint_block.0".to_owned()));
        for idx in 0..n_inner {
            blocks.push((format!("{hint}.blocks.{idx}"), format!("input_hint_block.{}", 2 * (idx + 1))));
        }
        blocks.push((format!("{hint}.conv_out"), format!("input_hint_block.{}", 2 * (n_inner + 1))));
        OriginalNames { blocks }
    }
}

/// The half that a UNet and its ControlNet share.
fn encoder_blocks(unet: &UnetConfig) -> Vec<(String, String)> {
    let outside = OUTSIDE.iter().map(|&(ours, theirs)| (ours.to_owned(), theirs.to_owned()));
    let mut blocks: Vec<_> = outside.collect();
    let mut idx = 1;
    for (stage_idx, stage) in unet.stages.iter().enumerate() {
        let down = format!("down_blocks.{stage_idx}");
        for layer in 0..stage.n_resnets {
            blocks.push((format!("{down}.resnets.{layer}"), format!("input_blocks.{idx}.0")));
            blocks.push((format!("{down}.attentions.{layer}"), format!("input_blocks.{idx}.1")));
            idx += 1;
        }
        blocks.push((format!("{down}.downsamplers.0.conv"), format!("input_blocks.{idx}.0.op")));
        idx += 1;
    }
    for (ours, theirs) in [("resnets.0", "0"), ("attentions.0", "1"), ("resnets.1", "2")] {
        blocks.push((format!("mid_block.{ours}"), format!("middle_block.{theirs}")));
    }
    blocks
}

impl OriginalNames {
    /// The original name of a tensor with diffusers' name; `None` for one that the model does not have.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<String> {
        let after = |whole: &str| name.strip_prefix(whole).and_then(|rest| rest.strip_prefix('.'));
        let (ours, theirs) = self.blocks.iter().find(|(ours, _)| after(ours).is_some())?;
        let rest = after(ours)?;
        if !ours.contains("resnets") {
            return Some(format!("{theirs}.{rest}"));
        }
        let (layer, parameter) = rest.split_once('.')?;
        let (_, layer) = RESNET.iter().find(|(ours, _)| *ours == layer)?;
        Some(format!("{theirs}.{layer}.{parameter}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_through_all_levels() {
        let unet = UnetConfig::sd15().original_names();
        for (ours, theirs) in [
            ("conv_in.weight", "input_blocks.0.0.weight"),
            ("down_blocks.0.resnets.0.conv1.weight", "input_blocks.1.0.in_layers.2.weight"),
            ("down_blocks.1.attentions.1.norm.bias", "input_blocks.5.1.norm.bias"),
            ("down_blocks.2.downsamplers.0.conv.weight", "input_blocks.9.0.op.weight"),
            ("mid_block.resnets.1.norm2.weight", "middle_block.2.out_layers.0.weight"),
            ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
            ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
            ("up_blocks.3.resnets.2.conv_shortcut.weight", "output_blocks.11.0.skip_connection.weight"),
            ("conv_out.bias", "out.2.bias"),
        ] {
            assert_eq!(unet.of(ours).as_deref(), Some(theirs));
        }
        assert_eq!(unet.of("down_blocks.0.resnets.0.conv3.weight"), None);
        assert_eq!(unet.of("conv_inner.weight"), None);
    }

    #[test]
    fn a_controlnet_has_zero_convolutions_and_a_hint_block() {
        let controlnet = ControlNetConfig::for_unet(&UnetConfig::sdxl()).original_names();
        for (ours, theirs) in [
            ("controlnet_down_blocks.8.weight", "zero_convs.8.0.weight"),
            ("controlnet_mid_block.bias", "middle_block_out.0.bias"),
            ("controlnet_cond_embedding.conv_in.weight", "input_hint_block.0.weight"),
            ("controlnet_cond_embedding.blocks.5.weight", "input_hint_block.12.weight"),
            ("controlnet_cond_embedding.conv_out.bias", "input_hint_block.14.bias"),
            ("add_embedding.linear_2.weight", "label_emb.0.2.weight"),
        ] {
            assert_eq!(controlnet.of(ours).as_deref(), Some(theirs));
        }
    }
}
