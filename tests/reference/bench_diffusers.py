"""The training step of diffusers' `train_controlnet.py` on a random full-size Stable Diffusion 1.5, timed by phase.

Run by `cargo xtask bench --vs-diffusers`; prints one line of JSON, with the keys of `pyrograph bench --json` where they
mean the same.
"""

import argparse
import json
import os
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="auto: cuda where PyTorch finds it")
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "auto"], default="no", help="auto: bf16 on cuda")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile of UNet and ControlNet")
    return parser.parse_args()


def random_models():
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
        )
    )
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    return vae, text_encoder, unet, ControlNetModel.from_unet(unet)


class Stopwatch:
    def __init__(self, device):
        self.device = device
        self.seconds = {}
        self.since = time.perf_counter()

    def lap(self, phase):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.since
        self.since = now

    def take(self):
        seconds, self.seconds = self.seconds, {}
        return seconds


def main():
    args = parse_args()
    torch.manual_seed(0)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(args.device)
    if args.mixed_precision == "auto":
        args.mixed_precision = "bf16" if device.type == "cuda" else "no"
    dtype = torch.bfloat16 if args.mixed_precision == "bf16" else torch.float32
    vae, text_encoder, unet, controlnet = random_models()
    for frozen in (vae, text_encoder, unet):
        frozen.requires_grad_(False).to(device, dtype)
    controlnet.train().to(device)
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        controlnet.enable_gradient_checkpointing()
    if device.type == "cuda":
        for model in (vae, unet, controlnet):
            model.to(memory_format=torch.channels_last)
    if args.compile:
        unet, controlnet = torch.compile(unet), torch.compile(controlnet)
    optimizer = torch.optim.AdamW(controlnet.parameters(), lr=5e-6, weight_decay=1e-2)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    side, batch_size = args.resolution, args.batch_size
    pixels = torch.rand(batch_size, 3, side, side, device=device) * 2 - 1
    hint = torch.rand(batch_size, 3, side, side, device=device)
    tokens = torch.randint(0, 49408, (batch_size, 77), device=device)
    watch = Stopwatch(device)

    def step():
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            latents = vae.encode(pixels.to(dtype)).latent_dist.sample() * vae.config.scaling_factor
            watch.lap("vae")
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, 1000, (batch_size,), device=device).long()
            noisy = scheduler.add_noise(latents.float(), noise.float(), timesteps).to(dtype)
            context = text_encoder(tokens, return_dict=False)[0]
            watch.lap("text")
            down, mid = controlnet(
                noisy, timesteps, encoder_hidden_states=context, controlnet_cond=hint.to(dtype), return_dict=False
            )
            watch.lap("controlnet")
            prediction = unet(
                noisy,
                timesteps,
                encoder_hidden_states=context,
                down_block_additional_residuals=[residual.to(dtype) for residual in down],
                mid_block_additional_residual=mid.to(dtype),
                return_dict=False,
            )[0]
            loss = F.mse_loss(prediction.float(), noise.float(), reduction="mean")
            watch.lap("unet")
        loss.backward()
        watch.lap("backward")
        torch.nn.utils.clip_grad_norm_(controlnet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watch.lap("optimizer")
        return watch.take()

    first_step = step()
    step()  # The first that needs memory beside the optimizer's.
    steps = [step() for _ in range(args.steps)]
    totals = [sum(phases.values()) for phases in steps]
    step_seconds = statistics.median(totals)
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} CPU cores",
                "precision": "f32" if dtype == torch.float32 else "bf16 autocast",
                "step_seconds": step_seconds,
                "images_per_second": batch_size / step_seconds,
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "device_bytes": torch.cuda.max_memory_reserved() if device.type == "cuda" else None,
                "phases": {phase: statistics.median(step[phase] for step in steps) for phase in first_step},
                "first_step": first_step,
                "steps": totals,
            }
        )
    )


if __name__ == "__main__":
    main()
