//! What a micro-batch keeps for its backward pass, counted from the configs.
//!
//! Counted are the tensors that the operations keep: a trainable convolution or linear layer its input, a norm or
//! activation its input, attention queries, keys, values and output. A frozen layer keeps nothing, since only its
//! input has a gradient.

use pyrograph_unet::{ControlNetConfig, StageKind, UnetConfig};

/// What the activations depend on beside the configs.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchSize {
    /// Samples.
    pub(super) n_samples: u64,
    /// Width and height of the latents.
    pub(super) latents: u64,
    /// Tokens of a prompt.
    pub(super) n_tokens: u64,
    /// Bytes of a number.
    pub(super) element: u64,
}

/// The most memory that a micro-batch holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peak {
    /// Of activations alone.
    pub(super) activations: u64,
    /// Of activations and the gradients that there are already.
    pub(super) with_gradients: u64,
}

/// A part of the ControlNet with a backward pass of its own, in numbers for one sample.
struct Part {
    /// Kept by all of its blocks together.
    kept: u64,
    /// Kept by the largest of them.
    largest: u64,
    /// Bytes of the gradients of its parameters.
    gradients: u64,
}

/// The UNet's decoder, which is trained or lets gradients through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoder<'a> {
    pub(super) unet: &'a UnetConfig,
    /// Bytes of the gradients of its parameters; none if it is frozen.
    pub(super) gradients: u64,
}

/// Gradients towards activations that are there at once, in units of a transformer's input: those of the gated layer
/// before and after the gate, and of the layers around it.
const WORKSPACE: u64 = 14;

/// Bytes of the gradients of the parameters below a path.
pub(super) type GradientBytes<'a> = &'a dyn Fn(&str) -> u64;

/// The peak of a step in which every activation is kept.
pub(super) fn keeping_all(
    decoder: &Decoder<'_>,
    controlnet: &ControlNetConfig,
    size: BatchSize,
    gradients: GradientBytes<'_>,
) -> Peak {
    let (parts, bytes) = (parts(controlnet, size, gradients), size.n_samples * size.element);
    let workspace = bytes * workspace(controlnet, size);
    let encoder: u64 = parts.iter().map(|part| part.kept).sum();
    let activations = bytes * (encoder + decoder.kept(size).0) + workspace;
    // The decoder's are gone when the ControlNet's first weight gets a gradient; then one part after another, the last first.
    let (mut remaining, mut done, mut with_gradients) = (encoder, decoder.gradients, activations);
    for part in parts.iter().rev() {
        with_gradients = with_gradients.max(bytes * remaining + workspace + done);
        remaining -= part.kept;
        done += part.gradients;
        with_gradients = with_gradients.max(bytes * remaining + workspace + done);
    }
    Peak { activations, with_gradients }
}

/// The peak of a step that keeps the inputs of blocks.
pub(super) fn checkpointed(
    decoder: &Decoder<'_>,
    controlnet: &ControlNetConfig,
    size: BatchSize,
    gradients: GradientBytes<'_>,
) -> Peak {
    let (parts, bytes) = (parts(controlnet, size, gradients), size.n_samples * size.element);
    let workspace = workspace(controlnet, size);
    let skips = skips(decoder.unet, size);
    // Skips, residuals, the inputs of the ControlNet's blocks and those of the decoder's.
    let decoding = bytes * (4 * skips + decoder.kept(size).1 + workspace);
    let (mut done, mut activations) = (decoder.gradients, decoding);
    let mut with_gradients = decoding + done;
    for part in parts.iter().rev() {
        // The inputs of blocks, and the gradients towards the residuals.
        let here = bytes * (2 * skips + part.largest + workspace);
        done += part.gradients;
        activations = activations.max(here);
        with_gradients = with_gradients.max(here + done);
    }
    Peak { activations, with_gradients }
}

/// The most that a pass without gradients holds, in bytes: what waits for the decoder, with two sets of residuals as in
/// an evaluation, and one block.
pub(super) fn without_gradients(unet: &UnetConfig, size: BatchSize) -> u64 {
    let largest =
        unet.stages.iter().enumerate().map(|(idx, stage)| to_u64(stage.channels) * pixels(size, idx));
    let block = (WORKSPACE + 4) * largest.max().unwrap_or(0);
    size.n_samples * size.element * (3 * skips(unet, size) + block)
}

