"""AutoencoderKL: encoder, decoder, moments, a draw and the decoded image; tiles of a larger one; old names of weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL

import case
from goldens_unet import config_of, randomise

SD1_LIKE = dict(
    block_out_channels=(4, 8, 12, 12),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    norm_num_groups=2,
)
NO_QUANT_ODD = dict(
    block_out_channels=(6, 12),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    layers_per_block=1,
    norm_num_groups=3,
    latent_channels=3,
    use_quant_conv=False,
    use_post_quant_conv=False,
    scaling_factor=0.13025,
)
NO_ATTENTION = dict(
    block_out_channels=(4, 4, 8),
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    norm_num_groups=4,
    mid_block_add_attention=False,
)
# name -> (config, image height and width, batch, height and width of an image in tiles of 32 pixels)
SHAPES = {
    "sd1-like": (SD1_LIKE, (32, 24), 2, (56, 80)),
    "no-quant-odd": (NO_QUANT_ODD, (15, 10), 1, (42, 28)),
    "no-attention": (NO_ATTENTION, (12, 16), 3, (44, 52)),
}
LEGACY_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def with_legacy_names(weights: dict) -> dict:
    """The names that files had before the attention layers were renamed, its weights kept as 1x1 convolutions."""
    renamed = {}
    for name, tensor in weights.items():
        for new, old in LEGACY_NAMES.items():
            if f".{new}." in name:
                name = name.replace(f".{new}.", f".{old}.")
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        renamed[name] = tensor
    return renamed


def make(out: Path, seed: int) -> None:
    torch.set_num_threads(1)
    for idx, (name, (config, size, batch, tiled_size)) in enumerate(SHAPES.items()):
        torch.manual_seed(3000 * seed + idx)
        vae = AutoencoderKL(**config).eval()
        randomise(vae)
        image = 2 * torch.rand(batch, 3, *size) - 1
        with torch.no_grad():
            posterior = vae.encode(image).latent_dist
            noise = torch.randn_like(posterior.mean)
            sample = posterior.mean + posterior.std * noise
            expected = dict(
                encoder=vae.encoder(image),
                moments=torch.cat([posterior.mean, posterior.logvar], dim=1),
                sample=sample,
                latents=sample * vae.config.scaling_factor,
                decoder=vae.decoder(sample),
                decoded=vae.decode(sample).sample,
            )
        large = 2 * torch.rand(1, 3, *tiled_size) - 1
        latents = torch.randn_like(vae.encode(large).latent_dist.mean)
        vae.enable_tiling()
        with torch.no_grad():
            posterior = vae.encode(large).latent_dist
            moments = torch.cat([posterior.mean, posterior.logvar], dim=1)
            tiled = dict(image=large, moments=moments, sample=latents, decoded=vae.decode(latents).sample)
        vae.disable_tiling()
        files = dict(weights=vae.state_dict(), inputs=dict(image=image, noise=noise), expected=expected, tiled=tiled)
        if name == "no-quant-odd":
            files["legacy"] = with_legacy_names(vae.state_dict())
        case.write(out, "vae", name, {"legacy_names": "legacy" in files}, config=config_of(vae), **files)
