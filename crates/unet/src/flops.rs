//! Floating-point operations of the networks, counted from their configs.
//!
//! A multiplication with an addition counts as two. Convolutions, linear layers and attention's two products count;
//! norms and activations do not. So does PyTorch's `FlopCounterMode`.

use crate::{ControlNetConfig, Stage, StageKind, UnetConfig};

/// What the operations of a pass depend on beside the config, for one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassSize {
    /// Height and width of the latents.
    pub latents: [usize; 2],
    /// Tokens of the prompt.
    pub n_tokens: usize,
}

impl UnetConfig {
    /// Operations of [`crate::Unet::encode`] for one sample.
    #[must_use]
    pub fn encode_flops(&self, size: PassSize) -> u64 {
        self.down_flops(size, |_, _| 0)
    }

    /// Operations of [`crate::Unet::decode`] for one sample.
    #[must_use]
    pub fn decode_flops(&self, size: PassSize) -> u64 {
        let mut total = 0;
        let mut channels = self.last().channels;
        let mut skips = self.skip_channels();
        for (stage_idx, stage) in self.stages.iter().enumerate().rev() {
            let pixels = pixels(size, stage_idx);
            for idx in 0..=stage.n_resnets {
                let skip = skips.pop().expect("one skip per residual block of the decoder");
                total += self.resnet(channels + skip, stage.channels, pixels);
                total += self.transformer(stage, stage.depth.up(idx), pixels, size.n_tokens);
                channels = stage.channels;
            }
            if stage_idx != 0 {
                total += conv(channels, channels, 9, pixels * 4);
            }
        }
        total + conv(channels, self.out_channels, 9, pixels(size, 0))
    }

    /// Of the decoder, the products of features with features: both factors need a gradient.
    fn decode_self_attention_flops(&self, size: PassSize) -> u64 {
        let stages = self.stages.iter().enumerate();
        stages
            .map(|(idx, stage)| n_blocks_up(stage) * self_attention(stage.channels, pixels(size, idx)))
            .sum()
    }

    /// Of the decoder, the keys and values of prompts: they need no gradient towards the prompt, nor have they weights
    /// that do.
    fn decode_context_flops(&self, size: PassSize) -> u64 {
        self.stages.iter().map(|stage| n_blocks_up(stage) * self.keys_and_values(stage, size.n_tokens)).sum()
    }

    /// The same of the way down and the middle, whose weights do need a gradient in a ControlNet.
    fn down_context_flops(&self, size: PassSize) -> u64 {
        let middle = Stage { kind: self.mid, n_resnets: 1, ..self.last().clone() };
        let stages = self.stages.iter().chain([&middle]);
        stages.map(|stage| n_blocks_down(stage) * self.keys_and_values(stage, size.n_tokens)).sum()
    }

    fn keys_and_values(&self, stage: &Stage, n_tokens: usize) -> u64 {
        2 * conv(self.context_dim, stage.channels, 1, n_tokens)
    }

    /// The way down and the middle; `residual` adds what each skip and the middle costs beside, by channels and pixels.
    fn down_flops(&self, size: PassSize, residual: impl Fn(usize, usize) -> u64) -> u64 {
        let first = self.stages[0].channels;
        let mut channels = first;
        let perceptron =
            |d_input| linear(d_input, self.time_dim()) + linear(self.time_dim(), self.time_dim());
        let mut total = perceptron(first) + self.added.map_or(0, |added| perceptron(added.input_dim()));
        total += conv(self.in_channels, first, 9, pixels(size, 0)) + residual(first, pixels(size, 0));
        for (stage_idx, stage) in self.stages.iter().enumerate() {
            let here = pixels(size, stage_idx);
            for idx in 0..stage.n_resnets {
                total += self.resnet(channels, stage.channels, here);
                total += self.transformer(stage, stage.depth.down(idx), here, size.n_tokens);
                total += residual(stage.channels, here);
                channels = stage.channels;
            }
            if stage_idx + 1 != self.stages.len() {
                let below = pixels(size, stage_idx + 1);
                total += conv(channels, channels, 9, below) + residual(channels, below);
            }
        }
        let here = pixels(size, self.stages.len() - 1);
        let middle = Stage { kind: self.mid, ..self.last().clone() };
        let n_resnets = match self.mid {
            StageKind::Plain => 1,
            StageKind::CrossAttention => 2,
        };
        total
            + n_resnets * self.resnet(channels, channels, here)
            + self.transformer(&middle, middle.depth.down(0), here, size.n_tokens)
            + residual(channels, here)
    }

    fn last(&self) -> &Stage {
        self.stages.last().expect("a config has at least one stage")
    }

    /// Channels of the skip connections, in the encoder's order.
    fn skip_channels(&self) -> Vec<usize> {
        let last = self.stages.len() - 1;
        let of_stage = |(stage_idx, stage): (usize, &Stage)| {
            std::iter::repeat_n(stage.channels, stage.n_resnets + usize::from(stage_idx != last))
        };
        let stages = self.stages.iter().enumerate().flat_map(of_stage);
        std::iter::once(self.stages[0].channels).chain(stages).collect()
    }

