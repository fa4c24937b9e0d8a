//! Configs from the shapes of tensors, for files that come without a `config.json`.

use crate::error::ConfigError;
use crate::{
    ChannelOrder, ControlNetConfig, ControlNetJson, HintConfig, MicroConditioning, Pooling, Projection,
    Stage, StageKind, TextTimeConfig, TransformerDepth, UnetConfig, UnetJson,
};

/// How a file spells the names of its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// As diffusers does.
    Diffusers,
    /// As the authors' code does, see [`OriginalNames`](crate::OriginalNames).
    Original,
}

/// The shape of a tensor by its name, without the prefix that all names of a model may have.
pub type ShapeOf<'a> = dyn Fn(&str) -> Option<&'a [usize]> + 'a;

/// Channels of a head where heads are not a fixed number: in the families with linear projections.
///
/// Source: `num_head_channels: 64` of v2-inference.yaml and sd_xl_base.yaml.
const HEAD_CHANNELS: usize = 64;

/// Source: `num_heads: 8` of v1-inference.yaml.
const N_HEADS: usize = 8;

/// Width of the embedding of each of SDXL's numbers, where the pooled prompt's width is not known.
const SIZE_DIM: usize = 256;

/// No model has as many blocks; a file is not asked for more.
const MAX_BLOCKS: usize = 64;

impl UnetConfig {
    /// The config of a UNet's tensors. What shapes do not tell is as in the family's published models: the heads, by
    /// whether projections are linear, and groups of 32 channels.
    ///
    /// `pooled_dim` is the width of the pooled prompt embeddings of a model that takes them.
    ///
    /// # Errors
    /// [`ConfigError`] if a tensor is missing or the numbers make no UNet.
    pub fn from_shapes(
        naming: Naming,
        shape_of: &ShapeOf<'_>,
        pooled_dim: Option<usize>,
    ) -> Result<Self, ConfigError> {
        let tensors = Tensors { naming, shape_of };
        let config = tensors.encoder(pooled_dim)?;
        let [out_channels, ..] = tensors.shape::<4>(tensors.either("conv_out.weight", "out.2.weight"))?;
        let config = Self { out_channels, ..config };
        // The way through the JSON checks what a written config is checked for.
        UnetConfig::try_from(UnetJson::from(&config))
    }
}

impl ControlNetConfig {
    /// The config of a ControlNet's tensors, as [`UnetConfig::from_shapes`].
    ///
    /// # Errors
    /// [`ConfigError`] if a tensor is missing or the numbers make no ControlNet.
    pub fn from_shapes(naming: Naming, shape_of: &ShapeOf<'_>) -> Result<Self, ConfigError> {
        let tensors = Tensors { naming, shape_of };
        let config = Self {
            unet: tensors.encoder(None)?,
            hint: tensors.hint()?,
            channel_order: ChannelOrder::Rgb,
            pooling: Pooling::None,
        };
        ControlNetConfig::try_from(ControlNetJson::from(&config))
    }
}

/// The tensors of one model.
struct Tensors<'f, 's> {
    naming: Naming,
    shape_of: &'f ShapeOf<'s>,
}

/// One residual block of a level: its channels, and where its transformer would be.
struct Block {
    channels: usize,
    transformer: String,
}

impl Tensors<'_, '_> {
    fn either<'n>(&self, diffusers: &'n str, original: &'n str) -> &'n str {
        match self.naming {
            Naming::Diffusers => diffusers,
            Naming::Original => original,
        }
    }

    fn has(&self, name: &str) -> bool {
        (self.shape_of)(name).is_some()
    }

    fn shape<const D: usize>(&self, name: &str) -> Result<[usize; D], ConfigError> {
        let shape = (self.shape_of)(name).and_then(|shape| shape.try_into().ok());
        shape.ok_or_else(|| ConfigError::NoTensor { name: name.to_owned(), n_dims: D })
    }

