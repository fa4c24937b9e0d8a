"""Noise schedules and samplers, by diffusers' own classes.

Kind `schedule`: a `scheduler_config.json` as it lies on disk, the tables DDPM makes of it, noisy latents and velocity.
Kind `sampler`: the same file taken to DDIM and UniPC by `from_config`, the config that results (`ddim.json`), the
timesteps for 1 to 50 steps one after the other, and the latents along whole trajectories with a made-up network.
Kind `solver`: the same file taken to the other samplers: for some numbers of steps the timesteps, the standard deviation of the first
noise and the trajectory. Fresh noise is the tensor `fresh`, rolled by as many places as were drawn before; DPM++ SDE's Brownian path goes
on by such draws.
Kind `strength`: the same file taken to every sampler for image-to-image: for some strengths and numbers of steps the timesteps that
remain, the latents noised for the first of them and after each, and the clean latents noised for each further one, as inpainting does.
"""

import json
import math
import sys
import tempfile
import types
import unittest.mock
from pathlib import Path

import diffusers
import torch

import case

SHAPE = (2, 4, 3, 5)
TRAJECTORIES = [1, 2, 3, 5, 10, 20, 50]
CLASSES = {"ddim": diffusers.DDIMScheduler, "unipc": diffusers.UniPCMultistepScheduler}

SOLVERS = {
    "ddpm": diffusers.DDPMScheduler,
    "dpmpp-2m": diffusers.DPMSolverMultistepScheduler,
    "dpmpp-2m-sde": diffusers.DPMSolverMultistepScheduler,
    "dpmpp-sde": diffusers.DPMSolverSDEScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler-a": diffusers.EulerAncestralDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "lcm": diffusers.LCMScheduler,
    "lms": diffusers.LMSDiscreteScheduler,
    "pndm": diffusers.PNDMScheduler,
}
SOLVER_STEPS = [1, 2, 3, 10, 20]
RUNGE_KUTTA_STEPS = [4, 11, 21]

STRENGTH_SHAPE = (1, 2, 2, 3)
STRENGTH_STEPS = [4, 11, 20]
STRENGTHS = [0.3, 0.8, 1.0]

