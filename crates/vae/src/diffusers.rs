//! Diffusers' `vae/config.json`: the mirror, and the only way in and out of the typed config.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::VaeConfig;
use crate::error::ConfigError;

const CLASS_NAME: &str = "AutoencoderKL";
const DOWN_BLOCK: &str = "DownEncoderBlock2D";
const UP_BLOCK: &str = "UpDecoderBlock2D";

/// `vae/config.json`, spelt as diffusers does.
///
/// Source: diffusers `AutoencoderKL` (0.42).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are documented by diffusers")]
pub struct VaeJson {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: String,
    pub latent_channels: usize,
    pub norm_num_groups: usize,
    pub sample_size: usize,
    pub scaling_factor: f64,
    pub shift_factor: Option<f64>,
    pub latents_mean: Option<Vec<f64>>,
    pub latents_std: Option<Vec<f64>>,
    pub force_upcast: bool,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for VaeJson {
    fn default() -> Self {
        Self {
            class_name: CLASS_NAME.to_owned(),
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DOWN_BLOCK.to_owned()],
            up_block_types: vec![UP_BLOCK.to_owned()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            other: Map::new(),
        }
    }
}

/// Channels of any kind. The largest of Stable Diffusion's is 512.
const MAX_WIDTH: usize = 1 << 16;

/// Levels, and residual blocks of a level.
const MAX_BLOCKS: usize = 64;

impl VaeJson {
    fn check_features(&self) -> Result<(), ConfigError> {
        let unsupported =
            |key, found: String, supported| Err(ConfigError::Unsupported { key, found, supported });
        if self.class_name != CLASS_NAME {
            return unsupported("_class_name", self.class_name.clone(), CLASS_NAME);
        }
        if !["silu", "swish"].contains(&self.act_fn.as_str()) {
            return unsupported("act_fn", self.act_fn.clone(), "silu");
        }
        if let Some(shift) = self.shift_factor {
            return unsupported("shift_factor", shift.to_string(), "null");
        }
        for (key, values) in [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)] {
            if let Some(values) = values {
                return unsupported(key, format!("{values:?}"), "null");
            }
        }
        Ok(())
    }

    fn check_levels(&self) -> Result<(), ConfigError> {
        let n_levels = self.block_out_channels.len();
        if n_levels == 0 {
            return Err(ConfigError::Empty { key: "block_out_channels", found: "empty" });
        }
        for (key, types, supported) in [
            ("down_block_types", &self.down_block_types, DOWN_BLOCK),
            ("up_block_types", &self.up_block_types, UP_BLOCK),
        ] {
            if types.len() != n_levels {
                return Err(ConfigError::UnequalLengths { key, expected: n_levels, found: types.len() });
            }
            if let Some(other) = types.iter().find(|block_type| *block_type != supported) {
                return Err(ConfigError::Unsupported { key, found: other.clone(), supported });
            }
        }
        for (key, count) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("layers_per_block", self.layers_per_block),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            if count == 0 {
                return Err(ConfigError::Empty { key, found: "zero" });
            }
        }
        for (key, counts, max) in [
            ("block_out_channels", &[n_levels] as &[usize], MAX_BLOCKS),
            ("layers_per_block", &[self.layers_per_block], MAX_BLOCKS),
            ("block_out_channels", &self.block_out_channels, MAX_WIDTH),
            ("in_channels", &[self.in_channels], MAX_WIDTH),
            ("out_channels", &[self.out_channels], MAX_WIDTH),
            ("latent_channels", &[self.latent_channels], MAX_WIDTH),
        ] {
            if let Some(&found) = counts.iter().find(|count| **count > max) {
                return Err(ConfigError::TooLarge { key, found, max });
            }
        }
        let groups = self.norm_num_groups;
        match self.block_out_channels.iter().find(|&&channels| channels == 0 || channels % groups != 0) {
            Some(&channels) => Err(ConfigError::GroupsDoNotDivide { groups, channels }),
            None => Ok(()),
        }
    }
}

