//! Transformers' `text_encoder/config.json`: the mirror, and the only way in and out of the typed config.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::TextError;
use crate::{Activation, ClipTextConfig, TextProjection};

const MODEL_TYPE: &str = "clip_text_model";
const PLAIN: &str = "CLIPTextModel";
const WITH_PROJECTION: &str = "CLIPTextModelWithProjection";

/// `text_encoder/config.json`, spelt as transformers does.
///
/// Source: transformers `CLIPTextConfig` (5.23).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are documented by transformers")]
pub struct ClipTextJson {
    pub architectures: Option<Vec<String>>,
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub projection_dim: Option<usize>,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: String,
    pub layer_norm_eps: f64,
    pub pad_token_id: Option<u32>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for ClipTextJson {
    fn default() -> Self {
        Self {
            architectures: Some(vec![PLAIN.to_owned()]),
            model_type: MODEL_TYPE.to_owned(),
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: Some(512),
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            pad_token_id: Some(1),
            bos_token_id: Some(49406),
            eos_token_id: Some(49407),
            other: Map::new(),
        }
    }
}

/// Of a vocabulary, and of a prompt. OpenCLIP's bigG has 49,408 and 77.
const MAX_TOKENS: usize = 1 << 24;

/// Of hidden states. OpenCLIP's bigG has 5,120.
const MAX_WIDTH: usize = 1 << 16;

/// OpenCLIP's bigG has 32.
const MAX_LAYERS: usize = 1 << 10;

impl TryFrom<ClipTextJson> for ClipTextConfig {
    type Error = TextError;

