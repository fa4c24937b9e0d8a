use serde_json::json;

use super::*;
use crate::TransformerDepth;

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
fn the_published_sd21_config_is_the_sd21_preset() {
    let config = parse(json!({
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.10.0.dev0", "act_fn": "silu",
        "attention_head_dim": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": false, "cross_attention_dim": 1024,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1, "dual_cross_attention": false, "flip_sin_to_cos": true, "freq_shift": 0,
        "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-5,
        "norm_num_groups": 32, "num_class_embeds": null, "only_cross_attention": false, "out_channels": 4,
        "sample_size": 96,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "upcast_attention": true, "use_linear_projection": true,
    }));
    assert_eq!(config.expect("a valid config"), UnetConfig::sd21());
}

#[test]
fn the_published_sdxl_config_is_the_sdxl_preset() {
    let published = r#"{
        "_class_name": "UNet2DConditionModel", "act_fn": "silu", "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64, "addition_time_embed_dim": 256, "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280], "center_input_sample": false, "class_embed_type": null,
        "class_embeddings_concat": false, "conv_in_kernel": 3, "conv_out_kernel": 3, "cross_attention_dim": 2048,
        "cross_attention_norm": null,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1, "dual_cross_attention": false, "encoder_hid_dim": null,
        "encoder_hid_dim_type": null, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4,
        "layers_per_block": 2, "mid_block_only_cross_attention": null, "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-5, "norm_num_groups": 32,
        "num_attention_heads": null, "num_class_embeds": null, "only_cross_attention": false, "out_channels": 4,
        "projection_class_embeddings_input_dim": 2816, "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": false,
        "resnet_time_scale_shift": "default", "sample_size": 128, "time_cond_proj_dim": null,
        "time_embedding_act_fn": null, "time_embedding_dim": null, "time_embedding_type": "positional",
        "timestep_post_act": null, "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "upcast_attention": null,
        "use_linear_projection": true
    }"#;
    let config = parse(serde_json::from_str(published).expect("json"));
    assert_eq!(config.expect("a valid config"), UnetConfig::sdxl());
}

#[test]
fn each_transformer_may_have_its_own_depth() {
    let uneven = json!({
        "block_out_channels": [32, 64, 96], "attention_head_dim": 4, "mid_block_type": "UNetMidBlock2D",
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [0, [2, 2], [4, 3]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    });
    let config = parse(uneven).expect("a valid config");
    let expected = TransformerDepth::Each { down: vec![4, 3], up: vec![4, 4, 10] };
    assert_eq!((config.mid, &config.stages[2].depth), (StageKind::Plain, &expected));
    assert_eq!(UnetConfig::try_from(UnetJson::from(&config)).expect("our own config"), config);

    let json =
        serde_json::to_value(ControlNetJson::from(&ControlNetConfig::for_unet(&config))).expect("json");
    assert_eq!(json["transformer_layers_per_block"], json!([[0, 0], [2, 2], [4, 3]]));
    let control: ControlNetJson = serde_json::from_value(json).expect("well-formed");
    let control = ControlNetConfig::try_from(control).expect("our own config");
    assert_eq!(control.unet.stages[2].depth.down(1), 3);
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
            json!({"addition_embed_type": "image"}),
            "`addition_embed_type` is image, but only null or text_time is supported",
        ),
        (
            json!({"addition_embed_type": "text_time", "addition_time_embed_dim": 8}),
            "`projection_class_embeddings_input_dim` is null, but only a number beside `addition_embed_type` is \
             supported",
        ),
        (
            json!({
                "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 48,
            }),
            "`projection_class_embeddings_input_dim` is 48, but only more than six `addition_time_embed_dim` is \
             supported",
        ),
        (
            json!({"mid_block_type": null}),
            "`mid_block_type` is null, but only UNetMidBlock2DCrossAttn or UNetMidBlock2D is supported",
        ),
        (
            json!({"transformer_layers_per_block": [[1, 1], 1, 1, 1]}),
            "`reverse_transformer_layers_per_block` is null, but only a list beside lists in \
             `transformer_layers_per_block` is supported",
        ),
        (
            json!({
                "transformer_layers_per_block": [[1, 1], 1, 1, 1],
                "reverse_transformer_layers_per_block": [1, 1, 1, [1, 1]],
            }),
            "`reverse_transformer_layers_per_block` has 2 entries for a level with 3 transformers",
        ),
        (json!({"mid_block_scale_factor": 2.0}), "`mid_block_scale_factor` is 2.0, but only 1 is supported"),
        (
            json!({"attention_head_dim": [5, 10]}),
            "`attention_head_dim` has 2 entries, but `block_out_channels` has 4",
        ),
        (
            json!({"attention_head_dim": 7}),
            "`attention_head_dim` is 7, which does not divide 320, one of `block_out_channels`",
        ),
        (json!({"block_out_channels": []}), "`block_out_channels` must not be empty"),
        (json!({"block_out_channels": vec![32; 65]}), "`block_out_channels` is 65, more than 64"),
        (json!({"layers_per_block": u64::MAX}), "`layers_per_block` is 18446744073709551615, more than 64"),
        (
            json!({"cross_attention_dim": 1_u64 << 40}),
            "`cross_attention_dim` is 1099511627776, more than 65536",
        ),
        (
            json!({"transformer_layers_per_block": [1, [1, 65], 1]}),
            "`transformer_layers_per_block` is 65, more than 64",
        ),
        (
            json!({"addition_time_embed_dim": u64::MAX}),
            "`addition_time_embed_dim` is 18446744073709551615, more than 65536",
        ),
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
        parse(json!({"mid_block_scale_factor": 1.0, "dropout": 0.0, "resnet_out_scale_factor": 1})).is_ok()
    );
}
