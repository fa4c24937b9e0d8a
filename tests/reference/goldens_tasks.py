"""Image-to-image, inpainting, several ControlNets and what else the ControlNet pipelines can do, with StableDiffusion{,XL}ControlNet*Pipeline."""

from pathlib import Path
from unittest.mock import patch

import diffusers
import torch
from diffusers import EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from PIL import Image

import case
from goldens_pipeline import (
    HEIGHT,
    SD15_SCHEDULER,
    SDXL_SCHEDULER,
    WIDTH,
    control_net,
    models,
    picture,
    save_base,
)
from goldens_unet import SD1_LIKE, SDXL_LIKE, randomise

SAMPLERS = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "lcm": diffusers.LCMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "dpmpp-2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}
PIPELINES = {
    ("sd1-like", "noise"): diffusers.StableDiffusionControlNetPipeline,
    ("sd1-like", "images"): diffusers.StableDiffusionControlNetImg2ImgPipeline,
    ("sd1-like", "masked"): diffusers.StableDiffusionControlNetInpaintPipeline,
    ("sdxl-like", "noise"): diffusers.StableDiffusionXLControlNetPipeline,
    ("sdxl-like", "images"): diffusers.StableDiffusionXLControlNetImg2ImgPipeline,
    ("sdxl-like", "masked"): diffusers.StableDiffusionXLControlNetInpaintPipeline,
}


def control(net: int = 0, scale: float = 1.0, start: float = 0.0, end: float = 1.0) -> dict:
    return dict(net=net, scale=scale, start=start, end=end)


def run(name: str, sampler: str, controls: list[dict] = [control()], **settings) -> dict:
    defaults = dict(task="noise", strength=1.0, steps=5, guidance_scale=4.0, guess=False, unet="unet")
    defaults |= dict(prompts=["red circle"], negative_prompts=None, sizes=None, negative_sizes=None)
    defaults |= dict(timesteps=None, denoising=[0.0, 1.0])
    return defaults | dict(name=name, sampler=sampler, controls=controls) | settings


RUNS = [
    *(
        run(f"images-{sampler}-{strength}", sampler, task="images", strength=strength)
        for sampler, strength in [("ddim", 0.5), ("unipc", 0.8), ("heun", 0.6), ("pndm", 0.8), ("euler", 1.0), ("dpmpp-2m", 0.7)]
    ),
    *(
        run(f"masked-{sampler}-{strength}", sampler, task="masked", strength=strength)
        for sampler, strength in [("ddim", 0.6), ("unipc", 1.0), ("euler", 0.7), ("heun", 1.0)]
    ),
    run("told-ddim-1.0", "ddim", task="masked", unet="inpainting-unet"),
    run("told-unipc-0.7", "unipc", task="masked", strength=0.7, unet="inpainting-unet", guidance_scale=1.0),
    run("two", "unipc", [control(0, 0.7), control(1, 1.2)]),
    run("two-of-the-same-guess", "ddim", [control(1, 0.5), control(1, 0.6)], guess=True),
    run("window", "unipc", [control(0, 1.0, 0.2, 0.8)]),
    run("windows", "heun", [control(0, 2.0, 0.0, 0.3), control(1, 2.0, 0.5, 1.0)]),
    run("batch", "unipc", prompts=["red circle", "a Blue one"], negative_prompts=["cle", "red red"]),
    run("images-two", "unipc", [control(0, 0.7), control(1, 0.8, 0.0, 0.5)], task="images", strength=0.8),
    run("distilled-lcm", "lcm", unet="distilled-unet", steps=1, guidance_scale=8.0),
    run("distilled-euler", "euler", unet="distilled-unet", guidance_scale=1.5),
    *(run(f"timesteps-{sampler}", sampler, timesteps=[981, 700, 250, 3]) for sampler in ("euler", "dpmpp-2m", "heun")),
    run("masked-two-guess", "ddim", [control(0), control(1)], task="masked", guess=True),
]
XL_RUNS = [
    run("sizes", "euler", sizes=[[100, 200], [3, 4], [50, 60]]),
    run("negative-sizes", "euler", sizes=[[100, 200], [3, 4], [50, 60]], negative_sizes=[[10, 20], [0, 1], [30, 40]]),
    run("first-part-euler", "euler", steps=10, denoising=[0.0, 0.7]),
    run("second-part-euler", "euler", [], steps=10, denoising=[0.7, 1.0]),
    run("first-part-heun", "heun", steps=10, denoising=[0.0, 0.3]),
    run("second-part-heun", "heun", [], steps=10, denoising=[0.3, 1.0]),
]


