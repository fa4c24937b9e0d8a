"""Times in PyTorch of what `tests/bench` times; prints one line of JSON for each."""

import json
import time

import torch
import torch.nn.functional as F
from torch import nn

N_RUNS = 5


def measure(name, inputs, forward):
    def run():
        for tensor in inputs:
            tensor.grad = None
        start = time.perf_counter()
        output = forward(*inputs)
        middle = time.perf_counter()
        output.sum().backward()
        return middle - start, time.perf_counter() - middle

    run()
    runs = [run() for _ in range(N_RUNS)]
    forward_seconds, backward_seconds = (min(side) for side in zip(*runs))
    print(json.dumps({"name": name, "forward": forward_seconds, "backward": backward_seconds}))


def random(*shape):
    return torch.randn(*shape, requires_grad=True)


def main():
    torch.manual_seed(0)
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
            measure(f"conv3x3 {channels_in}-{channels_out} {side}x{side}{frozen}", [random(1, channels_in, side, side)], conv)
    for channels, side in [(320, 64), (1280, 16)]:
        measure(f"conv1x1 {channels} {side}x{side}", [random(1, channels, side, side)], nn.Conv2d(channels, channels, 1))
    for n_heads, n_queries, n_keys, d_head in [
        (8, 4096, 4096, 40),
        (8, 1024, 1024, 80),
        (8, 1024, 1024, 40),
        (8, 256, 256, 160),
        (8, 4096, 77, 40),
    ]:
        tensors = [random(1, n_heads, tokens, d_head) for tokens in (n_queries, n_keys, n_keys)]
        measure(f"attention {n_heads}x{n_queries}x{n_keys}x{d_head}", tensors, F.scaled_dot_product_attention)
    norm = nn.GroupNorm(32, 320)
    measure("group norm + SiLU 320x64x64", [random(1, 320, 64, 64)], lambda features: F.silu(norm(features)))
    measure("GEGLU 4096x2560", [random(1, 4096, 2560)], lambda x: x.chunk(2, -1)[0] * F.gelu(x.chunk(2, -1)[1]))
    measure("layer norm 4096x320", [random(1, 4096, 320)], nn.LayerNorm(320))
    measure("linear 4096x320x2560", [random(1, 4096, 320)], nn.Linear(320, 2560))


if __name__ == "__main__":
    main()
