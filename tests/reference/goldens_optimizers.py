"""Parameters after some steps of every optimizer, by the libraries that their users know.

Needs lion-pytorch, prodigyopt and bitsandbytes besides.
"""

from pathlib import Path

import bitsandbytes
import lion_pytorch
import prodigyopt
import torch
import transformers

import case

N_STEPS = 6
SHAPES = {"kernel": (6, 4, 3, 3), "matrix": (65, 64), "bias": (6,)}
BETAS = (0.9, 0.98)
EPSILON = 1e-8
WEIGHT_DECAY = 0.1

OPTIMIZERS = {
    "adamw": (1e-2, lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY)),
    "adamw8bit": (
        1e-2,
        lambda p, lr: bitsandbytes.optim.AdamW8bit(p, lr=lr, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY),
    ),
    "adafactor": (
        1e-2,
        lambda p, lr: transformers.Adafactor(
            p, lr=lr, weight_decay=WEIGHT_DECAY, scale_parameter=False, relative_step=False, warmup_init=False
        ),
    ),
    "lion": (1e-3, lambda p, lr: lion_pytorch.Lion(p, lr=lr, betas=BETAS, weight_decay=WEIGHT_DECAY)),
    "prodigy": (
        1.0,
        lambda p, lr: prodigyopt.Prodigy(p, lr=lr, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY),
    ),
}


def make(out: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def random(shape):
        return torch.randn(shape, generator=generator)

    # Small, so that the first tiny steps of Prodigy are more than rounding.
    start = {name: 1e-4 * random(shape) for name, shape in SHAPES.items()}
    # A common direction, so that Prodigy gets anywhere, and noise.
    direction = {name: random(shape) for name, shape in SHAPES.items()}
    gradients = {
        f"{name}.{step}": 0.01 * (direction[name] + random(shape))
        for step in range(N_STEPS)
        for name, shape in SHAPES.items()
    }
    files = {"start": start, "gradients": gradients}
    for name, (lr, make_optimizer) in OPTIMIZERS.items():
        parameters = {key: torch.nn.Parameter(value.clone()) for key, value in start.items()}
        optimizer = make_optimizer(list(parameters.values()), lr)
        for step in range(N_STEPS):
            for key, parameter in parameters.items():
                parameter.grad = gradients[f"{key}.{step}"].clone()
            optimizer.step()
        files[name] = {key: parameter.detach() for key, parameter in parameters.items()}
    settings = {
        "n_steps": N_STEPS,
        "beta1": BETAS[0],
        "beta2": BETAS[1],
        "epsilon": EPSILON,
        "weight_decay": WEIGHT_DECAY,
        "learning_rates": {name: lr for name, (lr, _) in OPTIMIZERS.items()},
    }
    case.write(out, "optimizers", f"seed-{seed}", settings, **files)
