"""Times the loading of a full-size Stable Diffusion 1.5 from f16 safetensors, ours and diffusers', in turns.

Run by `cargo xtask bench --load`. The weights are random; both sides convert them to f32. Each time is that of the loading alone, in
a process of its own, from files that are in the system's cache.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyrograph", type=Path, help="the program to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base", type=Path, help="a folder to load, instead of a random one")
    parser.add_argument("--theirs", type=Path, help="load this folder, and stop")
    return parser.parse_args()


def load(folder):
    import torch
    from diffusers import StableDiffusionPipeline

    start = time.perf_counter()
    StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    print(f"loaded in {time.perf_counter() - start:.2f} s", flush=True)


def make_base(folder):
    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    from bench_diffusers import random_models
    from goldens_pipeline import SD15_SCHEDULER, tokenizer

    torch.manual_seed(0)
    vae, text_encoder, unet, _ = random_models()
    with tempfile.TemporaryDirectory() as name:
        clip_tokenizer = tokenizer(Path(name))
    clip_tokenizer.model_max_length = 77
    parts = dict(vae=vae.half(), text_encoder=text_encoder.half(), tokenizer=clip_tokenizer, unet=unet.half())
    parts |= dict(scheduler=PNDMScheduler(**SD15_SCHEDULER), safety_checker=None, feature_extractor=None)
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)


def seconds_to_load(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(re.search(r"loaded in ([\d.]+) s", done.stdout + done.stderr).group(1))


def measure(base, args):
    with tempfile.TemporaryDirectory() as name:
        ours = [str(args.pyrograph), "generate", "--base", str(base), "--prompt", "a cat", "--num-inference-steps=1"]
        ours += ["--width=64", "--height=64", "--output", f"{name}/picture.png"]
        theirs = [sys.executable, __file__, "--theirs", str(base)]
        seconds_to_load(ours)
        rounds = [(seconds_to_load(ours), seconds_to_load(theirs)) for _ in range(args.rounds)]
    ratios = [ours / theirs for ours, theirs in rounds]
    medians = [statistics.median(side) for side in zip(*rounds)]
    print("| | Pyrograph [s] | diffusers [s] | ratio | least | greatest |\n|" + "---|" * 6)
    print(
        f"| Stable Diffusion 1.5 from f16 files to f32 | {medians[0]:.1f} | {medians[1]:.1f} | "
        f"**{statistics.median(ratios):.2f}** | {min(ratios):.2f} | {max(ratios):.2f} |"
    )


def main():
    args = parse_args()
    if args.theirs:
        load(args.theirs)
    elif args.base:
        measure(args.base, args)
    else:
        with tempfile.TemporaryDirectory() as name:
            make_base(Path(name))
            measure(Path(name), args)


if __name__ == "__main__":
    main()
