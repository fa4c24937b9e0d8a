"""Names and shapes of the full-size Stable Diffusion 1.5 UNet and ControlNet, from shapes alone."""

from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

import case
from goldens_unet import config_of


def make(out: Path, seed: int) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        controlnet = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    for name, model in (("unet-sd15", unet), ("controlnet-sd15", controlnet)):
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        case.write(out, "contract", name, shapes, config=config_of(model))
