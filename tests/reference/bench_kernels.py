"""Times in PyTorch what `tests/bench` times of ours, and prints both as a table in Markdown.

Run by `cargo xtask bench --kernels`. Ratios are ours / PyTorch's: less than 1 is better.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision import transforms

N_RUNS = 20


def measure(ours, name, inputs, forward):
    if name not in ours:
        return
    # From a gradient that is there: that of a sum would be copied by some operations and not by others.
    gradient = torch.randn_like(forward(*inputs))

    leaves = [*inputs, *(forward.parameters() if isinstance(forward, nn.Module) else [])]

    def run():
        for tensor in leaves:
            tensor.grad = None
        start = time.perf_counter()
        output = forward(*inputs)
        middle = time.perf_counter()
        output.backward(gradient)
        return middle - start, time.perf_counter() - middle

    run()
    runs = [run() for _ in range(N_RUNS)]
    forward_seconds, backward_seconds = (min(side) for side in zip(*runs))
    run = ours[name]
    row = [f"| {name} "]
    for mine, theirs in (run["forward"], forward_seconds), (run["backward"], backward_seconds):
        row.append(f"| {1e3 * mine:.2f} | {1e3 * theirs:.2f} | {mine / theirs:.2f} ")
    both = (run["forward"] + run["backward"]) / (forward_seconds + backward_seconds)
    print("".join(row) + f"| **{both:.2f}** |")


def measure_picture(run):
    geometry = [transforms.Resize(512, transforms.InterpolationMode.BILINEAR), transforms.CenterCrop(512)]
    to_hint = transforms.Compose([*geometry, transforms.ToTensor()])
    to_image = transforms.Compose([*geometry, transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])

    def load():
        start = time.perf_counter()
        image, hint = (Image.open(run["path"]).convert("RGB") for _ in range(2))
        middle = time.perf_counter()
        to_image(image), to_hint(hint)
        return middle - start, time.perf_counter() - middle

    runs = [load() for _ in range(10)]
    theirs = [min(side) for side in zip(*runs)]
    mine = [run["decode"], run["resize"]]
    cells = [f"| {1e3 * a:.2f} | {1e3 * b:.2f} | {a / b:.2f} " for a, b in zip(mine, theirs)]
    print(f"| {run['name']} " + "".join(cells) + f"| **{sum(mine) / sum(theirs):.2f}** |")


def random(*shape):
    return torch.randn(*shape, requires_grad=True)


def geglu(projected):
    value, gate = projected.chunk(2, dim=-1)
    return value * F.gelu(gate)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=Path, help="what `tests/bench` has printed: one line of JSON for each operation")
    lines = parser.parse_args().ours.read_text().splitlines()
    # The test harness writes the test's name before the first of its lines.
    runs = [json.loads(line[line.index("{") :]) for line in lines if "{" in line]
    ours = {run["name"]: run for run in runs}
    torch.manual_seed(0)
    print("| operation | forward [ms] | PyTorch | ratio | backward [ms] | PyTorch | ratio | both |")
    print("|" + "---|" * 8)
    for channels_in, channels_out, side in [
        (320, 320, 64),
        (640, 640, 32),
        (1280, 1280, 16),
        (320, 320, 32),
        (640, 640, 16),
        (1280, 1280, 8),
        (1280, 1280, 4),
        (1920, 640, 32),
        (128, 128, 256),
    ]:
        for frozen in ("", " frozen"):
            conv = nn.Conv2d(channels_in, channels_out, 3, padding=1).requires_grad_(not frozen)
            measure(ours, f"conv3x3 {channels_in}-{channels_out} {side}x{side}{frozen}", [random(1, channels_in, side, side)], conv)
    for channels, side in [(320, 64), (1280, 16)]:
        measure(ours, f"conv1x1 {channels} {side}x{side}", [random(1, channels, side, side)], nn.Conv2d(channels, channels, 1))
    for n_heads, n_queries, n_keys, d_head in [
        (8, 4096, 4096, 40),
        (8, 1024, 1024, 80),
        (8, 1024, 1024, 40),
        (8, 256, 256, 160),
        (8, 4096, 77, 40),
    ]:
        tensors = [random(1, n_heads, tokens, d_head) for tokens in (n_queries, n_keys, n_keys)]
        measure(ours, f"attention {n_heads}x{n_queries}x{n_keys}x{d_head}", tensors, F.scaled_dot_product_attention)
    norm = nn.GroupNorm(32, 320)
    measure(ours, "group norm + SiLU 320x64x64", [random(1, 320, 64, 64)], lambda features: F.silu(norm(features)))
    measure(ours, "GEGLU 4096x2560", [random(1, 4096, 2560)], geglu)
    measure(ours, "layer norm 4096x320", [random(1, 4096, 320)], nn.LayerNorm(320))
    measure(ours, "linear 4096x320x2560", [random(1, 4096, 320)], nn.Linear(320, 2560))

    print("\n| 1024x768 to 512x512, one core | decode [ms] | Pillow | ratio | resize, crop, to floats [ms] | torchvision | ratio | both |")
    print("|" + "---|" * 8)
    torch.set_num_threads(1)
    for run in ours.values():
        if "path" in run:
            measure_picture(run)


if __name__ == "__main__":
    main()