    /// # Errors
    /// [`TextError`] if a count is zero, the heads do not divide the width, or a feature is not supported.
    fn try_from(json: ClipTextJson) -> Result<Self, TextError> {
        let unsupported =
            |key, found: &str, supported| TextError::Unsupported { key, found: found.to_owned(), supported };
        if json.model_type != MODEL_TYPE {
            return Err(unsupported("model_type", &json.model_type, MODEL_TYPE));
        }
        if json.other.get("use_attention_mask").is_some_and(|value| value == &Value::Bool(true)) {
            return Err(unsupported("use_attention_mask", "true", "false"));
        }
        let activation = match json.hidden_act.as_str() {
            "quick_gelu" => Activation::QuickGelu,
            "gelu" => Activation::Gelu,
            other => return Err(unsupported("hidden_act", other, "quick_gelu or gelu")),
        };
        for (key, count, max) in [
            ("vocab_size", json.vocab_size, MAX_TOKENS),
            ("hidden_size", json.hidden_size, MAX_WIDTH),
            ("intermediate_size", json.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", json.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", json.num_attention_heads, MAX_WIDTH),
            ("max_position_embeddings", json.max_position_embeddings, MAX_TOKENS),
            ("projection_dim", json.projection_dim.unwrap_or(1), MAX_WIDTH),
        ] {
            match count {
                0 => return Err(TextError::Zero { key }),
                found if found > max => return Err(TextError::TooLarge { key, found, max }),
                _ => (),
            }
        }
        let (d_model, n_heads) = (json.hidden_size, json.num_attention_heads);
        if d_model % n_heads != 0 {
            return Err(TextError::HeadsDoNotDivide { n_heads, d_model });
        }
        let has_projection = json.architectures.iter().flatten().any(|class| class == WITH_PROJECTION);
        let projection = match (has_projection, json.projection_dim) {
            (false, width) => TextProjection::Absent(width),
            (true, Some(width)) => TextProjection::To(width),
            (true, None) => return Err(unsupported("projection_dim", "null", "a number")),
        };
        Ok(Self {
            vocab_size: json.vocab_size,
            max_tokens: json.max_position_embeddings,
            d_model,
            d_ff: json.intermediate_size,
            n_layers: json.num_hidden_layers,
            n_heads,
            activation,
            layer_norm_eps: json.layer_norm_eps,
            projection,
            bos_token_id: json.bos_token_id,
            eos_token_id: json.eos_token_id,
            pad_token_id: json.pad_token_id,
        })
    }
}

impl From<&ClipTextConfig> for ClipTextJson {
    fn from(config: &ClipTextConfig) -> Self {
        let (class, projection_dim) = match config.projection {
            TextProjection::Absent(width) => (PLAIN, width),
            TextProjection::To(width) => (WITH_PROJECTION, Some(width)),
        };
        Self {
            architectures: Some(vec![class.to_owned()]),
            vocab_size: config.vocab_size,
            hidden_size: config.d_model,
            intermediate_size: config.d_ff,
            projection_dim,
            num_hidden_layers: config.n_layers,
            num_attention_heads: config.n_heads,
            max_position_embeddings: config.max_tokens,
            hidden_act: match config.activation {
                Activation::QuickGelu => "quick_gelu".to_owned(),
                Activation::Gelu => "gelu".to_owned(),
            },
            layer_norm_eps: config.layer_norm_eps,
            pad_token_id: config.pad_token_id,
            bos_token_id: config.bos_token_id,
            eos_token_id: config.eos_token_id,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(json: Value) -> Result<ClipTextConfig, TextError> {
        ClipTextConfig::try_from(serde_json::from_value::<ClipTextJson>(json).expect("well-formed"))
    }

    #[test]
    fn the_published_sd15_config_is_the_clip_l_preset() {
        let published = json!({
            "_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPTextModel"],
            "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu",
            "hidden_size": 768, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072,
            "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model",
            "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768,
            "torch_dtype": "float32", "transformers_version": "4.22.0.dev0", "vocab_size": 49408,
        });
        assert_eq!(parse(published).unwrap(), ClipTextConfig::clip_l());
    }

    #[test]
    fn the_published_sd21_config_is_the_open_clip_h_preset() {
        let published = json!({
            "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0,
            "eos_token_id": 2, "hidden_act": "gelu", "hidden_size": 1024, "initializer_factor": 1.0,
            "initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 16,
            "num_hidden_layers": 23, "pad_token_id": 1, "projection_dim": 512, "torch_dtype": "float32",
            "transformers_version": "4.25.0.dev0", "vocab_size": 49408,
        });
        assert_eq!(parse(published).unwrap(), ClipTextConfig::open_clip_h());
    }

    #[test]
    fn the_published_config_of_sdxls_second_encoder_is_the_open_clip_big_g_preset() {
        let published = json!({
            "architectures": ["CLIPTextModelWithProjection"], "attention_dropout": 0.0, "bos_token_id": 0,
            "dropout": 0.0, "eos_token_id": 2, "hidden_act": "gelu", "hidden_size": 1280, "initializer_factor": 1.0,
            "initializer_range": 0.02, "intermediate_size": 5120, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 20,
            "num_hidden_layers": 32, "pad_token_id": 1, "projection_dim": 1280, "torch_dtype": "float16",
            "transformers_version": "4.32.0.dev0", "vocab_size": 49408,
        });
        assert_eq!(parse(published).unwrap(), ClipTextConfig::open_clip_big_g());
    }

    #[test]
    fn a_config_survives_the_way_out_and_in() {
        let config =
            ClipTextConfig { activation: Activation::Gelu, pad_token_id: None, ..ClipTextConfig::clip_l() };
        for config in [config, ClipTextConfig::open_clip_big_g()] {
            assert_eq!(ClipTextConfig::try_from(ClipTextJson::from(&config)).unwrap(), config);
        }
    }

    #[test]
    fn what_is_not_supported_is_named_with_its_value() {
        for (json, message) in [
            (json!({"model_type": "t5"}), "`model_type` is t5"),
            (json!({"hidden_act": "relu"}), "`hidden_act` is relu"),
            (json!({"use_attention_mask": true}), "`use_attention_mask` is true"),
            (
                json!({"architectures": ["CLIPTextModelWithProjection"], "projection_dim": null}),
                "`projection_dim` is null",
            ),
            (json!({"num_hidden_layers": 0}), "`num_hidden_layers` must not be zero"),
            (json!({"num_hidden_layers": 1025}), "`num_hidden_layers` is 1025, more than 1024"),
            (json!({"hidden_size": 1_u64 << 40}), "`hidden_size` is 1099511627776, more than 65536"),
            (json!({"num_attention_heads": 7}), "`num_attention_heads` is 7, which does not divide"),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
