"""Times a picture of a random full-size Stable Diffusion 1.5 with a ControlNet, ours and diffusers', in turns, and compares the pictures.

Run by `cargo xtask bench --generate`. Both draw from the same latents. Two times are told: that of drawing alone (prompt, denoising, VAE),
and that of the whole command, which imports, loads 5.8 GB of weights, draws and writes the PNG.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT, NEGATIVE, SAMPLER = "red circle with blue background", "green", "unipc"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyrograph", type=Path, help="the program to measure")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--models", type=Path, help="keep the models in this folder, or use those that are there")
    parser.add_argument("--theirs", type=Path, help="make the models of this folder, or draw with them, and stop")
    return parser.parse_args()


def make_models(folder, resolution):
    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    from bench_diffusers import random_models
    from goldens_pipeline import SD15_SCHEDULER, tokenizer
    from safetensors.torch import save_file

    torch.manual_seed(0)
    vae, text_encoder, unet, controlnet = random_models()
    with tempfile.TemporaryDirectory() as name:
        clip_tokenizer = tokenizer(Path(name))
    clip_tokenizer.model_max_length = 77
    # A new ControlNet adds nothing.
    for conv in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(conv.weight, std=0.02)
    parts = dict(vae=vae, text_encoder=text_encoder, tokenizer=clip_tokenizer, unet=unet)
    parts |= dict(scheduler=PNDMScheduler(**SD15_SCHEDULER), safety_checker=None, feature_extractor=None)
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder / "base")
    controlnet.save_pretrained(folder / "controlnet")
    side = resolution // 8
    save_file({"latents": torch.randn(1, 4, side, side)}, folder / "latents.safetensors")


def draw(folder, args):
    import torch
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
    from PIL import Image
    from safetensors.torch import load_file

    controlnet = ControlNetModel.from_pretrained(folder / "controlnet")
    pipe = StableDiffusionControlNetPipeline.from_pretrained(folder / "base", controlnet=controlnet, safety_checker=None)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    start = time.perf_counter()
    picture = pipe(
        PROMPT,
        image=Image.open(folder / "hint.png"),
        negative_prompt=NEGATIVE,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        latents=load_file(folder / "latents.safetensors")["latents"],
    ).images[0]
    seconds = time.perf_counter() - start
    picture.save(folder / "theirs.png")
    print(json.dumps({"seconds": seconds, "threads": torch.get_num_threads()}))


def make_hint(path, side):
    from PIL import Image, ImageDraw

    hint = Image.new("RGB", (side, side))
    box = (side // 4, side // 4, side * 3 // 4, side * 3 // 4)
    ImageDraw.Draw(hint).ellipse(box, outline=(255, 255, 255), width=max(1, side // 128))
    hint.save(path)


def timed(command):
    """What a command says, on both streams, and how long it takes."""
    print("$", *command, file=sys.stderr)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout + done.stderr, seconds


def levels_apart(folder):
    import numpy as np
    from PIL import Image

    ours, theirs = (np.asarray(Image.open(folder / f"{name}.png"), dtype=int) for name in ("ours", "theirs"))
    apart = abs(ours - theirs)
    return apart.mean(), apart.max()


def measure(folder, args):
    settings = f"--num_inference_steps={args.steps} --guidance_scale={args.guidance_scale} --scheduler={SAMPLER}"
    files = {"base": "base", "controlnet": "controlnet", "control_image": "hint.png", "latents": "latents.safetensors", "output": "ours.png"}
    ours = [str(args.pyrograph), "generate", *(f"--{flag}={folder / file}" for flag, file in files.items())]
    ours += [f"--prompt={PROMPT}", f"--negative_prompt={NEGATIVE}", *settings.split()]
    theirs = [sys.executable, __file__, "--theirs", str(folder), "--steps", str(args.steps)]
    theirs += ["--guidance-scale", str(args.guidance_scale)]
    rounds = []
    for _ in range(args.rounds):
        said, whole = timed(ours)
        drawing = float(re.search(r"drawn in ([\d.]+) s", said).group(1))
        said, their_whole = timed(theirs)
        record = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
        rounds.append(((drawing, record["seconds"]), (whole, their_whole)))
        print(rounds[-1], file=sys.stderr)
    print(f"{args.resolution} px, {args.steps} steps of {SAMPLER}, guidance {args.guidance_scale}, {record['threads']} threads of PyTorch")
    print("| | ours [s] | diffusers [s] | ours / diffusers | least | greatest |\n|---|---|---|---|---|---|")
    for idx, what in enumerate(("drawing", "whole command")):
        ours, theirs = zip(*(pair[idx] for pair in rounds))
        ratios = [mine / other for mine, other in zip(ours, theirs)]
        medians = [statistics.median(values) for values in (ours, theirs)]
        print(f"| {what} | {medians[0]:.1f} | {medians[1]:.1f} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")
    mean, largest = levels_apart(folder)
    print(f"\nThe pictures differ by {mean:.4f} levels of 255 on average, {largest} at most.")


def main():
    args = parse_args()
    if args.theirs and (args.theirs / "controlnet").is_dir():
        draw(args.theirs, args)
    elif args.theirs:
        make_models(args.theirs, args.resolution)
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = args.models or Path(name)
            if not (folder / "controlnet").is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                timed([sys.executable, __file__, "--theirs", str(folder), "--resolution", str(args.resolution)])
            make_hint(folder / "hint.png", args.resolution)
            measure(folder, args)


if __name__ == "__main__":
    main()
