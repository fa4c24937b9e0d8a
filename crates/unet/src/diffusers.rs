//! Diffusers' `config.json` of UNets and ControlNets: the mirrors, and the only ways in and out of the typed
//! configs.

mod lists;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::lists::{PerStage, TransformerLayers};
use crate::error::ConfigError;
use crate::{
    ChannelOrder, ControlNetConfig, HintConfig, MicroConditioning, Pooling, Projection, Stage, StageKind,
    TextTimeConfig, TimeConfig, UnetConfig,
};

/// The keys that a UNet and its ControlNet share: those of the encoder half.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are documented by diffusers")]
pub struct EncoderJson {
    pub in_channels: usize,
    pub down_block_types: Vec<String>,
    pub mid_block_type: Option<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: PerStage<usize>,
    pub transformer_layers_per_block: TransformerLayers,
    pub attention_head_dim: PerStage<usize>,
    pub cross_attention_dim: PerStage<usize>,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub use_linear_projection: bool,
    pub addition_embed_type: Option<String>,
    pub addition_time_embed_dim: Option<usize>,
    pub projection_class_embeddings_input_dim: Option<usize>,
    pub upcast_attention: Option<bool>,
}

impl Default for EncoderJson {
    fn default() -> Self {
        let cross_attention = "CrossAttnDownBlock2D";
        Self {
            in_channels: 4,
            down_block_types: [cross_attention, cross_attention, cross_attention, "DownBlock2D"]
                .map(str::to_owned)
                .to_vec(),
            mid_block_type: Some(MID_CROSS_ATTENTION.to_owned()),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerStage::All(2),
            transformer_layers_per_block: TransformerLayers::All(1),
            attention_head_dim: PerStage::All(8),
            cross_attention_dim: PerStage::All(1280),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            use_linear_projection: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            upcast_attention: Some(false),
        }
    }
}

const MID_CROSS_ATTENTION: &str = "UNetMidBlock2DCrossAttn";
const MID_PLAIN: &str = "UNetMidBlock2D";
const TEXT_TIME: &str = "text_time";

