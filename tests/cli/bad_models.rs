//! Base models, ControlNets and latents that cannot be used.

use std::collections::HashMap;
use std::fs;

use expect_test::{Expect, expect};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

use super::{Desk, TRAIN};

const GENERATE: &str = "generate --base=base --controlnet=controlnet --control_image=hint.png --prompt=red \
                        --num_inference_steps=2 --output=picture.png";
const UNET: &str = "base/unet/diffusion_pytorch_model.safetensors";

/// Asserts the message for training on a base that `spoil` has changed.
#[track_caller]
fn check_base(spoil: impl FnOnce(&Desk), message: Expect) {
    let desk = Desk::new();
    spoil(&desk);
    desk.refuses(&format!("{TRAIN} --train_data_dir=circles"), message);
}

/// Asserts the message for drawing with a folder that `spoil` has changed, with more flags.
#[track_caller]
fn check_generate(spoil: impl FnOnce(&Desk), flags: &str, message: Expect) {
    let desk = Desk::new();
    spoil(&desk);
    desk.refuses(&format!("{GENERATE} {flags}"), message);
}

/// Rewrites a safetensors file of f32 with some tensors renamed, and others flattened.
fn rewrite(desk: &Desk, file: &str, renamed: &[(&str, &str)], flattened: &[&str]) {
    let bytes = fs::read(desk.path(file)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().map(|(name, tensor)| {
        let shape = if flattened.contains(&name.as_str()) {
            vec![tensor.shape().iter().product()]
        } else {
            tensor.shape().to_vec()
        };
        let name = renamed.iter().find(|(from, _)| *from == name).map_or(name, |(_, to)| (*to).to_owned());
        (name, TensorView::new(tensor.dtype(), shape, tensor.data()).unwrap())
    });
    let tensors: HashMap<_, _> = tensors.collect();
    desk.write(file, serialize(&tensors, None).unwrap());
}

/// Writes a file with one tensor of zeros.
fn zeros(desk: &Desk, file: &str, name: &str, shape: &[usize]) {
    let data = vec![0; 4 * shape.iter().product::<usize>()];
    let tensor = TensorView::new(Dtype::F32, shape.to_vec(), &data).unwrap();
    desk.write(file, serialize([(name, tensor)], None).unwrap());
}

#[test]
fn missing_extra_and_misshapen_tensors_are_all_listed() {
    let spoil = |desk: &Desk| {
        rewrite(
            desk,
            UNET,
            &[("conv_in.bias", "conv_inn.bias"), ("conv_out.weight", "other")],
            &["conv_in.weight"],
        );
    };
    check_base(
        spoil,
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the UNet
              caused by: cannot load `base/unet`
              caused by: 2 tensors are missing, 2 are unused, 1 is wrongly shaped
                missing: conv_in.bias [8]   (found: conv_inn.bias)
                missing: conv_out.weight [4, 8, 3, 3]
                unused: conv_inn.bias [8]
                unused: other [4, 8, 3, 3]
                wrongly shaped: conv_in.weight [8, 4, 3, 3]   (found: [288])

            hint: by its names this file is a UNet; check that config.json belongs to it
        "#]],
    );
}

#[test]
fn a_truncated_file_of_weights_is_named() {
    check_base(
        |desk| desk.write(UNET, &fs::read(desk.path(UNET)).unwrap()[..1000]),
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the UNet
              caused by: cannot load `base/unet/diffusion_pytorch_model.safetensors`
              caused by: the header claims 54936 bytes, the file has 992 after the header length

            hint: the download or the copy was probably cut off; fetch the file again
        "#]],
    );
    check_base(
        |desk| desk.write(UNET, "version https://git-lfs.github.com/spec/v1\n"),
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the UNet
              caused by: cannot load `base/unet/diffusion_pytorch_model.safetensors`
              caused by: the file is a Git LFS pointer, its contents were not downloaded

            hint: run `git lfs pull` in the folder that the file came from
        "#]],
    );
    check_base(
        |desk| fs::remove_file(desk.path(UNET)).unwrap(),
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the UNet
              caused by: `base/unet` has no diffusion_pytorch_model.safetensors or model.safetensors; it has config.json

            hint: the download or the copy is incomplete; fetch the folder again
        "#]],
    );
}

#[test]
fn a_config_that_is_no_json_is_named() {
    check_base(
        |desk| desk.write("base/unet/config.json", "{"),
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the UNet
              caused by: cannot parse `base/unet/config.json`
              caused by: EOF while parsing an object at line 1 column 1

            hint: the download or the copy was probably cut off; fetch the file again
        "#]],
    );
}

#[test]
fn a_model_of_another_kind_is_no_base() {
    let desk = Desk::new();
    let check = |base: &str, message: Expect| {
        desk.refuses(
            &format!("train --train_data_dir=circles --pretrained_model_name_or_path={base}"),
            message,
        );
    };
    check(
        "controlnet",
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the base model
              caused by: `controlnet` is a ControlNet (ControlNetModel), not a StableDiffusionPipeline or StableDiffusionXLPipeline folder

            hint: a base model is a Stable Diffusion folder with `model_index.json`, as diffusers' `save_pretrained` writes it, or one file with UNet, VAE and text encoder
        "#]],
    );
    check(
        "base/unet",
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the base model
              caused by: `base/unet` is a bare model (UNet2DConditionModel), not a StableDiffusionPipeline or StableDiffusionXLPipeline folder

            hint: a base model is a Stable Diffusion folder with `model_index.json`, as diffusers' `save_pretrained` writes it, or one file with UNet, VAE and text encoder
        "#]],
    );
    check(
        UNET,
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the base model
              caused by: `base/unet/diffusion_pytorch_model.safetensors` is a UNet, not a Stable Diffusion model

            hint: a base model is a Stable Diffusion folder with `model_index.json`, as diffusers' `save_pretrained` writes it, or one file with UNet, VAE and text encoder
        "#]],
    );
    check(
        "circles",
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the base model
              caused by: `circles` is a folder without model_index.json or config.json, not a StableDiffusionPipeline or StableDiffusionXLPipeline folder

            hint: a base model is a Stable Diffusion folder with `model_index.json`, as diffusers' `save_pretrained` writes it, or one file with UNet, VAE and text encoder
        "#]],
    );
}

#[test]
fn a_model_of_another_kind_is_no_controlnet() {
    let desk = Desk::new();
    let generate = "generate --base=base --control_image=hint.png --prompt=red --output=picture.png";
    desk.refuses(
        &format!("{generate} --controlnet=base"),
        expect![[r#"
            error: cannot load the ControlNet
              caused by: `base` is a pipeline (StableDiffusionPipeline), not a ControlNetModel folder

            hint: a ControlNet is a folder with a `config.json` of `ControlNetModel` beside its weights, or a file with diffusers' names or the original ones
        "#]],
    );
    desk.refuses(
        &format!("{generate} --controlnet=base/unet"),
        expect![[r#"
            error: cannot load the ControlNet
              caused by: `base/unet` is a bare model (UNet2DConditionModel), not a ControlNetModel folder

            hint: a ControlNet is a folder with a `config.json` of `ControlNetModel` beside its weights, or a file with diffusers' names or the original ones
        "#]],
    );
    desk.refuses(
        &format!("{generate} --controlnet=base/vae/diffusion_pytorch_model.safetensors"),
        expect![[r#"
            error: cannot load the ControlNet
              caused by: `base/vae/diffusion_pytorch_model.safetensors` is an autoencoder (VAE), not a ControlNet

            hint: a ControlNet is a folder with a `config.json` of `ControlNetModel` beside its weights, or a file with diffusers' names or the original ones
        "#]],
    );
    // Without its config.json nothing tells how it is built.
    std::fs::copy(
        desk.path("controlnet/diffusion_pytorch_model.safetensors"),
        desk.path("alone.safetensors"),
    )
    .expect("copied");
    desk.refuses(
        &format!("{generate} --controlnet=alone.safetensors"),
        expect![[r#"
            error: cannot tell from its tensors how the ControlNet is built
              caused by: `norm_num_groups` is 32, which does not divide 8, one of `block_out_channels`

            hint: what shapes do not tell is taken to be as in Stable Diffusion 1.x, 2.x and XL; give the folder with the model's config.json
        "#]],
    );
    desk.refuses(
        &format!("{generate} --controlnet=nope"),
        expect![[r#"
            error: cannot load the ControlNet
              caused by: `nope` does not exist

            hint: check the path; it starts at the current folder
        "#]],
    );
}

#[test]
fn a_file_of_any_other_kind_is_called_what_it_is() {
    let desk = Desk::new();
    for (names, kind) in [
        (&["lllite_unet_input_blocks_4_1.down.0.weight"][..], "a ControlNet-LLLite"),
        (&["body.0.resnets.0.block1.weight"], "a T2I-Adapter"),
        (&["emb_params"], "a textual inversion"),
        (&["lora_unet_down_blocks_0.lora_down.weight"], "a LoRA"),
        (&["unet.down_blocks.0.attentions.0.processor.to_k_lora.down.weight"], "a LoRA"),
        (&["ip_adapter.1.to_k_ip.weight", "image_proj.proj.weight"], "an IP-Adapter"),
        (
            &["controlnet_cond_embedding.conv_in.weight", "task_embedding", "spatial_ch_projs.weight"],
            "a ControlNet-Union",
        ),
        (
            &["controlnet_cond_embedding.conv_in.weight", "control_to_base_for_conv_in.conv.weight"],
            "a ControlNet-XS",
        ),
        (&["input_blocks.0.0.weight", "out.2.weight"], "a UNet with the original names"),
        (&["encoder.down.0.block.0.conv1.weight"], "an autoencoder (VAE) with the original names"),
        (&["text_model.embeddings.token_embedding.weight"], "a CLIP text encoder"),
    ] {
        let data = [0; 4];
        let tensor = || TensorView::new(Dtype::F32, vec![1], &data).unwrap();
        let tensors = names.iter().map(|name| (*name, tensor()));
        desk.write("other.safetensors", serialize(tensors, None).unwrap());
        assert!(
            desk.done("inspect other.safetensors").starts_with(&format!("other.safetensors: {kind}")),
            "{kind}"
        );
        let as_controlnet = desk.run(&GENERATE.replace("=controlnet ", "=other.safetensors "));
        let expected = format!("`other.safetensors` is {kind}, not a ControlNet\n");
        assert!(as_controlnet.stderr.contains(&expected), "{}", as_controlnet.stderr);
        let as_base =
            desk.run(&format!("{TRAIN} --train_data_dir=circles").replace("=base ", "=other.safetensors "));
        let expected = format!("`other.safetensors` is {kind}, not a Stable Diffusion model\n");
        assert!(as_base.stderr.contains(&expected), "{}", as_base.stderr);
        assert_eq!((as_controlnet.code, as_base.code), (Some(2), Some(2)));
    }
}

#[test]
fn inspect_names_what_is_missing_and_what_is_left_over() {
    let desk = Desk::new();
    rewrite(&desk, UNET, &[("conv_in.bias", "conv_inn.bias")], &["conv_in.weight"]);
    let told = desk.done("inspect base");
    expect![[r#"
        base: a diffusers pipeline (StableDiffusionPipeline)
          tensors       710
          parameters    170739
          bytes         682956
          F32           710 tensors
          text_encoder  a CLIP text encoder, 8836 parameters
          unet          a UNet, 140540 parameters
          vae           an autoencoder (VAE), 21363 parameters
          UNet: 1 tensor is missing, 1 is unused, 1 is wrongly shaped
            missing: conv_in.bias
            unused: conv_inn.bias
            wrongly shaped: conv_in.weight
    "#]]
    .assert_eq(&told);
    let json: serde_json::Value = serde_json::from_str(&desk.done("inspect base --log-format json")).unwrap();
    let [unet] = json["differences"].as_array().unwrap().as_slice() else { panic!("{json}") };
    assert_eq!((&unet["component"], &unet["missing"][0]["name"]), (&"UNet".into(), &"conv_in.bias".into()));
    assert_eq!(unet["unused"][0]["name"], "conv_inn.bias");

    desk.set_json("base/unet/config.json", "layers_per_block", 0);
    let told = desk.done("inspect base");
    assert!(told.contains("cannot be loaded: "), "{told}");
}

#[test]
fn an_sdxl_base_needs_all_of_its_parts() {
    let is_sdxl = |desk: &Desk| {
        desk.set_json("base/model_index.json", "_class_name", "StableDiffusionXLPipeline");
    };
    check_base(
        is_sdxl,
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the second text encoder
              caused by: pipeline folder `base` has no component `text_encoder_2`; it has scheduler, text_encoder, tokenizer, unet, vae
        "#]],
    );
    let has_sizes = |desk: &Desk| desk.set_json("base/unet/config.json", "addition_embed_type", "text_time");
    check_base(
        has_sizes,
        expect![[r#"
            error: cannot use the model
              caused by: cannot build the UNet from its config.json
              caused by: `addition_time_embed_dim` is null, but only a number beside `addition_embed_type` is supported

            hint: this version trains and runs Stable Diffusion 1.x, 2.x and XL in diffusers' layout
        "#]],
    );
}

#[test]
fn another_vae_must_be_one_and_fit_the_base() {
    let desk = Desk::new();
    let check = |vae: &str, message: Expect| {
        let flag = format!("--pretrained_vae_model_name_or_path={vae}");
        desk.refuses(&format!("{TRAIN} --train_data_dir=circles {flag}"), message);
    };
    check(
        "stabilityai/sdxl-vae",
        expect![[r#"
            error: nothing is at `stabilityai/sdxl-vae` here, so it is taken for a name on the Hub
              caused by: `stabilityai/sdxl-vae` at `main` is not in the cache `DESK/caches/huggingface/hub`

            hint: HF_HUB_OFFLINE is set, so nothing is downloaded; unset it, or check HF_HOME and HF_HUB_CACHE
        "#]],
    );
    check(
        "controlnet",
        expect![[r#"
            error: cannot use the model
              caused by: cannot load the VAE
              caused by: `controlnet` is a ControlNet (ControlNetModel), not a AutoencoderKL folder

            hint: a VAE is a folder with a `config.json` of `AutoencoderKL` beside its weights, a file with the original names, or a model that has a VAE
        "#]],
    );
    super::copy(&desk.path("base/vae"), &desk.path("vae"));
    desk.set_json("vae/config.json", "latent_channels", 16);
    check(
        "vae",
        expect![[r#"
        error: cannot use the model
          caused by: the UNet and the VAE do not belong together: `latent channels` is 4 and 16

        hint: use the VAE that the base model was trained with, or a finetuned one of its family
    "#]],
    );
    desk.set_json("vae/config.json", "latent_channels", 4);
    desk.set_json("vae/config.json", "scaling_factor", 0.13025);
    check(
        "vae",
        expect![[r#"
        error: cannot use the model
          caused by: the base model and the VAE do not belong together: `scaling_factor` is 0.18215 and 0.13025

        hint: use a VAE for the base model's family: others scale their latents otherwise
    "#]],
    );
    super::copy(&desk.path("base/vae"), &desk.path("vae"));
    fs::remove_file(desk.path("vae/diffusion_pytorch_model.safetensors")).unwrap();
    check(
        "vae",
        expect![[r#"
        error: cannot use the model
          caused by: cannot load the VAE
          caused by: `vae` has no diffusion_pytorch_model.safetensors or model.safetensors; it has config.json

        hint: the download or the copy is incomplete; fetch the folder again
    "#]],
    );
}

#[test]
fn a_controlnet_of_another_base_is_refused() {
    let other = |desk: &Desk| {
        desk.done("init-base other");
        fs::remove_dir_all(desk.path("base")).unwrap();
        fs::rename(desk.path("other"), desk.path("base")).unwrap();
    };
    check_generate(
        other,
        "",
        expect![[r#"
            error: the UNet and the ControlNet do not belong together: `cross_attention_dim` is 64 and 12

            hint: use a ControlNet that was trained for this base model
        "#]],
    );
}

#[test]
fn a_controlnet_of_another_family_is_refused_before_its_weights_are_read() {
    let desk = Desk::new();
    desk.set_json("controlnet/config.json", "cross_attention_dim", 2048);
    fs::remove_file(desk.path("controlnet/diffusion_pytorch_model.safetensors")).unwrap();
    desk.refuses(
        &format!("{TRAIN} --train_data_dir=circles --controlnet_model_name_or_path=controlnet"),
        expect![[r#"
            error: cannot use the model
              caused by: this ControlNet is for SDXL: cross-attention 2048, the base has 12

            hint: use a ControlNet that was trained for this base model
        "#]],
    );
}

#[test]
fn latents_must_fit_the_hint() {
    check_generate(
        |desk| zeros(desk, "zeros", "latents", &[1, 4, 8, 8]),
        "--latents=zeros",
        expect![[r#"
            error: the latents have shape [1, 4, 8, 8], but these pictures need [1, 4, 4, 5]

            hint: latents are an eighth of the picture's height and width; omit them to draw them from the seed
        "#]],
    );
    check_generate(
        |desk| zeros(desk, "zeros", "latents", &[4, 4, 5]),
        "--latents=zeros",
        expect![[r#"
            error: `latents` in `zeros` has shape [4, 4, 5], expected [1, channels, height, width]

            hint: there are latents for each picture
        "#]],
    );
    check_generate(
        |desk| zeros(desk, "zeros", "noise", &[1, 4, 4, 5]),
        "--latents=zeros",
        expect![[r#"
            error: `zeros` has no tensor `latents`, it has noise
        "#]],
    );
    check_generate(
        |desk| desk.write("zeros", "zeros"),
        "--latents=zeros",
        expect![[r#"
            error: cannot load `zeros`
              caused by: the file has 5 bytes, a safetensors file has at least 8

            hint: the download or the copy was probably cut off; fetch the file again
        "#]],
    );
}

#[test]
fn a_scale_must_be_a_number() {
    check_generate(
        |_| {},
        "--guidance_scale=nan",
        expect![[r#"
            error: invalid value 'nan' for '--guidance-scale <G>': the number must be finite

            For more information, try '--help'.
        "#]],
    );
    check_generate(
        |_| {},
        "--scheduler=ddim --guidance_scale=-1 --controlnet_conditioning_scale=-inf",
        expect![[r#"
            error: invalid value '-inf' for '--controlnet-conditioning-scale <S>': the number must be finite

            For more information, try '--help'.
        "#]],
    );
}

#[test]
fn a_picture_needs_a_hint_and_a_place() {
    let line = |hint: &str, output: &str| {
        format!(
            "generate --base=base --controlnet=controlnet --prompt=red --control_image={hint} --output={output}"
        )
    };
    let desk = Desk::new();
    desk.refuses(
        &line("nope.png", "picture.png"),
        expect![[r#"
            error: cannot read `nope.png`
              caused by: No such file or directory (os error 2)

            hint: check the path; it starts at the current folder
        "#]],
    );
    desk.refuses(
        &line("base/model_index.json", "picture.png"),
        expect![[r#"
            error: cannot decode `base/model_index.json`
              caused by: The image format could not be determined

            hint: png, jpeg, webp, bmp, tiff and gif are read
        "#]],
    );
    desk.refuses(
        &line("hint.png", "nowhere/picture.png"),
        expect![[r#"
            error: cannot write `nowhere/picture.png`: there is no such folder

            hint: make the folder first
        "#]],
    );
}