    fn resnet(&self, channels_in: usize, channels_out: usize, pixels: usize) -> u64 {
        let shortcut =
            if channels_in == channels_out { 0 } else { conv(channels_in, channels_out, 1, pixels) };
        conv(channels_in, channels_out, 9, pixels)
            + conv(channels_out, channels_out, 9, pixels)
            + linear(self.time_dim(), channels_out)
            + shortcut
    }

    fn transformer(&self, stage: &Stage, n_blocks: usize, pixels: usize, n_tokens: usize) -> u64 {
        if stage.kind == StageKind::Plain {
            return 0;
        }
        let width = stage.channels;
        let per_pixel = |channels_in, channels_out| conv(channels_in, channels_out, 1, pixels);
        let self_attention = 4 * per_pixel(width, width) + self_attention(width, pixels);
        let cross_attention = 2 * per_pixel(width, width)
            + self.keys_and_values(stage, n_tokens)
            + 2 * per_pixel(n_tokens, width);
        let feed_forward = per_pixel(width, 8 * width) + per_pixel(4 * width, width);
        let block = self_attention + cross_attention + feed_forward;
        2 * per_pixel(width, width) + n_blocks as u64 * block
    }
}

impl ControlNetConfig {
    /// Operations of [`crate::ControlNet::forward`] for one sample.
    #[must_use]
    pub fn forward_flops(&self, size: PassSize) -> u64 {
        self.unet.down_flops(size, |channels, pixels| conv(channels, channels, 1, pixels))
            + self.hint_flops(size)
    }

    fn hint_flops(&self, size: PassSize) -> u64 {
        let channels = &self.hint.channels;
        let finest = size.latents[0] * size.latents[1] * self.hint.scale_factor().pow(2);
        let first = conv(self.hint.in_channels, channels[0], 9, finest);
        let levels = channels.windows(2).enumerate().map(|(level, pair)| {
            let pixels = finest >> (2 * level);
            conv(pair[0], pair[0], 9, pixels) + conv(pair[0], pair[1], 9, pixels / 4)
        });
        let last = channels[channels.len() - 1];
        first + levels.sum::<u64>() + conv(last, self.unet.stages[0].channels, 9, pixels(size, 0))
    }

    /// Operations of one training step for one sample: the frozen encoder, the ControlNet with all of its gradients,
    /// and the frozen decoder with the gradient towards its features.
    ///
    /// A backward pass towards one factor of a product costs what the forward pass does. What is computed a second time
    /// to save memory does not count.
    #[must_use]
    pub fn training_flops(&self, unet: &UnetConfig, size: PassSize) -> u64 {
        let decode = 2 * unet.decode_flops(size) + unet.decode_self_attention_flops(size)
            - unet.decode_context_flops(size);
        let control = 3 * self.forward_flops(size) - self.unet.down_context_flops(size);
        unet.encode_flops(size) + decode + control
    }
}

/// Transformer blocks on the way up.
fn n_blocks_up(stage: &Stage) -> u64 {
    match stage.kind {
        StageKind::Plain => 0,
        StageKind::CrossAttention => (0..=stage.n_resnets).map(|idx| stage.depth.up(idx) as u64).sum(),
    }
}

/// Transformer blocks on the way down.
fn n_blocks_down(stage: &Stage) -> u64 {
    match stage.kind {
        StageKind::Plain => 0,
        StageKind::CrossAttention => (0..stage.n_resnets).map(|idx| stage.depth.down(idx) as u64).sum(),
    }
}

fn pixels(size: PassSize, stage_idx: usize) -> usize {
    // Each level rounds up.
    size.latents.iter().map(|side| side.div_ceil(1 << stage_idx)).product()
}

fn conv(channels_in: usize, channels_out: usize, n_taps: usize, pixels: usize) -> u64 {
    2 * (channels_in * channels_out * n_taps * pixels) as u64
}

/// Scores and their products with the values.
fn self_attention(width: usize, pixels: usize) -> u64 {
    2 * conv(pixels, width, 1, pixels)
}

fn linear(d_input: usize, d_output: usize) -> u64 {
    conv(d_input, d_output, 1, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `torch.utils.flop_counter.FlopCounterMode` counts for diffusers' models (0.42.1).
    #[test]
    fn stable_diffusion_has_the_operations_that_pytorch_counts() {
        for (unet, side, unet_flops, controlnet_flops, training_flops) in [
            (UnetConfig::sd15(), 64, 803_273_441_280, 283_291_975_680, 2_265_166_577_664_u64),
            (UnetConfig::sd15(), 32, 180_106_444_800, 62_676_910_080, 492_562_415_616),
            (UnetConfig::sd21(), 64, 804_257_464_320, 283_746_140_160, 2_267_058_929_664),
            (UnetConfig::sdxl(), 64, 1_588_778_762_240, 712_086_487_040, 4_596_927_954_944),
        ] {
            let controlnet = ControlNetConfig::for_unet(&unet);
            let size = PassSize { latents: [side; 2], n_tokens: 77 };
            assert_eq!(unet.encode_flops(size) + unet.decode_flops(size), unet_flops);
            assert_eq!(controlnet.forward_flops(size), controlnet_flops);
            // PyTorch leaves out gradients that nothing needs, as those towards the latents.
            let counted = controlnet.training_flops(&unet, size);
            assert!(counted.abs_diff(training_flops) < training_flops / 1000, "{counted} {training_flops}");
        }
    }
}