/// `unet/config.json`, spelt as diffusers does.
///
/// Keys that must have one certain value are checked in `other`, see [`UnetConfig::try_from`].
///
/// Source: diffusers `UNet2DConditionModel` (0.42).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are documented by diffusers")]
pub struct UnetJson {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub sample_size: Option<usize>,
    pub out_channels: usize,
    pub up_block_types: Vec<String>,
    pub reverse_transformer_layers_per_block: Option<Vec<PerStage<usize>>>,
    pub time_cond_proj_dim: Option<usize>,
    #[serde(flatten)]
    pub encoder: EncoderJson,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for UnetJson {
    fn default() -> Self {
        let encoder = EncoderJson::default();
        Self {
            class_name: "UNet2DConditionModel".to_owned(),
            sample_size: None,
            out_channels: 4,
            up_block_types: mirrored(&encoder.down_block_types),
            reverse_transformer_layers_per_block: None,
            time_cond_proj_dim: None,
            encoder,
            other: Map::new(),
        }
    }
}

/// A ControlNet's `config.json`, spelt as diffusers does.
///
/// Source: diffusers `ControlNetModel` (0.42).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are documented by diffusers")]
pub struct ControlNetJson {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub conditioning_channels: usize,
    pub controlnet_conditioning_channel_order: String,
    pub conditioning_embedding_out_channels: Vec<usize>,
    pub global_pool_conditions: bool,
    #[serde(flatten)]
    pub encoder: EncoderJson,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for ControlNetJson {
    fn default() -> Self {
        Self {
            class_name: "ControlNetModel".to_owned(),
            conditioning_channels: 3,
            controlnet_conditioning_channel_order: "rgb".to_owned(),
            conditioning_embedding_out_channels: vec![16, 32, 96, 256],
            global_pool_conditions: false,
            encoder: EncoderJson::default(),
            other: Map::new(),
        }
    }
}

/// The names of the up blocks of a UNet whose halves mirror each other.
fn mirrored(down_block_types: &[String]) -> Vec<String> {
    down_block_types.iter().rev().map(|down| down.replace("Down", "Up")).collect()
}

/// Keys of both models that must have one of these values, given as JSON, if they are there.
const FIXED: &[(&str, &str)] = &[
    ("center_input_sample", "false"),
    ("only_cross_attention", "false"),
    ("downsample_padding", "1"),
    ("mid_block_scale_factor", "1"),
    ("dropout", "0"),
    ("act_fn", "\"silu\""),
    ("encoder_hid_dim", "null"),
    ("encoder_hid_dim_type", "null"),
    ("num_attention_heads", "null"),
    ("dual_cross_attention", "false"),
    ("class_embed_type", "null"),
    ("num_class_embeds", "null"),
    ("resnet_time_scale_shift", "\"default\""),
    ("resnet_skip_time_act", "false"),
    ("resnet_out_scale_factor", "1"),
    ("time_embedding_type", "\"positional\""),
    ("time_embedding_dim", "null"),
    ("time_embedding_act_fn", "null"),
    ("timestep_post_act", "null"),
    ("time_cond_proj_dim", "null"), // of a ControlNet
    ("conv_in_kernel", "3"),
    ("conv_out_kernel", "3"),
    ("attention_type", "\"default\""),
    ("class_embeddings_concat", "false"),
    ("mid_block_only_cross_attention", "null or false"),
    ("cross_attention_norm", "null"),
];

fn check_fixed(other: &Map<String, Value>) -> Result<(), ConfigError> {
    for &(key, supported) in FIXED {
        let Some(value) = other.get(key) else { continue };
        // Diffusers writes the same number as `1` or `1.0`.
        let found = match value.as_f64() {
            Some(number) => number.to_string(),
            None => value.to_string(),
        };
        if !supported.split(" or ").any(|one| one == found) {
            return Err(ConfigError::Unsupported { key, found: value.to_string(), supported });
        }
    }
    Ok(())
}

/// Channels, and widths of embeddings. The largest of SDXL's is 2,816.
const MAX_WIDTH: usize = 1 << 16;

/// Levels, residual blocks of a level, blocks of a transformer. The largest of SDXL's is 10.
const MAX_BLOCKS: usize = 64;

fn at_most(
    max: usize,
    key: &'static str,
    numbers: impl IntoIterator<Item = usize>,
) -> Result<(), ConfigError> {
    match numbers.into_iter().find(|found| *found > max) {
        Some(found) => Err(ConfigError::TooLarge { key, found, max }),
        None => Ok(()),
    }
}

impl EncoderJson {
    fn check_sizes(&self) -> Result<(), ConfigError> {
        let channels = &self.block_out_channels;
        at_most(MAX_BLOCKS, "block_out_channels", [channels.len()])?;
        at_most(MAX_BLOCKS, "layers_per_block", self.layers_per_block.numbers())?;
        at_most(MAX_BLOCKS, TransformerLayers::KEY, self.transformer_layers_per_block.numbers())?;
        at_most(MAX_WIDTH, "block_out_channels", channels.iter().copied())?;
        at_most(MAX_WIDTH, "in_channels", [self.in_channels])?;
        at_most(MAX_WIDTH, "cross_attention_dim", self.cross_attention_dim.numbers())?;
        at_most(MAX_WIDTH, "addition_time_embed_dim", self.addition_time_embed_dim)?;
        let key = "projection_class_embeddings_input_dim";
        at_most(MAX_WIDTH, key, self.projection_class_embeddings_input_dim)
    }

    fn stages(&self, up_layers: Option<&[PerStage<usize>]>) -> Result<Vec<Stage>, ConfigError> {
        let n_stages = self.block_out_channels.len();
        if n_stages == 0 {
            return Err(ConfigError::Empty { key: "block_out_channels", found: "empty" });
        }
        if self.down_block_types.len() != n_stages {
            let found = self.down_block_types.len();
            return Err(ConfigError::UnequalLengths { key: "down_block_types", expected: n_stages, found });
        }
        let n_resnets = self.layers_per_block.expand("layers_per_block", n_stages)?;
        let mut depths = self.transformer_layers_per_block.depths(&n_resnets, up_layers)?.into_iter();
        let n_heads = self.attention_head_dim.expand("attention_head_dim", n_stages)?;
        let mut stages = Vec::with_capacity(n_stages);
        for (idx, block_type) in self.down_block_types.iter().enumerate() {
            let kind = match block_type.as_str() {
                "DownBlock2D" => StageKind::Plain,
                "CrossAttnDownBlock2D" => StageKind::CrossAttention,
                other => {
                    return Err(ConfigError::Unsupported {
                        key: "down_block_types",
                        found: other.to_owned(),
                        supported: "DownBlock2D or CrossAttnDownBlock2D",
                    });
                }
            };
            let channels = self.block_out_channels[idx];
            let attends = kind == StageKind::CrossAttention || idx + 1 == n_stages;
            let heads = if attends { n_heads[idx] } else { 1 };
            for (key, divisor) in [("norm_num_groups", self.norm_num_groups), ("attention_head_dim", heads)] {
                if divisor == 0 {
                    return Err(ConfigError::Empty { key, found: "zero" });
                }
                if channels == 0 || !channels.is_multiple_of(divisor) {
                    return Err(ConfigError::DoesNotDivide { key, divisor, value: channels });
                }
            }
            if n_resnets[idx] == 0 {
                return Err(ConfigError::Empty { key: "layers_per_block", found: "zero" });
            }
            stages.push(Stage {
                kind,
                channels,
                n_resnets: n_resnets[idx],
                depth: depths.next().expect("one for each stage"),
                n_heads: n_heads[idx],
            });
        }
        Ok(stages)
    }

