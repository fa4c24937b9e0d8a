"""Learning-rate factors of every schedule that `diffusers.optimization.get_scheduler` knows."""

import random
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler

import case

NAMES = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "piecewise_constant",
)
N_STEPS = 60


def factors(name: str, learning_rate: float, settings: dict) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler = get_scheduler(
        name,
        optimizer,
        step_rules=settings["lr_step_rules"],
        num_warmup_steps=settings["lr_warmup_steps"],
        num_training_steps=settings["total_steps"],
        num_cycles=settings["lr_num_cycles"],
        power=settings["lr_power"],
    )
    found = []
    for _ in range(N_STEPS):
        found.append(scheduler.get_last_lr()[0] / learning_rate)
        optimizer.step()
        scheduler.step()
    return found


def make(out: Path, seed: int) -> None:
    draw = random.Random(seed)
    for name in NAMES:
        ends = sorted(draw.sample(range(1, N_STEPS), 3))
        rules = ",".join(f"{draw.uniform(0.01, 2):.3f}:{end}" for end in ends) + f",{draw.uniform(0.001, 1):.4f}"
        # The run ends before the last step, so that what comes after it counts too.
        settings = {
            "lr_warmup_steps": draw.randrange(0, 20),
            "lr_num_cycles": draw.randrange(1, 5),
            "lr_power": draw.choice([0.5, 1.0, 2.0]),
            "lr_step_rules": rules,
            "total_steps": draw.randrange(40, 56),
        }
        learning_rate = 10 ** draw.uniform(-6, -3)
        content = {"lr_scheduler": name, "learning_rate": learning_rate, **settings}
        case.write(out, "lr", name, content | {"factors": factors(name, learning_rate, settings)})