LATENT_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    **LATENT_DIFFUSION,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SD21_V = {**SD15, "_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "prediction_type": "v_prediction"}
SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    **LATENT_DIFFUSION,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
ZERO_SNR = {
    "_class_name": "DDIMScheduler",
    **LATENT_DIFFUSION,
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
}
DEFAULTS = {"_class_name": "DDPMScheduler"}
COSINE = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": True,
    "clip_sample_range": 1.5,
    "num_train_timesteps": 400,
    "timestep_spacing": "linspace",
}
DPM_SOLVER = {
    "_class_name": "DPMSolverMultistepScheduler",
    **LATENT_DIFFUSION,
    "algorithm_type": "dpmsolver++",
    "clip_sample": False,
    "lambda_min_clipped": -math.inf,
    "solver_order": 3,
    "solver_type": "midpoint",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
UNIPC = {"_class_name": "UniPCMultistepScheduler", **LATENT_DIFFUSION, "clip_sample": False}


def make(out: Path, seed: int) -> None:
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(seed)
    trained = (torch.rand(100, generator=random) * 0.05 + 0.001).sort().values.tolist()
    trained = {"_class_name": "DDPMScheduler", "num_train_timesteps": 100, "trained_betas": trained}

    schedules = {
        "sd15": SD15,
        "sd21_v": SD21_V,
        "zero_snr": ZERO_SNR,
        "defaults": DEFAULTS,
        "cosine": COSINE,
        "trained": trained,
        "zero_snr_linear": {**DEFAULTS, "rescale_betas_zero_snr": True},
    }
    for name, config in schedules.items():
        write_schedule(out, name, config, random)

    both = ["ddim", "unipc"]
    samplers = {
        "sd15": (SD15, both),
        "sd21_v": (SD21_V, both),
        "sdxl": (SDXL, both),
        "zero_snr": (ZERO_SNR, both),
        "cosine_clipped": (COSINE, both),
        "trailing": ({**SD15, "timestep_spacing": "trailing"}, both),
        # diffusers' trailing list has one timestep too many, -1, for some lengths: not for 160 and 1000 up to 50 steps.
        "trailing_160": ({**DEFAULTS, "num_train_timesteps": 160, "timestep_spacing": "trailing"}, both),
        "linspace_v": ({**SD21_V, "timestep_spacing": "linspace"}, ["ddim"]),
        "zero_snr_leading": (
            {**ZERO_SNR, "timestep_spacing": "leading", "prediction_type": "epsilon"},
            ["ddim"],
        ),
        "dpm_solver": (DPM_SOLVER, ["unipc"]),
        "order_1": ({**UNIPC, "solver_order": 1}, ["unipc"]),
        "bh1": (
            {**UNIPC, "solver_type": "bh1", "final_sigmas_type": "sigma_min", "lower_order_final": False},
            ["unipc"],
        ),
        "noise_space": (
            {**UNIPC, "predict_x0": False, "final_sigmas_type": "sigma_min", "prediction_type": "v_prediction"},
            ["unipc"],
        ),
        "corrector_off": ({**UNIPC, "disable_corrector": [0, 3], "solver_order": 3}, ["unipc"]),
    }
    for name, (config, kinds) in samplers.items():
        write_sampler(out, name, config, kinds, random)

    karras = {"use_karras_sigmas": True}
    multistep = ["dpmpp-2m", "dpmpp-2m-sde"]
    solvers = {
        "sd15": (SD15, list(SOLVERS)),
        "sd21_v": (SD21_V, list(SOLVERS)),
        "sdxl": (SDXL, list(SOLVERS)),
        "trailing": ({**SD15, "timestep_spacing": "trailing"}, ["dpmpp-2m", "dpmpp-sde", "euler", "euler-a", "heun", "pndm"]),
        "zero_snr": (ZERO_SNR, ["ddpm", "dpmpp-2m", "euler", "euler-a", "lcm"]),
        "cosine_clipped": ({**COSINE, "variance_type": "fixed_large"}, ["ddpm", "lcm"]),
        "karras": ({**SD15, **karras}, ["dpmpp-2m", "dpmpp-2m-sde", "dpmpp-sde", "euler", "heun", "lms"]),
        "karras_limits": ({**SDXL, **karras, "sigma_min": 0.05, "sigma_max": 9.0}, ["dpmpp-2m", "dpmpp-sde", "euler", "lms"]),
        "order_3": (DPM_SOLVER, ["dpmpp-2m"]),
        "second_order_heun": ({**DPM_SOLVER, "solver_order": 2, "solver_type": "heun"}, multistep),
        "to_sigma_min": (
            {**DPM_SOLVER, "solver_order": 2, "final_sigmas_type": "sigma_min", "lower_order_final": False},
            multistep,
        ),
    }
    for name, (config, kinds) in solvers.items():
        write_solver(out, name, config, kinds, SOLVER_STEPS, random)

    on_sigmas = ["dpmpp-2m", "dpmpp-2m-sde", "dpmpp-sde", "euler", "heun", "lms", "unipc"]
    every = [*CLASSES, *SOLVERS]
    strengths = {
        "sd15": (SD15, every),
        "sd21_v": (SD21_V, every),
        "sdxl_karras": ({**SDXL, **karras}, on_sigmas),
        "trailing": ({**SD15, "timestep_spacing": "trailing"}, every),
        "order_3": (DPM_SOLVER, ["dpmpp-2m", "unipc"]),
        "runge_kutta": ({**SD15, "skip_prk_steps": False}, ["pndm"]),
    }
    for name, (config, kinds) in strengths.items():
        write_strength(out, name, config, kinds, random)

    # What came later is made last, so that a seed's other cases keep their numbers.
    unipc_karras = {
        "karras": ({**SD15, "use_karras_sigmas": True}, ["unipc"]),
        "karras_limits": (
            {**SDXL, "use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 9.0, "solver_order": 3},
            ["unipc"],
        ),
    }
    for name, (config, kinds) in unipc_karras.items():
        write_sampler(out, name, config, kinds, random)
    final_steps = {
        "euler_at_final": (
            {
                **DPM_SOLVER,
                "solver_order": 2,
                "final_sigmas_type": "sigma_min",
                "lower_order_final": False,
                "euler_at_final": True,
            },
            multistep,
        ),
        "orders_kept": ({**DPM_SOLVER, "lower_order_final": False}, ["dpmpp-2m"]),
    }
    for name, (config, kinds) in final_steps.items():
        write_solver(out, name, config, kinds, SOLVER_STEPS, random)
    runge_kutta = {
        "runge_kutta": {**SD15, "skip_prk_steps": False},
        "runge_kutta_v": {**SD21_V, "skip_prk_steps": False, "timestep_spacing": "trailing", "set_alpha_to_one": True},
    }
    for name, config in runge_kutta.items():
        write_solver(out, name, config, ["pndm"], RUNGE_KUTTA_STEPS, random)


def load(config: dict):
    """The scheduler of the class that the file names, as a pipeline loads it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scheduler_config.json").write_text(json.dumps(config))
        return getattr(diffusers, config["_class_name"]).from_pretrained(folder)


def normal(random: torch.Generator, shape=SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=random)


def write_schedule(out: Path, name: str, config: dict, random: torch.Generator) -> None:
    scheduler = diffusers.DDPMScheduler.from_config(load(config).config)
    last = scheduler.config.num_train_timesteps - 1
    latents, noise = normal(random), normal(random)
    tensors = {
        "betas": scheduler.betas,
        "alphas_cumprod": scheduler.alphas_cumprod,
        "latents": latents,
        "noise": noise,
    }
    drawn = torch.randint(0, last, (2,), generator=random)
    for pair, timesteps in {"ends": torch.tensor([0, last]), "drawn": drawn}.items():
        tensors[f"{pair}.timesteps"] = timesteps
        tensors[f"{pair}.noisy"] = scheduler.add_noise(latents, noise, timesteps)
        tensors[f"{pair}.velocity"] = scheduler.get_velocity(latents, noise, timesteps)
    case.write(out, "schedule", name, {}, scheduler_config=config, tensors=tensors)


def write_sampler(out: Path, name: str, config: dict, kinds: list[str], random: torch.Generator) -> None:
    start, bias = normal(random), normal(random)
    tensors = {"start": start, "bias": bias}
    resolved = {}
    for kind in kinds:
        scheduler = CLASSES[kind].from_config(load(config).config)
        resolved[kind] = json.loads(scheduler.to_json_string())
        lists = []
        for n_steps in range(1, 51):
            scheduler.set_timesteps(n_steps)
            lists.append(scheduler.timesteps)
        tensors[f"{kind}.timesteps"] = torch.cat(lists)
        for n_steps in TRAJECTORIES:
            tensors[f"{kind}.{n_steps}"] = trajectory(scheduler, n_steps, start, bias)
    details = {"samplers": kinds, "trajectories": TRAJECTORIES}
    if "ddim" in kinds:
        fresh = normal(random)
        tensors["fresh"] = fresh
        scheduler = diffusers.DDIMScheduler.from_config(load(config).config)
        tensors["ddim.fresh"] = trajectory(scheduler, 10, start, bias, eta=0.7, variance_noise=fresh)
    case.write(out, "sampler", name, details, scheduler_config=config, tensors=tensors, **resolved)


def write_solver(
    out: Path, name: str, config: dict, kinds: list[str], steps: list[int], random: torch.Generator
) -> None:
    tensors = {"start": normal(random), "bias": normal(random), "fresh": normal(random)}
    for kind in kinds:
        for n_steps in steps:
            scheduler = sampler(kind, config)
            kept = fresh_trajectory(scheduler, n_steps, tensors)
            tensors[f"{kind}.{n_steps}"] = kept
            tensors[f"{kind}.{n_steps}.timesteps"] = scheduler.timesteps.float()
            tensors[f"{kind}.{n_steps}.sigma"] = torch.tensor([float(scheduler.init_noise_sigma)])
    case.write(out, "solver", name, {"samplers": kinds, "steps": steps}, scheduler_config=config, tensors=tensors)


def write_strength(out: Path, name: str, config: dict, kinds: list[str], random: torch.Generator) -> None:
    tensors = {key: normal(random, STRENGTH_SHAPE) for key in ["clean", "noise", "bias", "fresh"]}
    for kind in kinds:
        for n_steps in STRENGTH_STEPS:
            for strength in STRENGTHS:
                made = image_to_image(sampler(kind, config), n_steps, strength, tensors)
                tensors |= {f"{kind}.{n_steps}.{strength}.{key}": value for key, value in made.items()}
    details = {"samplers": kinds, "steps": STRENGTH_STEPS, "strengths": STRENGTHS}
    case.write(out, "strength", name, details, scheduler_config=config, tensors=tensors)


def sampler(kind: str, config: dict):
    options = {"algorithm_type": "sde-dpmsolver++"} if kind == "dpmpp-2m-sde" else {}
    return (CLASSES | SOLVERS)[kind].from_config(load(config).config, **options)


def image_to_image(scheduler, n_steps: int, strength: float, tensors: dict) -> dict:
    """The steps of a strength, and what inpainting puts back after each of them but the last."""
    scheduler.set_timesteps(n_steps)
    pipeline = types.SimpleNamespace(scheduler=scheduler)
    timesteps, _ = diffusers.StableDiffusionControlNetImg2ImgPipeline.get_timesteps(pipeline, n_steps, strength, "cpu")
    latents = scheduler.add_noise(tensors["clean"], tensors["noise"], timesteps[:1])
    kept, put_back = [latents], []
    with rolled_noise(scheduler, tensors["fresh"]):
        for done, timestep in enumerate(timesteps, start=1):
            output = network(scheduler.scale_model_input(latents, timestep), timestep, tensors["bias"])
            latents = scheduler.step(output, timestep, latents).prev_sample
            kept.append(latents)
            if done < len(timesteps):
                put_back.append(scheduler.add_noise(tensors["clean"], tensors["noise"], timesteps[done : done + 1]))
    made = {"timesteps": timesteps.float(), "latents": torch.cat(kept)}
    assert torch.isfinite(made["latents"]).all()
    return made | ({"put_back": torch.cat(put_back)} if put_back else {})


def fresh_trajectory(scheduler, n_steps: int, tensors: dict) -> torch.Tensor:
    """A trajectory in which the n-th fresh noise is `fresh` rolled by n places."""
    with rolled_noise(scheduler, tensors["fresh"]):
        return trajectory(scheduler, n_steps, tensors["start"], tensors["bias"])


def rolled_noise(scheduler, fresh: torch.Tensor):
    drawn = iter(range(1000))

    def rolled(shape, **_):
        return torch.roll(fresh.flatten(), next(drawn)).reshape(shape)

    module = sys.modules[type(scheduler).__module__]
    if hasattr(module, "BrownianTreeNoiseSampler"):
        path = BrownianPath(lambda: rolled(fresh.shape))
        return unittest.mock.patch.object(module, "BrownianTreeNoiseSampler", lambda *_: path)
    return unittest.mock.patch.object(module, "randn_tensor", rolled, create=True)


class BrownianPath:
    """A path over falling sigmas that is drawn as far as it is asked for; called as diffusers' noise sampler."""

    def __init__(self, draw):
        self.draw = draw
        self.places = {}

    def __call__(self, sigma, next_sigma):
        begin = self.at(float(sigma))
        return (self.at(float(next_sigma)) - begin) / math.sqrt(sigma - next_sigma)

    def at(self, sigma: float) -> torch.Tensor:
        known = next((place for place in self.places if math.isclose(place, sigma, rel_tol=1e-6)), None)
        if known is not None:
            return self.places[known]
        if not self.places:
            self.places[sigma] = torch.tensor(0.0)
        else:
            last = min(self.places)
            assert sigma < last, "a path is drawn from the noisy end on"
            self.places[sigma] = self.places[last] + math.sqrt(last - sigma) * self.draw()
        return self.places[sigma]


def network(scaled: torch.Tensor, timestep, bias: torch.Tensor) -> torch.Tensor:
    """The made-up network."""
    return 0.3 * scaled * math.cos(timestep / 1000) + 0.5 * bias


def trajectory(scheduler, n_steps: int, start: torch.Tensor, bias: torch.Tensor, **options) -> torch.Tensor:
    """The latents after each step, of long trajectories after every tenth: `[n_kept * batch, ...]`."""
    scheduler.set_timesteps(n_steps)
    scheduler.set_begin_index(0) if hasattr(scheduler, "set_begin_index") else None
    latents = start * scheduler.init_noise_sigma
    kept = []
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        output = network(scheduler.scale_model_input(latents, timestep), timestep, bias)
        latents = scheduler.step(output, timestep, latents, **options).prev_sample
        if len(scheduler.timesteps) < 10 or done % 10 == 0:
            kept.append(latents)
    assert torch.isfinite(latents).all()
    return torch.cat(kept)
