"""Pictures of StableDiffusionControlNetPipeline and StableDiffusionXLControlNetPipeline: a whole base folder, a ControlNet
folder, latents, hint and result."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from diffusers import UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import case
from goldens_unet import LINEAR_ODD, SD1_LIKE, SD2_LIKE, SDXL_LIKE, randomise

WIDTH, HEIGHT, STEPS = 40, 32, 5

SD15_SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    skip_prk_steps=True,
    set_alpha_to_one=False,
    steps_offset=1,
)
ZERO_SNR_SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    clip_sample=False,
    set_alpha_to_one=False,
)


SD21_SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)
SDXL_SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="epsilon",
    interpolation_type="linear",
    timestep_spacing="leading",
    steps_offset=1,
    use_karras_sigmas=False,
)


def tokenizer(folder: Path, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """Bytes, bytes at the end of a word, and a few merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges = ["r e", "re d</w>", "c i", "ci r", "c l", "cl e</w>", "cir cle</w>"]
    words = alphabet + [f"{char}</w>" for char in alphabet] + [merge.replace(" ", "") for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: idx for idx, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=16, pad_token=pad_token)


def text_encoder(model_class, clip_tokenizer: CLIPTokenizer, width: int, **settings):
    special = dict(
        bos_token_id=clip_tokenizer.bos_token_id,
        eos_token_id=clip_tokenizer.eos_token_id,
        pad_token_id=clip_tokenizer.pad_token_id,
    )
    config = dict(
        vocab_size=len(clip_tokenizer),
        hidden_size=width,
        intermediate_size=20,
        num_hidden_layers=2,
        max_position_embeddings=16,
        num_attention_heads=2,
    )
    return model_class(CLIPTextConfig(**config | special | settings)).eval()


def make(out: Path, seed: int) -> None:
    torch.set_num_threads(1)
    bases = [
        ("sd1-like", SD1_LIKE, PNDMScheduler, SD15_SCHEDULER),
        ("zero-snr", LINEAR_ODD, DDIMScheduler, ZERO_SNR_SCHEDULER),
        ("sd2-like", SD2_LIKE, DDIMScheduler, SD21_SCHEDULER),
        ("sdxl-like", SDXL_LIKE, EulerDiscreteScheduler, SDXL_SCHEDULER),
    ]
    for idx, (name, config, scheduler_class, settings) in enumerate(bases):
        torch.manual_seed(2000 * seed + idx)
        make_case(out, name, config, scheduler_class, settings)


def text_parts(name: str, context_dim: int) -> dict:
    """Tokenizers and text encoders as a family has them."""
    with tempfile.TemporaryDirectory() as folder:
        first = tokenizer(Path(folder), "!" if name == "sd2-like" else "<|endoftext|>")
        second = tokenizer(Path(folder), "!")
    if name == "sd2-like":
        encoder = text_encoder(CLIPTextModel, first, context_dim, hidden_act="gelu")
    elif name == "sdxl-like":
        encoder = text_encoder(CLIPTextModel, first, 8, eos_token_id=2)
        with_projection = dict(hidden_act="gelu", projection_dim=10, eos_token_id=2)
        encoder_2 = text_encoder(CLIPTextModelWithProjection, second, context_dim - 8, **with_projection)
        return dict(text_encoder=encoder, tokenizer=first, text_encoder_2=encoder_2, tokenizer_2=second)
    else:
        encoder = text_encoder(CLIPTextModel, first, context_dim)
    return dict(text_encoder=encoder, tokenizer=first)


def models(name: str, config: dict) -> dict:
    """The parts of a base beside the scheduler, with random weights."""
    parts = text_parts(name, config["cross_attention_dim"])
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=32,
        scaling_factor=0.13025 if name == "sdxl-like" else 0.18215,
    ).eval()
    unet = UNet2DConditionModel(**config).eval()
    for model in (*(part for part in parts.values() if isinstance(part, torch.nn.Module)), vae, unet):
        randomise(model)
    return parts | dict(vae=vae, unet=unet)


def control_net(unet: UNet2DConditionModel) -> ControlNetModel:
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 6, 8, 8)).eval()
    randomise(controlnet)
    return controlnet


def save_base(folder: Path, parts: dict, scheduler_class, scheduler_settings: dict) -> dict:
    """Writes the parts as a base; returns them as the arguments of a pipeline."""
    parts = parts | dict(scheduler=scheduler_class(**scheduler_settings), feature_extractor=None)
    if "text_encoder_2" in parts:
        base_class = StableDiffusionXLPipeline
    else:
        base_class = StableDiffusionPipeline
        parts |= dict(safety_checker=None, requires_safety_checker=False)
    base_class(**parts).save_pretrained(folder)
    # As on the Hub, the file holds only what was chosen: `from_config` treats a missing key unlike its default.
    chosen = {"_class_name": scheduler_class.__name__, **scheduler_settings}
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(chosen, indent=2) + "\n")
    parts["scheduler"] = scheduler_class.from_pretrained(folder / "scheduler")
    return parts


def picture() -> Image.Image:
    return Image.fromarray(np.asarray(torch.randint(0, 256, (HEIGHT, WIDTH, 3)), dtype=np.uint8))


def make_case(out: Path, name: str, config: dict, scheduler_class, scheduler_settings: dict) -> None:
    parts = models(name, config)
    controlnet = control_net(parts["unet"])
    folder = out / "generate" / name
    parts = save_base(folder / "base", parts, scheduler_class, scheduler_settings)
    controlnet.save_pretrained(folder / "controlnet")
    is_xl = name == "sdxl-like"
    pipeline_class = StableDiffusionXLControlNetPipeline if is_xl else StableDiffusionControlNetPipeline

    hint = picture()
    latents = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8)
    prompt = "Red circle, with a Blue background"

    expected, runs = {}, []
    for sampler, sampler_class in (("unipc", UniPCMultistepScheduler), ("ddim", DDIMScheduler)):
        pipe = pipeline_class(controlnet=controlnet, **parts)
        pipe.scheduler = sampler_class.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        # guidance scale, conditioning scale, guess mode, negative prompt
        settings = [(guidance, *rest, None) for guidance in (1.0, 7.5) for rest in ((0.5, False), (1.0, False), (1.0, True))]
        if name not in ("sd1-like", "zero-snr"):
            settings += [(7.5, 1.0, False, "blue"), (4.0, 1.0, True, "")]
        for guidance_scale, conditioning_scale, guess, negative_prompt in settings:
            image = pipe(
                prompt,
                image=hint,
                negative_prompt=negative_prompt,
                num_inference_steps=STEPS,
                guidance_scale=guidance_scale,
                controlnet_conditioning_scale=conditioning_scale,
                guess_mode=guess,
                latents=latents.clone(),
                output_type="np",
            ).images[0]
            run = f"{sampler}-{guidance_scale}-{conditioning_scale}{'-guess' if guess else ''}"
            run += "" if negative_prompt is None else f"-not-{negative_prompt}"
            expected[run] = torch.from_numpy(image).permute(2, 0, 1)[None]
            runs.append(
                dict(
                    name=run,
                    sampler=sampler,
                    guidance_scale=guidance_scale,
                    conditioning_scale=conditioning_scale,
                    guess=guess,
                    negative_prompt=negative_prompt,
                )
            )
    case.write(
        out,
        "generate",
        name,
        {"prompt": prompt, "steps": STEPS, "runs": runs},
        latents={"latents": latents},
        expected=expected,
    )
    hint.save(folder / "hint.png")