    fn encoder(&self, pooled_dim: Option<usize>) -> Result<UnetConfig, ConfigError> {
        let [_, in_channels, ..] =
            self.shape::<4>(self.either("conv_in.weight", "input_blocks.0.0.weight"))?;
        let levels = self.levels()?;
        let mid = self.either("mid_block.attentions.0", "middle_block.1").to_owned();
        let transformers = || levels.iter().flatten().map(|block| &block.transformer).chain([&mid]);
        let attending = transformers().find(|path| self.attends(path));
        let projection = match attending.and_then(|path| (self.shape_of)(&format!("{path}.proj_in.weight"))) {
            Some([_, _]) => Projection::Linear,
            Some(_) => Projection::Convolution,
            // Only ControlNets of SDXL have no attention.
            None => Projection::Linear,
        };
        let context_dim = transformers()
            .find_map(|path| (self.shape_of)(&format!("{path}.transformer_blocks.0.attn2.to_k.weight")))
            .and_then(|shape| shape.get(1).copied());
        let n_heads = |channels: usize| match projection {
            Projection::Convolution => N_HEADS,
            Projection::Linear => (channels / HEAD_CHANNELS).max(1),
        };
        let mut stages: Vec<Stage> = Vec::with_capacity(levels.len());
        for (idx, level) in levels.iter().enumerate() {
            let is_last = idx + 1 == levels.len();
            let [first, ..] = level.as_slice() else {
                return Err(ConfigError::Empty { key: "layers_per_block", found: "zero" });
            };
            let attends = self.attends(&first.transformer);
            // The middle block takes its depth from the last level.
            let depth = match (attends, is_last) {
                (true, _) => self.depth(&first.transformer),
                (false, true) => self.depth(&mid).max(1),
                (false, false) => 1,
            };
            stages.push(Stage {
                kind: if attends { StageKind::CrossAttention } else { StageKind::Plain },
                channels: first.channels,
                n_resnets: level.len(),
                depth: TransformerDepth::Same(depth),
                n_heads: n_heads(first.channels),
            });
        }
        let added = self.added(pooled_dim)?;
        let family = match (added, context_dim) {
            (Some(_), _) => UnetConfig::sdxl(),
            (None, Some(1024)) => UnetConfig::sd21(),
            _ => UnetConfig::sd15(),
        };
        Ok(UnetConfig {
            in_channels,
            stages,
            mid: if self.attends(&mid) { StageKind::CrossAttention } else { StageKind::Plain },
            context_dim: context_dim.unwrap_or(family.context_dim),
            projection,
            added,
            ..family
        })
    }

    /// The residual blocks of each resolution level.
    fn levels(&self) -> Result<Vec<Vec<Block>>, ConfigError> {
        let mut levels = vec![Vec::new()];
        match self.naming {
            Naming::Original => {
                for idx in 1..MAX_BLOCKS {
                    let path = format!("input_blocks.{idx}");
                    let conv = format!("{path}.0.in_layers.2.weight");
                    if self.has(&conv) {
                        let [channels, ..] = self.shape::<4>(&conv)?;
                        let level = levels.last_mut().expect("begins with one");
                        level.push(Block { channels, transformer: format!("{path}.1") });
                    } else if self.has(&format!("{path}.0.op.weight")) {
                        levels.push(Vec::new());
                    } else {
                        break;
                    }
                }
            }
            Naming::Diffusers => {
                for (stage_idx, idx) in
                    (0..MAX_BLOCKS).flat_map(|stage_idx| (0..MAX_BLOCKS).map(move |idx| (stage_idx, idx)))
                {
                    let path = format!("down_blocks.{stage_idx}");
                    let conv = format!("{path}.resnets.{idx}.conv1.weight");
                    if !self.has(&conv) {
                        continue;
                    }
                    let [channels, ..] = self.shape::<4>(&conv)?;
                    levels.resize_with(levels.len().max(stage_idx + 1), Vec::new);
                    levels[stage_idx]
                        .push(Block { channels, transformer: format!("{path}.attentions.{idx}") });
                }
            }
        }
        Ok(levels)
    }

    fn attends(&self, transformer: &str) -> bool {
        self.has(&format!("{transformer}.proj_in.weight"))
    }

    /// Transformer blocks.
    fn depth(&self, transformer: &str) -> usize {
        let has =
            |idx: &usize| self.has(&format!("{transformer}.transformer_blocks.{idx}.attn1.to_q.weight"));
        (0..MAX_BLOCKS).take_while(has).count()
    }

    fn added(&self, pooled_dim: Option<usize>) -> Result<Option<TextTimeConfig>, ConfigError> {
        let name = self.either("add_embedding.linear_1.weight", "label_emb.0.0.weight");
        if !self.has(name) {
            return Ok(None);
        }
        let [_, input_dim] = self.shape::<2>(name)?;
        let n_sizes = MicroConditioning::LEN;
        let (pooled_dim, size_dim) = match pooled_dim {
            Some(pooled_dim) => (pooled_dim, input_dim.saturating_sub(pooled_dim) / n_sizes),
            None => (input_dim.saturating_sub(n_sizes * SIZE_DIM), SIZE_DIM),
        };
        Ok(Some(TextTimeConfig { pooled_dim, size_dim }))
    }

    fn hint(&self) -> Result<HintConfig, ConfigError> {
        let diffusers = "controlnet_cond_embedding";
        let first = match self.naming {
            Naming::Diffusers => format!("{diffusers}.conv_in.weight"),
            Naming::Original => "input_hint_block.0.weight".to_owned(),
        };
        let [first_channels, in_channels, ..] = self.shape::<4>(&first)?;
        let mut channels = vec![first_channels];
        // Every second convolution makes a level of more channels; the last one of all is of another kind.
        for idx in (1..MAX_BLOCKS).step_by(2) {
            let name = match self.naming {
                Naming::Diffusers => format!("{diffusers}.blocks.{idx}.weight"),
                Naming::Original => format!("input_hint_block.{}.weight", 2 * (idx + 1)),
            };
            if !self.has(&name) {
                break;
            }
            let [level_channels, ..] = self.shape::<4>(&name)?;
            channels.push(level_channels);
        }
        Ok(HintConfig { in_channels, channels })
    }
}
