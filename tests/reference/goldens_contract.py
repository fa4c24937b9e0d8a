"""Names and shapes of the full-size models of Stable Diffusion 1.5 and of ControlNet, from shapes alone."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import case
from goldens_unet import config_of


def make(out: Path, seed: int) -> None:
    clip_l = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        controlnet = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
        text_encoder = CLIPTextModelWithProjection(clip_l)
    models = {
        "unet-sd15": (unet, config_of(unet)),
        "controlnet-sd15": (controlnet, config_of(controlnet)),
        "vae-sd15": (vae, config_of(vae)),
        "clip-l": (text_encoder, clip_l.to_dict()),
    }
    for name, (model, config) in models.items():
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        # In transformers 5 only the model with a projection has the names of the published files; else it is the same.
        shapes.pop("text_projection.weight", None)
        case.write(out, "contract", name, shapes, config=config)