def make(out: Path, seed: int) -> None:
    torch.set_num_threads(1)
    for idx, (name, config, scheduler_class, settings, runs) in enumerate(
        [
            ("sd1-like", SD1_LIKE | dict(block_out_channels=(4, 8, 8)), PNDMScheduler, SD15_SCHEDULER, RUNS),
            ("sdxl-like", SDXL_LIKE, EulerDiscreteScheduler, SDXL_SCHEDULER, RUNS + XL_RUNS),
        ]
    ):
        torch.manual_seed(9000 * seed + idx)
        make_case(out, name, config, scheduler_class, settings, runs)


def make_case(out: Path, name: str, config: dict, scheduler_class, scheduler_settings: dict, runs: list[dict]) -> None:
    parts = models(name, config)
    with torch.no_grad():
        # The VAE's encoder is sure of its latents, so that it does not matter what is drawn of them.
        parts["vae"].quant_conv.weight[4:] = 0
        parts["vae"].quant_conv.bias[4:] = -40
    nets = [control_net(parts["unet"]) for _ in range(2)]
    unets = {"unet": parts["unet"]}
    for kind, settings in (("inpainting-unet", dict(in_channels=9)), ("distilled-unet", dict(time_cond_proj_dim=6))):
        unets[kind] = UNet2DConditionModel(**config | settings).eval()
        randomise(unets[kind])

    folder = out / "tasks" / name
    parts = save_base(folder / "base", parts, scheduler_class, scheduler_settings)
    for idx, net in enumerate(nets):
        net.save_pretrained(folder / f"controlnet-{idx}")
    for kind in ("inpainting-unet", "distilled-unet"):
        unets[kind].save_pretrained(folder / kind)
    hints, image = [picture() for _ in nets], picture()
    mask = Image.new("L", (WIDTH, HEIGHT))
    mask.paste(255, (10, 5, 27, 30))
    files = {"hint-0": hints[0], "hint-1": hints[1], "image": image, "mask": mask}
    for stem, file in files.items():
        file.save(folder / f"{stem}.png")
    latents = torch.randn(2, 4, HEIGHT // 8, WIDTH // 8)

    expected = {}
    for settings in runs:
        chosen = parts | dict(unet=unets[settings["unet"]])
        picture_of = draw(name, chosen, nets, files, latents, settings)
        expected[settings["name"]] = torch.from_numpy(picture_of).permute(0, 3, 1, 2)
    case.write(out, "tasks", name, {"runs": runs}, latents={"latents": latents}, expected=expected)


def draw(name: str, parts: dict, nets: list, files: dict, latents: torch.Tensor, settings: dict):
    controls = settings["controls"]
    chosen = [nets[control["net"]] for control in controls]
    hints = [files[f"hint-{control['net']}"] for control in controls]
    one = len(controls) == 1
    if not controls:
        return draw_second_part(parts, latents, settings)
    pipeline_class = PIPELINES[name, settings["task"]]
    parts = dict(parts)
    pipe = pipeline_class(controlnet=chosen[0] if one else chosen, **parts)
    pipe.scheduler = SAMPLERS[settings["sampler"]].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    each = lambda key: controls[0][key] if one else [control[key] for control in controls]
    arguments = dict(
        negative_prompt=settings["negative_prompts"],
        num_inference_steps=settings["steps"],
        guidance_scale=settings["guidance_scale"],
        controlnet_conditioning_scale=each("scale"),
        control_guidance_start=each("start"),
        control_guidance_end=each("end"),
        guess_mode=settings["guess"],
        output_type="np",
    )
    if settings["timesteps"] is not None:
        arguments |= dict(timesteps=settings["timesteps"])
    if settings["denoising"][1] < 1:
        arguments |= dict(denoising_end=settings["denoising"][1])
    hint = hints[0] if one else hints
    if settings["task"] == "noise":
        arguments |= dict(image=hint)
    else:
        arguments |= dict(image=files["image"], control_image=hint, strength=settings["strength"])
    if settings["task"] == "masked":
        arguments |= dict(mask_image=files["mask"])
    for prefix, key in (("", "sizes"), ("negative_", "negative_sizes")):
        if settings[key] is not None:
            original, crop, target = (tuple(pair) for pair in settings[key])
            sizes = dict(original_size=original, crops_coords_top_left=crop, target_size=target)
            arguments |= {prefix + name: pair for name, pair in sizes.items()}

    prompts = settings["prompts"]
    noise = latents[: len(prompts)]
    with patch(f"{pipeline_class.__module__}.randn_tensor", lambda *_, **__: noise.clone()):
        return pipe(prompts if len(prompts) > 1 else prompts[0], **arguments).images


def draw_second_part(parts: dict, latents: torch.Tensor, settings: dict):
    """The second of two denoisers, which begins with noisy latents."""
    pipe = diffusers.StableDiffusionXLImg2ImgPipeline(**parts)
    pipe.scheduler = SAMPLERS[settings["sampler"]].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        settings["prompts"][0],
        image=latents[:1],
        num_inference_steps=settings["steps"],
        guidance_scale=settings["guidance_scale"],
        denoising_start=settings["denoising"][0],
        output_type="np",
    ).images