impl TryFrom<VaeJson> for VaeConfig {
    type Error = ConfigError;

    /// # Errors
    /// [`ConfigError`] if lists have unequal lengths, groups do not divide channels, or a feature is not supported.
    fn try_from(json: VaeJson) -> Result<Self, ConfigError> {
        json.check_features()?;
        json.check_levels()?;
        Ok(Self {
            in_channels: json.in_channels,
            out_channels: json.out_channels,
            latent_channels: json.latent_channels,
            channels: json.block_out_channels,
            n_resnets: json.layers_per_block,
            norm_groups: json.norm_num_groups,
            mid_attention: json.mid_block_add_attention,
            quant_conv: json.use_quant_conv,
            post_quant_conv: json.use_post_quant_conv,
            scaling_factor: json.scaling_factor,
            sample_size: json.sample_size,
            force_upcast: json.force_upcast,
        })
    }
}

impl From<&VaeConfig> for VaeJson {
    fn from(config: &VaeConfig) -> Self {
        let n_levels = config.channels.len();
        Self {
            in_channels: config.in_channels,
            out_channels: config.out_channels,
            down_block_types: vec![DOWN_BLOCK.to_owned(); n_levels],
            up_block_types: vec![UP_BLOCK.to_owned(); n_levels],
            block_out_channels: config.channels.clone(),
            layers_per_block: config.n_resnets,
            latent_channels: config.latent_channels,
            norm_num_groups: config.norm_groups,
            sample_size: config.sample_size,
            scaling_factor: config.scaling_factor,
            force_upcast: config.force_upcast,
            use_quant_conv: config.quant_conv,
            use_post_quant_conv: config.post_quant_conv,
            mid_block_add_attention: config.mid_attention,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(json: Value) -> Result<VaeConfig, ConfigError> {
        VaeConfig::try_from(serde_json::from_value::<VaeJson>(json).expect("well-formed"))
    }

    #[test]
    fn the_published_sd15_config_is_the_sd15_preset() {
        // Published before `scaling_factor`, `force_upcast` and the `use_*` keys existed.
        let published = json!({
            "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512], "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
            "norm_num_groups": 32, "out_channels": 3, "sample_size": 512,
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
        });
        assert_eq!(parse(published).unwrap(), VaeConfig::sd15());
    }

    #[test]
    fn a_config_survives_the_way_out_and_in() {
        let config = VaeConfig { mid_attention: false, quant_conv: false, ..VaeConfig::sd15() };
        assert_eq!(VaeConfig::try_from(VaeJson::from(&config)).unwrap(), config);
    }

    #[test]
    fn what_is_not_supported_is_named_with_its_value() {
        for (json, message) in [
            (json!({"_class_name": "AutoencoderTiny"}), "`_class_name` is AutoencoderTiny"),
            (json!({"act_fn": "mish"}), "`act_fn` is mish"),
            (json!({"shift_factor": 0.1}), "`shift_factor` is 0.1"),
            (json!({"latents_mean": [0.5]}), "`latents_mean` is [0.5]"),
            (json!({"block_out_channels": []}), "`block_out_channels` must not be empty"),
            (
                json!({"block_out_channels": [1_u64 << 40]}),
                "`block_out_channels` is 1099511627776, more than 65536",
            ),
            (json!({"layers_per_block": 65}), "`layers_per_block` is 65, more than 64"),
            (json!({"block_out_channels": [32, 64]}), "`down_block_types` has 1 entries"),
            (json!({"up_block_types": ["AttnUpDecoderBlock2D"]}), "`up_block_types` is AttnUpDecoderBlock2D"),
            (json!({"block_out_channels": [48]}), "`norm_num_groups` is 32, which does not divide 48"),
            (json!({"layers_per_block": 0}), "`layers_per_block` must not be zero"),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
