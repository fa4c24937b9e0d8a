"""Times from the command to the first training step, ours and diffusers', in turns, on the tiny base.

Run by `cargo xtask bench --startup`. Theirs imports what `examples/controlnet/train_controlnet.py` (diffusers 0.42) imports,
loads the same folder, prepares its data set and its accelerator as the script does, and makes one step; it is run once
before, so that its files are in the system's cache, as ours are.
"""

import argparse
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
    parser.add_argument("--theirs", type=Path, help="make their first step in this folder, and stop")
    return parser.parse_args()


def their_first_step(folder):
    # The script's imports.
    import accelerate
    import datasets
    import diffusers
    import torch
    import torch.nn.functional as F
    import transformers
    from torchvision import transforms

    base = str(folder / "base")
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=1, project_dir=str(folder / "theirs"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, subfolder="tokenizer", use_fast=False)
    scheduler = diffusers.DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    text_encoder = transformers.CLIPTextModel.from_pretrained(base, subfolder="text_encoder", dtype=torch.float32)
    vae = diffusers.AutoencoderKL.from_pretrained(base, subfolder="vae")
    unet = diffusers.UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    channels = {8: (16, 32, 96, 256), 4: (16, 32, 96), 2: (16, 32)}[factor]
    controlnet = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels)
    for frozen in (vae, unet, text_encoder):
        frozen.requires_grad_(False)
    controlnet.train()
    optimizer = torch.optim.AdamW(controlnet.parameters(), lr=5e-6)

    to_tensor = [transforms.Resize(128), transforms.CenterCrop(128), transforms.ToTensor()]
    image_transform = transforms.Compose([*to_tensor, transforms.Normalize([0.5], [0.5])])
    hint_transform = transforms.Compose(to_tensor)

    def preprocess(examples):
        examples["pixel_values"] = [image_transform(image.convert("RGB")) for image in examples["image"]]
        hints = [hint_transform(image.convert("RGB")) for image in examples["conditioning_image"]]
        examples["conditioning_pixel_values"] = hints
        captions = tokenizer(
            examples["text"], max_length=tokenizer.model_max_length, padding="max_length", truncation=True,
            return_tensors="pt",
        )
        examples["input_ids"] = captions.input_ids
        return examples

    def collate(examples):
        keys = ("pixel_values", "conditioning_pixel_values", "input_ids")
        return {key: torch.stack([example[key] for example in examples]) for key in keys}

    rows = datasets.load_dataset("json", data_files=str(folder / "rows.jsonl"), cache_dir=str(folder / "cache"))["train"]
    rows = rows.cast_column("image", datasets.Image()).cast_column("conditioning_image", datasets.Image())
    loader = torch.utils.data.DataLoader(
        rows.with_transform(preprocess), shuffle=True, collate_fn=collate, batch_size=4
    )
    controlnet, optimizer, loader = accelerator.prepare(controlnet, optimizer, loader)

    batch = next(iter(loader))
    latents = vae.encode(batch["pixel_values"]).latent_dist.sample() * vae.config.scaling_factor
    noise = torch.randn_like(latents)
    timesteps = torch.randint(0, 1000, (latents.shape[0],)).long()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    context = text_encoder(batch["input_ids"], return_dict=False)[0]
    down, mid = controlnet(
        noisy, timesteps, encoder_hidden_states=context, controlnet_cond=batch["conditioning_pixel_values"],
        return_dict=False,
    )
    prediction = unet(
        noisy, timesteps, encoder_hidden_states=context, down_block_additional_residuals=down,
        mid_block_additional_residual=mid, return_dict=False,
    )[0]
    target = noise if scheduler.config.prediction_type == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    loss = F.mse_loss(prediction.float(), target.float())
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(controlnet.parameters(), 1.0)
    optimizer.step()
    print("first step", loss.item(), flush=True)


def seconds_until(command, marker):
    """Seconds from the start of a command to the line that has `marker`."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout:
            if marker in line:
                seconds = time.perf_counter() - start
                process.kill()
                return seconds
    raise SystemExit(f"{command[0]} ended without `{marker}`")


def prepare(program, folder):
    import json

    subprocess.run([program, "init-base", folder / "base"], check=True, stderr=subprocess.DEVNULL)
    circles = [program, "data", "circles", "--count", "20", "--size", "128", folder / "circles"]
    subprocess.run(circles, check=True, stderr=subprocess.DEVNULL)
    pictures = folder / "circles/train"
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        row["image"] = str(pictures / row.pop("file_name"))
        row["conditioning_image"] = str(pictures / row.pop("conditioning_image_file_name"))
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def main():
    args = parse_args()
    if args.theirs:
        their_first_step(args.theirs)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(args.pyrograph.resolve(), folder)
        train = f"train --pretrained_model_name_or_path={folder}/base --train_data_dir={folder}/circles --resolution=128 \
            --cache=off --num_eval_samples=0 --num_validation_samples=0 --output_dir={folder}/ours --log-format=json"
        ours = [str(args.pyrograph), *train.split()]
        theirs = [sys.executable, __file__, "--theirs", name]
        seconds_until(theirs, "first step")
        rounds = []
        for _ in range(args.rounds):
            rounds.append((seconds_until(ours, '"progress"'), seconds_until(theirs, "first step")))
    ratios = [ours / theirs for ours, theirs in rounds]
    medians = [statistics.median(side) for side in zip(*rounds)]
    print("| from the command to the first step | Pyrograph | diffusers | ratio | least | greatest |\n|" + "---|" * 6)
    print(
        f"| tiny base, 128 px, batch 4 [s] | {medians[0]:.2f} | {medians[1]:.2f} | "
        f"**{statistics.median(ratios):.3f}** | {min(ratios):.3f} | {max(ratios):.3f} |"
    )


if __name__ == "__main__":
    main()
