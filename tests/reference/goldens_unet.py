"""UNet2DConditionModel and ControlNetModel: outputs, gradients, and parameters after three optimizer steps."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel

import case

SD1_LIKE = dict(
    sample_size=8,
    block_out_channels=(8, 16, 16),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=2,
    attention_head_dim=2,
    cross_attention_dim=12,
    norm_num_groups=4,
)
LINEAR_ODD = dict(
    sample_size=7,
    block_out_channels=(8, 12, 16),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    attention_head_dim=(2, 3, 4),
    transformer_layers_per_block=(1, 2, 1),
    cross_attention_dim=10,
    norm_num_groups=2,
    use_linear_projection=True,
)
SD2_LIKE = dict(
    sample_size=8,
    block_out_channels=(4, 8, 8),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    attention_head_dim=(1, 2, 4),
    cross_attention_dim=12,
    norm_num_groups=2,
    use_linear_projection=True,
    upcast_attention=True,
)
# Pooled prompt embeddings of 10 features, six numbers of 8 features each.
TEXT_TIME = dict(
    addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=10 + 6 * 8
)
SDXL_LIKE = dict(
    sample_size=8,
    block_out_channels=(4, 8, 8),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=(1, 2, 4),
    transformer_layers_per_block=(1, 2, 3),
    cross_attention_dim=20,
    norm_num_groups=2,
    use_linear_projection=True,
    **TEXT_TIME,
)
# A distilled SDXL: each transformer of its own depth, some empty, and a middle block without any.
SDXL_UNEVEN = SDXL_LIKE | dict(
    layers_per_block=2,
    mid_block_type="UNetMidBlock2D",
    transformer_layers_per_block=[0, [1, 0], [1, 2]],
    reverse_transformer_layers_per_block=[[2, 1, 0], [0, 1, 1], 1],
)
# name -> (UNet config, hint channels, latent height and width, batch, extra ControlNet settings)
SHAPES = {
    "sd1-like": (SD1_LIKE, (4, 6, 8), (8, 8), 2, {}),
    "linear-odd": (LINEAR_ODD, (4, 8), (7, 5), 3, {"controlnet_conditioning_channel_order": "bgr"}),
    "sd2-like": (SD2_LIKE, (4, 6, 8), (8, 6), 2, {}),
    "sdxl-like": (SDXL_LIKE, (4, 6, 8), (6, 8), 2, {}),
    "sdxl-uneven": (SDXL_UNEVEN, (4, 6), (8, 8), 1, {}),
}


def randomise(model: torch.nn.Module) -> None:
    """Moves every parameter off its initial value, so that norms and zero convolutions count too."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def added_conditioning(config: dict, batch: int) -> dict:
    """What SDXL is told beside the prompt; nothing for other models."""
    if "addition_embed_type" not in config:
        return {}
    pooled_dim = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    time_ids = torch.randint(0, 1500, (batch, 6)).float()
    return dict(text_embeds=torch.randn(batch, pooled_dim), time_ids=time_ids)


def config_of(model) -> dict:
    return json.loads(model.to_json_string())


