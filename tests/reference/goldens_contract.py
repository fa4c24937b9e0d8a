"""Names and shapes of the full-size models of Stable Diffusion 1.5, 2.1 and XL and of their ControlNets, from shapes
alone."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import case
from goldens_unet import config_of


SD21 = dict(
    sample_size=96,
    cross_attention_dim=1024,
    attention_head_dim=(5, 10, 20, 20),
    use_linear_projection=True,
    upcast_attention=True,
)
SDXL = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
# The published ControlNets of fewer parameters: without transformer blocks, and without any attention.
MID = dict(transformer_layers_per_block=(0, 0, 1))
SMALL = dict(down_block_types=("DownBlock2D",) * 3, mid_block_type="UNetMidBlock2D")


def make(out: Path, seed: int) -> None:
    clip_l = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=0,
        eos_token_id=2,
    )
    open_clip_h = CLIPTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        projection_dim=512,
        bos_token_id=0,
        eos_token_id=2,
    )
    open_clip_big_g = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        hidden_act="gelu",
        projection_dim=1280,
        bos_token_id=0,
        eos_token_id=2,
        architectures=["CLIPTextModelWithProjection"],
    )
    controlnet_of = lambda unet: ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        controlnet = controlnet_of(unet)
        unet_21 = UNet2DConditionModel(**SD21)
        controlnet_21 = controlnet_of(unet_21)
        unet_xl = UNet2DConditionModel(**SDXL)
        controlnet_xl = controlnet_of(unet_xl)
        of_controlnet = {key: value for key, value in controlnet_xl.config.items() if not key.startswith("_")}
        controlnet_xl_mid = ControlNetModel(**of_controlnet | MID)
        controlnet_xl_small = ControlNetModel(**of_controlnet | SMALL)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
        text_encoder = CLIPTextModelWithProjection(clip_l)
        text_encoder_h = CLIPTextModelWithProjection(open_clip_h)
        text_encoder_big_g = CLIPTextModelWithProjection(open_clip_big_g)
    models = {
        "unet-sd15": (unet, config_of(unet)),
        "controlnet-sd15": (controlnet, config_of(controlnet)),
        "vae-sd15": (vae, config_of(vae)),
        "clip-l": (text_encoder, clip_l.to_dict()),
        "unet-sd21": (unet_21, config_of(unet_21)),
        "controlnet-sd21": (controlnet_21, config_of(controlnet_21)),
        "open-clip-h": (text_encoder_h, open_clip_h.to_dict()),
        "unet-sdxl": (unet_xl, config_of(unet_xl)),
        "controlnet-sdxl": (controlnet_xl, config_of(controlnet_xl)),
        "controlnet-sdxl-mid": (controlnet_xl_mid, config_of(controlnet_xl_mid)),
        "controlnet-sdxl-small": (controlnet_xl_small, config_of(controlnet_xl_small)),
        "open-clip-big-g": (text_encoder_big_g, open_clip_big_g.to_dict()),
    }
    for name, (model, config) in models.items():
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        # In transformers 5 only the model with a projection has the names of the published files; else it is the same.
        if "WithProjection" not in str(config.get("architectures")):
            shapes.pop("text_projection.weight", None)
        case.write(out, "contract", name, shapes, config=config)