    fn mid(&self) -> Result<StageKind, ConfigError> {
        match self.mid_block_type.as_deref() {
            Some(MID_CROSS_ATTENTION) => Ok(StageKind::CrossAttention),
            Some(MID_PLAIN) => Ok(StageKind::Plain),
            other => Err(ConfigError::Unsupported {
                key: "mid_block_type",
                found: other.unwrap_or("null").to_owned(),
                supported: "UNetMidBlock2DCrossAttn or UNetMidBlock2D",
            }),
        }
    }

    fn added(&self) -> Result<Option<TextTimeConfig>, ConfigError> {
        let unsupported = |key, found: String, supported| ConfigError::Unsupported { key, found, supported };
        match self.addition_embed_type.as_deref() {
            None => return Ok(None),
            Some(TEXT_TIME) => (),
            Some(other) => {
                return Err(unsupported("addition_embed_type", other.to_owned(), "null or text_time"));
            }
        }
        let number = |key, value: Option<usize>| match value {
            Some(value) if value > 0 => Ok(value),
            Some(_) => Err(ConfigError::Empty { key, found: "zero" }),
            None => Err(unsupported(key, "null".to_owned(), "a number beside `addition_embed_type`")),
        };
        let size_dim = number("addition_time_embed_dim", self.addition_time_embed_dim)?;
        let key = "projection_class_embeddings_input_dim";
        let input_dim = number(key, self.projection_class_embeddings_input_dim)?;
        let pooled_dim = input_dim.checked_sub(MicroConditioning::LEN * size_dim).filter(|dim| *dim > 0);
        let too_small = || unsupported(key, input_dim.to_string(), "more than six `addition_time_embed_dim`");
        Ok(Some(TextTimeConfig { pooled_dim: pooled_dim.ok_or_else(too_small)?, size_dim }))
    }

    fn context_dim(&self) -> Result<usize, ConfigError> {
        let each = self.cross_attention_dim.expand("cross_attention_dim", self.block_out_channels.len())?;
        match PerStage::collapse(each.into_iter()) {
            PerStage::All(dim) => Ok(dim),
            PerStage::Each(dims) => Err(ConfigError::Unsupported {
                key: "cross_attention_dim",
                found: format!("{dims:?}"),
                supported: "one width for all levels",
            }),
        }
    }
}

impl UnetConfig {
    /// The encoder half, with an output of as many channels as the input and no size.
    fn from_encoder(json: &EncoderJson, up_layers: Option<&[PerStage<usize>]>) -> Result<Self, ConfigError> {
        json.check_sizes()?;
        if let Some(up_layers) = up_layers {
            at_most(
                MAX_BLOCKS,
                TransformerLayers::REVERSE_KEY,
                up_layers.iter().flat_map(PerStage::numbers),
            )?;
        }
        Ok(Self {
            in_channels: json.in_channels,
            out_channels: json.in_channels,
            sample_size: None,
            stages: json.stages(up_layers)?,
            mid: json.mid()?,
            context_dim: json.context_dim()?,
            norm_groups: json.norm_num_groups,
            norm_eps: json.norm_eps,
            projection: if json.use_linear_projection { Projection::Linear } else { Projection::Convolution },
            time: TimeConfig { flip_sin_to_cos: json.flip_sin_to_cos, freq_shift: json.freq_shift },
            added: json.added()?,
            guidance_dim: None,
            upcast_attention: json.upcast_attention.unwrap_or(false),
        })
    }
}

impl TryFrom<UnetJson> for UnetConfig {
    type Error = ConfigError;

    /// # Errors
    /// [`ConfigError`] if lists have unequal lengths, numbers do not divide, or a feature is not supported.
    fn try_from(json: UnetJson) -> Result<Self, ConfigError> {
        check_fixed(&json.other)?;
        at_most(MAX_WIDTH, "out_channels", [json.out_channels])?;
        at_most(MAX_WIDTH, "time_cond_proj_dim", json.time_cond_proj_dim)?;
        let encoder =
            Self::from_encoder(&json.encoder, json.reverse_transformer_layers_per_block.as_deref())?;
        if json.up_block_types != mirrored(&json.encoder.down_block_types) {
            return Err(ConfigError::Unsupported {
                key: "up_block_types",
                found: format!("{:?}", json.up_block_types),
                supported: "the mirror image of `down_block_types`",
            });
        }
        Ok(Self {
            out_channels: json.out_channels,
            sample_size: json.sample_size,
            guidance_dim: json.time_cond_proj_dim,
            ..encoder
        })
    }
}

impl TryFrom<ControlNetJson> for ControlNetConfig {
    type Error = ConfigError;

