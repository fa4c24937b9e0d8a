"""Files of `torch.save`, and their tensors as safetensors."""

import types
from pathlib import Path

import numpy
import torch

import case


def tensors(generator):
    whole = torch.randn(6, 4, generator=generator)
    return {
        "f32": torch.randn(3, 2, generator=generator),
        "f16": torch.randn(5, generator=generator).half(),
        "bf16": torch.randn(5, generator=generator).bfloat16(),
        "f64": torch.randn(2, 2, generator=generator).double(),
        "i64": torch.tensor([[1, -2**40]]),
        "u8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(7, dtype=torch.int32),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(2, 3, generator=generator)),
        # Views of one storage, not all of them in order.
        "rows": whole[2:5],
        "columns": whole[:, 1:3],
        "transposed": whole.T,
    }


def make(out: Path, seed: int) -> None:
    values = tensors(torch.Generator().manual_seed(seed))
    # As PyTorch Lightning writes them: with counters and objects of other libraries.
    lightning = {
        "state_dict": values,
        "epoch": 3,
        "best": numpy.float64(0.5),
        "callbacks": {"path": Path("somewhere"), "options": types.SimpleNamespace(a=1)},
    }
    for name, content, options in [
        ("zip", values, {}),
        ("legacy", values, dict(_use_new_zipfile_serialization=False)),
        ("lightning", lightning, {}),
    ]:
        folder = case.write(out, "pickle", name, {}, tensors=values)
        torch.save(content, folder / "model.bin", **options)