/// Hint embedding and first convolution, each stage, the middle.
fn parts(config: &ControlNetConfig, size: BatchSize, gradients: GradientBytes<'_>) -> Vec<Part> {
    let unet = &config.unet;
    let first = to_u64(unet.stages[0].channels) * pixels(size, 0) + hint(config, size);
    let rest = ["conv_in", "time_embedding", "controlnet_cond_embedding"].map(gradients).iter().sum();
    let mut parts = vec![Part { kept: first, largest: first, gradients: rest }];
    let mut channels = unet.stages[0].channels;
    for (stage_idx, stage) in unet.stages.iter().enumerate() {
        let here = pixels(size, stage_idx);
        let mut blocks: Vec<u64> = Vec::new();
        for transformer_idx in 0..stage.n_resnets {
            let resnet = (to_u64(channels) + 3 * to_u64(stage.channels)) * here;
            let transformer = match stage.kind {
                StageKind::Plain => 0,
                StageKind::CrossAttention => {
                    trained_transformer(to_u64(stage.channels), stage.depth.down(transformer_idx), here, size)
                }
            };
            blocks.push(resnet + transformer);
            channels = stage.channels;
        }
        if stage_idx + 1 != unet.stages.len() {
            blocks.push(to_u64(channels) * pixels(size, stage_idx + 1));
        }
        parts.push(Part {
            kept: blocks.iter().sum(),
            largest: blocks.iter().copied().max().unwrap_or(0),
            gradients: gradients(&format!("down_blocks.{stage_idx}")),
        });
    }
    let last = &unet.stages[unet.stages.len() - 1];
    let (width, here) = (to_u64(last.channels), pixels(size, unet.stages.len() - 1));
    let kept = match unet.mid {
        StageKind::Plain => 4 * width * here,
        StageKind::CrossAttention => {
            2 * 4 * width * here + trained_transformer(width, last.depth.down(0), here, size)
        }
    };
    let rest = ["mid_block", "controlnet_down_blocks", "controlnet_mid_block"].map(gradients).iter().sum();
    parts.push(Part { kept, largest: kept, gradients: rest });
    parts
}

/// Inputs of convolutions and of SiLU, from the hint's resolution down.
fn hint(config: &ControlNetConfig, size: BatchSize) -> u64 {
    let channels = &config.hint.channels;
    let finest = (size.latents * to_u64(config.hint.scale_factor())).pow(2);
    let levels = channels.windows(2).enumerate().map(|(level, pair)| {
        let here = finest >> (2 * level);
        2 * to_u64(pair[0]) * here + 2 * to_u64(pair[1]) * (here >> 2)
    });
    (to_u64(config.hint.in_channels) + 2 * to_u64(channels[0])) * finest + levels.sum::<u64>()
}

/// Norm, projection and output; in each block two norms' and attentions' tensors and the gated layer, 4 and 8 times as wide.
fn trained_transformer(width: u64, n_blocks: usize, pixels: u64, size: BatchSize) -> u64 {
    width * (3 * pixels + to_u64(n_blocks) * (26 * pixels + 2 * size.n_tokens))
}

impl Decoder<'_> {
    /// Its activations: all, and those of the largest block. What is trained keeps the inputs of its layers, too.
    fn kept(&self, size: BatchSize) -> (u64, u64) {
        let Self { unet, gradients } = *self;
        let is_trained = gradients > 0;
        let mut channels = unet.stages[unet.stages.len() - 1].channels;
        let mut skips = skip_channels(unet);
        // The norm before the last convolution.
        let mut all = to_u64(unet.stages[0].channels) * pixels(size, 0);
        let mut largest = all;
        for (stage_idx, stage) in unet.stages.iter().enumerate().rev() {
            let (here, width) = (pixels(size, stage_idx), to_u64(stage.channels));
            for transformer_idx in 0..=stage.n_resnets {
                let skip = skips.pop().map_or(0, |(skip, _)| skip);
                let depth = stage.depth.up(transformer_idx);
                let transformer = match stage.kind {
                    StageKind::Plain => 0,
                    StageKind::CrossAttention if is_trained => trained_transformer(width, depth, here, size),
                    StageKind::CrossAttention => {
                        width * (here + to_u64(depth) * (17 * here + 2 * size.n_tokens))
                    }
                };
                let widths = if is_trained { 3 * width } else { width };
                let block = (to_u64(channels + skip) + widths) * here + transformer;
                all += block;
                largest = largest.max(block);
                channels = stage.channels;
            }
        }
        (all, largest)
    }
}

/// Channels and stage of each skip connection, in the encoder's order.
fn skip_channels(unet: &UnetConfig) -> Vec<(usize, usize)> {
    let last = unet.stages.len() - 1;
    let mut skips = vec![(unet.stages[0].channels, 0)];
    for (stage_idx, stage) in unet.stages.iter().enumerate() {
        skips.extend(std::iter::repeat_n((stage.channels, stage_idx), stage.n_resnets));
        if stage_idx != last {
            skips.push((stage.channels, stage_idx + 1));
        }
    }
    skips
}

/// Elements of all skip connections.
fn skips(unet: &UnetConfig, size: BatchSize) -> u64 {
    skip_channels(unet).iter().map(|&(channels, stage_idx)| to_u64(channels) * pixels(size, stage_idx)).sum()
}

fn workspace(config: &ControlNetConfig, size: BatchSize) -> u64 {
    let stage = &config.unet.stages[0];
    let features = WORKSPACE * to_u64(stage.channels) * pixels(size, 0);
    let finest = (size.latents * to_u64(config.hint.scale_factor())).pow(2);
    features.max(2 * to_u64(config.hint.channels[0]) * finest)
}

fn pixels(size: BatchSize, stage_idx: usize) -> u64 {
    // Each level rounds up.
    size.latents.div_ceil(1 << stage_idx).pow(2)
}

pub(super) fn to_u64(count: usize) -> u64 {
    count as u64
}
