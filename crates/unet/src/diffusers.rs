//! Diffusers' `config.json` of UNets and ControlNets: the mirrors, and the only ways in and out of the typed
//! configs.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::ConfigError;
use crate::{
    ChannelOrder, ControlNetConfig, HintConfig, Pooling, Projection, Stage, StageKind, TimeConfig, UnetConfig,
};

/// A value for all levels or one for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerStage<T> {
    /// The same everywhere.
    All(T),
    /// Finest level first.
    Each(Vec<T>),
}

impl<T: Copy + PartialEq> PerStage<T> {
    fn expand(&self, key: &'static str, n_stages: usize) -> Result<Vec<T>, ConfigError> {
        match self {
            Self::All(value) => Ok(vec![*value; n_stages]),
            Self::Each(values) if values.len() == n_stages => Ok(values.clone()),
            Self::Each(values) => {
                Err(ConfigError::UnequalLengths { key, expected: n_stages, found: values.len() })
            }
        }
    }

    fn collapse(values: impl Iterator<Item = T>) -> Self {
        let values: Vec<T> = values.collect();
        match values.split_first() {
            Some((first, rest)) if rest.iter().all(|value| value == first) => Self::All(*first),
            _ => Self::Each(values),
        }
    }
}

/// The keys that a UNet and its ControlNet share: those of the encoder half.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are documented by diffusers")]
pub struct EncoderJson {
    pub in_channels: usize,
    pub down_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: PerStage<usize>,
    pub transformer_layers_per_block: PerStage<usize>,
    pub attention_head_dim: PerStage<usize>,
    pub cross_attention_dim: PerStage<usize>,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub use_linear_projection: bool,
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
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerStage::All(2),
            transformer_layers_per_block: PerStage::All(1),
            attention_head_dim: PerStage::All(8),
            cross_attention_dim: PerStage::All(1280),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            use_linear_projection: false,
            upcast_attention: Some(false),
        }
    }
}

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
    ("mid_block_type", "\"UNetMidBlock2DCrossAttn\""),
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
    ("addition_embed_type", "null"),
    ("reverse_transformer_layers_per_block", "null"),
    ("resnet_time_scale_shift", "\"default\""),
    ("resnet_skip_time_act", "false"),
    ("resnet_out_scale_factor", "1"),
    ("time_embedding_type", "\"positional\""),
    ("time_embedding_dim", "null"),
    ("time_embedding_act_fn", "null"),
    ("timestep_post_act", "null"),
    ("time_cond_proj_dim", "null"),
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

impl EncoderJson {
    fn stages(&self) -> Result<Vec<Stage>, ConfigError> {
        let n_stages = self.block_out_channels.len();
        if n_stages == 0 {
            return Err(ConfigError::Empty { key: "block_out_channels", found: "empty" });
        }
        if self.down_block_types.len() != n_stages {
            let found = self.down_block_types.len();
            return Err(ConfigError::UnequalLengths { key: "down_block_types", expected: n_stages, found });
        }
        let n_resnets = self.layers_per_block.expand("layers_per_block", n_stages)?;
        let n_blocks = self.transformer_layers_per_block.expand("transformer_layers_per_block", n_stages)?;
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
                n_transformer_blocks: n_blocks[idx],
                n_heads: n_heads[idx],
            });
        }
        Ok(stages)
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
    fn from_encoder(json: &EncoderJson) -> Result<Self, ConfigError> {
        Ok(Self {
            in_channels: json.in_channels,
            out_channels: json.in_channels,
            sample_size: None,
            stages: json.stages()?,
            context_dim: json.context_dim()?,
            norm_groups: json.norm_num_groups,
            norm_eps: json.norm_eps,
            projection: if json.use_linear_projection { Projection::Linear } else { Projection::Convolution },
            time: TimeConfig { flip_sin_to_cos: json.flip_sin_to_cos, freq_shift: json.freq_shift },
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
        let encoder = Self::from_encoder(&json.encoder)?;
        if json.up_block_types != mirrored(&json.encoder.down_block_types) {
            return Err(ConfigError::Unsupported {
                key: "up_block_types",
                found: format!("{:?}", json.up_block_types),
                supported: "the mirror image of `down_block_types`",
            });
        }
        Ok(Self { out_channels: json.out_channels, sample_size: json.sample_size, ..encoder })
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
        Ok(Self {
            unet: UnetConfig::from_encoder(&json.encoder)?,
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
        Self {
            in_channels: config.in_channels,
            down_block_types: stages.iter().map(block_type).collect(),
            block_out_channels: stages.iter().map(|stage| stage.channels).collect(),
            layers_per_block: PerStage::collapse(stages.iter().map(|stage| stage.n_resnets)),
            transformer_layers_per_block: PerStage::collapse(
                stages.iter().map(|stage| stage.n_transformer_blocks),
            ),
            attention_head_dim: PerStage::collapse(stages.iter().map(|stage| stage.n_heads)),
            cross_attention_dim: PerStage::All(config.context_dim),
            norm_num_groups: config.norm_groups,
            norm_eps: config.norm_eps,
            flip_sin_to_cos: config.time.flip_sin_to_cos,
            freq_shift: config.time.freq_shift,
            use_linear_projection: config.projection == Projection::Linear,
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
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(json: Value) -> Result<UnetConfig, ConfigError> {
        UnetConfig::try_from(serde_json::from_value::<UnetJson>(json).expect("well-formed"))
    }

    #[test]
    fn the_published_sd15_config_is_the_sd15_preset() {
        let config = parse(json!({
            "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu",
            "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false,
            "cross_attention_dim": 768,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
            "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        }));
        assert_eq!(config.expect("a valid config"), UnetConfig::sd15());
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let mut config = UnetConfig::sd15();
        config.projection = Projection::Linear;
        config.stages[1].n_heads = 10;
        let json = UnetJson::from(&config);
        assert_eq!(json.encoder.attention_head_dim, PerStage::Each(vec![8, 10, 8, 8]));
        assert_eq!(UnetConfig::try_from(json).expect("our own config"), config);

        let mut control = ControlNetConfig::for_unet(&config);
        control.unet.sample_size = None;
        control.pooling = Pooling::Global;
        let read = ControlNetConfig::try_from(ControlNetJson::from(&control)).expect("our own config");
        assert_eq!(read, control);
    }

    #[test]
    fn unsupported_values_are_named() {
        let cases = [
            (
                json!({"addition_embed_type": "text_time"}),
                "`addition_embed_type` is \"text_time\", but only null is supported",
            ),
            (
                json!({"mid_block_scale_factor": 2.0}),
                "`mid_block_scale_factor` is 2.0, but only 1 is supported",
            ),
            (
                json!({"attention_head_dim": [5, 10]}),
                "`attention_head_dim` has 2 entries, but `block_out_channels` has 4",
            ),
            (
                json!({"attention_head_dim": 7}),
                "`attention_head_dim` is 7, which does not divide 320, one of `block_out_channels`",
            ),
            (json!({"block_out_channels": []}), "`block_out_channels` must not be empty"),
            (
                json!({"down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"]}),
                "`down_block_types` is AttnDownBlock2D, but only DownBlock2D or CrossAttnDownBlock2D is supported",
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(parse(json).expect_err("unsupported").to_string(), expected);
        }
    }

    #[test]
    fn one_and_one_point_zero_are_the_same_number() {
        assert!(
            parse(json!({"mid_block_scale_factor": 1.0, "dropout": 0.0, "resnet_out_scale_factor": 1}))
                .is_ok()
        );
    }
}
