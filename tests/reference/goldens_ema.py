"""Parameters and their averages over some steps, by diffusers' EMAModel."""

from pathlib import Path

import torch
from diffusers.training_utils import EMAModel

import case

N_STEPS = 14
SHAPES = {"kernel": (3, 2, 3, 3), "bias": (5,)}
# `decay` caps the rise within the steps, in the first case.
CASES = {
    "capped": dict(decay=0.4),
    "late": dict(decay=0.9999, update_after_step=5),
    "warmup": dict(decay=0.9, use_ema_warmup=True, inv_gamma=2.0, power=0.75),
}


def make(out: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    steps = [
        {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} for _ in range(N_STEPS + 1)
    ]
    parameters = {f"{name}.{step}": value for step, values in enumerate(steps) for name, value in values.items()}
    for name, options in CASES.items():
        model = [torch.nn.Parameter(value.clone()) for value in steps[0].values()]
        ema = EMAModel(model, **options)
        averages = {}
        for step, values in enumerate(steps[1:], start=1):
            with torch.no_grad():
                for parameter, value in zip(model, values.values()):
                    parameter.copy_(value)
            ema.step(model)
            averages |= {f"{key}.{step}": value for key, value in zip(SHAPES, ema.shadow_params)}
            averages = {key: value.clone() for key, value in averages.items()}
        settings = {
            "n_steps": N_STEPS,
            "ema_decay": ema.decay,
            "ema_update_after_step": ema.update_after_step,
            "use_ema_warmup": ema.use_ema_warmup,
            "ema_inv_gamma": ema.inv_gamma,
            "ema_power": ema.power,
        }
        case.write(out, "ema", f"{name}-seed-{seed}", settings, parameters=parameters, averages=averages)