    /// # Errors
    /// [`ConfigError`] if lists have unequal lengths, numbers do not divide, or a feature is not supported.
    fn try_from(json: ControlNetJson) -> Result<Self, ConfigError> {
        check_fixed(&json.other)?;
        if json.conditioning_embedding_out_channels.is_empty() {
            return Err(ConfigError::Empty { key: "conditioning_embedding_out_channels", found: "empty" });
        }
        let hint_channels = &json.conditioning_embedding_out_channels;
        at_most(MAX_BLOCKS, "conditioning_embedding_out_channels", [hint_channels.len()])?;
        at_most(MAX_WIDTH, "conditioning_embedding_out_channels", hint_channels.iter().copied())?;
        at_most(MAX_WIDTH, "conditioning_channels", [json.conditioning_channels])?;
        // A ControlNet has no way up, so any numbers do where the way down has a list.
        let n_stages = json.encoder.block_out_channels.len();
        let up_layers = match json.encoder.transformer_layers_per_block {
            TransformerLayers::Each(ref down)
                if down.iter().any(|each| matches!(each, PerStage::Each(_))) =>
            {
                Some(vec![PerStage::All(0); n_stages])
            }
            _ => None,
        };
        Ok(Self {
            unet: UnetConfig::from_encoder(&json.encoder, up_layers.as_deref())?,
            hint: HintConfig {
                in_channels: json.conditioning_channels,
                channels: json.conditioning_embedding_out_channels,
            },
            channel_order: match json.controlnet_conditioning_channel_order.as_str() {
                "rgb" => ChannelOrder::Rgb,
                "bgr" => ChannelOrder::Bgr,
                other => {
                    return Err(ConfigError::Unsupported {
                        key: "controlnet_conditioning_channel_order",
                        found: other.to_owned(),
                        supported: "rgb or bgr",
                    });
                }
            },
            pooling: if json.global_pool_conditions { Pooling::Global } else { Pooling::None },
        })
    }
}

impl From<&UnetConfig> for EncoderJson {
    fn from(config: &UnetConfig) -> Self {
        let stages = &config.stages;
        let block_type = |stage: &Stage| match stage.kind {
            StageKind::Plain => "DownBlock2D".to_owned(),
            StageKind::CrossAttention => "CrossAttnDownBlock2D".to_owned(),
        };
        let mid_block_type = match config.mid {
            StageKind::Plain => MID_PLAIN,
            StageKind::CrossAttention => MID_CROSS_ATTENTION,
        };
        Self {
            in_channels: config.in_channels,
            down_block_types: stages.iter().map(block_type).collect(),
            block_out_channels: stages.iter().map(|stage| stage.channels).collect(),
            layers_per_block: PerStage::collapse(stages.iter().map(|stage| stage.n_resnets)),
            mid_block_type: Some(mid_block_type.to_owned()),
            transformer_layers_per_block: TransformerLayers::down(stages),
            attention_head_dim: PerStage::collapse(stages.iter().map(|stage| stage.n_heads)),
            cross_attention_dim: PerStage::All(config.context_dim),
            norm_num_groups: config.norm_groups,
            norm_eps: config.norm_eps,
            flip_sin_to_cos: config.time.flip_sin_to_cos,
            freq_shift: config.time.freq_shift,
            use_linear_projection: config.projection == Projection::Linear,
            addition_embed_type: config.added.map(|_| TEXT_TIME.to_owned()),
            addition_time_embed_dim: config.added.map(|added| added.size_dim),
            projection_class_embeddings_input_dim: config.added.map(|added| added.input_dim()),
            upcast_attention: Some(config.upcast_attention),
        }
    }
}

impl From<&UnetConfig> for UnetJson {
    fn from(config: &UnetConfig) -> Self {
        let encoder = EncoderJson::from(config);
        Self {
            sample_size: config.sample_size,
            out_channels: config.out_channels,
            up_block_types: mirrored(&encoder.down_block_types),
            reverse_transformer_layers_per_block: TransformerLayers::up(&config.stages),
            time_cond_proj_dim: config.guidance_dim,
            encoder,
            ..Self::default()
        }
    }
}

impl From<&ControlNetConfig> for ControlNetJson {
    fn from(config: &ControlNetConfig) -> Self {
        Self {
            conditioning_channels: config.hint.in_channels,
            controlnet_conditioning_channel_order: match config.channel_order {
                ChannelOrder::Rgb => "rgb".to_owned(),
                ChannelOrder::Bgr => "bgr".to_owned(),
            },
            conditioning_embedding_out_channels: config.hint.channels.clone(),
            global_pool_conditions: config.pooling == Pooling::Global,
            encoder: EncoderJson::from(&config.unet),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