def make(out: Path, seed: int) -> None:
    torch.set_num_threads(1)
    for idx, (name, (config, hint_channels, size, batch, extra)) in enumerate(SHAPES.items()):
        torch.manual_seed(1000 * seed + idx)
        unet = UNet2DConditionModel(**config).eval()
        randomise(unet)
        controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint_channels)
        controlnet.register_to_config(**extra)
        randomise(controlnet)

        # Training changes the parameters in place.
        controlnet_before = {key: value.clone() for key, value in controlnet.state_dict().items()}

        scale = 2 ** (len(hint_channels) - 1)
        noisy_latents = torch.randn(batch, 4, *size)
        timesteps = torch.randint(0, 1000, (batch,))
        context = torch.randn(batch, 6, config["cross_attention_dim"])
        hint = torch.rand(batch, 3, scale * size[0], scale * size[1])
        inputs = dict(noisy_latents=noisy_latents, timesteps=timesteps.float(), context=context, hint=hint)
        added = added_conditioning(config, batch)

        expected = {}
        with torch.no_grad():
            expected["uncontrolled"] = unet(noisy_latents, timesteps, context, added_cond_kwargs=added).sample
            for mode, guess in (("balanced", False), ("guess", True)):
                down, mid = controlnet(
                    noisy_latents,
                    timesteps,
                    context,
                    hint,
                    conditioning_scale=0.7,
                    guess_mode=guess,
                    added_cond_kwargs=added,
                    return_dict=False,
                )
                expected |= {f"{mode}.down.{i}": residual for i, residual in enumerate(down)} | {f"{mode}.mid": mid}
                expected[f"{mode}.controlled"] = unet(
                    noisy_latents,
                    timesteps,
                    context,
                    added_cond_kwargs=added,
                    down_block_additional_residuals=down,
                    mid_block_additional_residual=mid,
                ).sample
            controlnet.register_to_config(global_pool_conditions=True)
            down, mid = controlnet(
                noisy_latents,
                timesteps,
                context,
                hint,
                guess_mode=True,
                added_cond_kwargs=added,
                return_dict=False,
            )
            expected |= {f"pooled.down.{i}": residual for i, residual in enumerate(down)} | {"pooled.mid": mid}
            controlnet.register_to_config(global_pool_conditions=False)

        case.write(
            out,
            "controlnet",
            name,
            {"conditioning_scale": 0.7},
            unet_config=config_of(unet),
            unet=unet.state_dict(),
            controlnet_config=config_of(controlnet),
            controlnet=controlnet_before,
            inputs=inputs | added,
            expected=expected,
            **blocks(unet, noisy_latents, timesteps, context, added),
            **training(unet, controlnet, inputs, added),
        )


def blocks(unet, noisy_latents, timesteps, context, added) -> dict:
    """What each block of the encoder and the middle returns, so that a difference is found where it begins."""
    found = {}

    def keep(name):
        def hook(_module, _inputs, output):
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [unet.conv_in.register_forward_hook(keep("skip.0")), unet.mid_block.register_forward_hook(keep("mid"))]
    skip = 1
    for block in unet.down_blocks:
        last_of_layer = getattr(block, "attentions", None) or block.resnets
        for module in [*last_of_layer, *(block.downsamplers or [])]:
            handles.append(module.register_forward_hook(keep(f"skip.{skip}")))
            skip += 1
    with torch.no_grad():
        unet(noisy_latents, timesteps, context, added_cond_kwargs=added)
    for handle in handles:
        handle.remove()
    return {"blocks": found}


def training(unet, controlnet, inputs, added) -> dict:
    """Loss and gradients, then three AdamW steps with clipping, the target drawn anew for each."""
    timesteps = inputs["timesteps"].long()
    targets = [torch.randn_like(inputs["noisy_latents"]) for _ in range(3)]
    optimizer = torch.optim.AdamW(controlnet.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    losses, norms, gradients = [], [], {}
    for target in targets:
        down, mid = controlnet(
            inputs["noisy_latents"],
            timesteps,
            inputs["context"],
            inputs["hint"],
            added_cond_kwargs=added,
            return_dict=False,
        )
        prediction = unet(
            inputs["noisy_latents"],
            timesteps,
            inputs["context"],
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample
        loss = F.mse_loss(prediction.float(), target.float(), reduction="mean")
        loss.backward()
        if not gradients:
            gradients = {name: parameter.grad.clone() for name, parameter in controlnet.named_parameters()}
        norms.append(torch.nn.utils.clip_grad_norm_(controlnet.parameters(), 0.05))
        losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
    return {
        "gradients": gradients,
        "after": controlnet.state_dict(),
        "training": {"targets": torch.stack(targets), "losses": torch.stack(losses), "norms": torch.stack(norms)},
    }
