"""Pictures of StableDiffusionControlNetPipeline: a whole base folder, a ControlNet folder, latents, hint and result."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from diffusers import UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import case
from goldens_unet import LINEAR_ODD, SD1_LIKE, randomise

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


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Bytes, bytes at the end of a word, and a few merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges = ["r e", "re d</w>", "c i", "ci r", "c l", "cl e</w>", "cir cle</w>"]
    words = alphabet + [f"{char}</w>" for char in alphabet] + [merge.replace(" ", "") for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: idx for idx, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=16)


def make(out: Path, seed: int) -> None:
    torch.set_num_threads(1)
    bases = [
        ("sd1-like", SD1_LIKE, PNDMScheduler, SD15_SCHEDULER),
        ("zero-snr", LINEAR_ODD, DDIMScheduler, ZERO_SNR_SCHEDULER),
    ]
    for idx, (name, config, scheduler_class, settings) in enumerate(bases):
        torch.manual_seed(2000 * seed + idx)
        make_case(out, name, config, scheduler_class, settings)


def make_case(out: Path, name: str, config: dict, scheduler_class, scheduler_settings: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clip_tokenizer = tokenizer(Path(folder))
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_tokenizer),
            hidden_size=config["cross_attention_dim"],
            intermediate_size=20,
            num_hidden_layers=2,
            max_position_embeddings=16,
            num_attention_heads=2,
            bos_token_id=clip_tokenizer.bos_token_id,
            eos_token_id=clip_tokenizer.eos_token_id,
            pad_token_id=clip_tokenizer.pad_token_id,
        )
    ).eval()
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=32,
    ).eval()
    unet = UNet2DConditionModel(**config).eval()
    for model in (text_encoder, vae, unet):
        randomise(model)
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 6, 8, 8)).eval()
    randomise(controlnet)

    folder = out / "generate" / name
    parts = dict(vae=vae, text_encoder=text_encoder, tokenizer=clip_tokenizer, unet=unet)
    parts["scheduler"] = scheduler_class(**scheduler_settings)
    parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    StableDiffusionPipeline(**parts).save_pretrained(folder / "base")
    controlnet.save_pretrained(folder / "controlnet")
    # As on the Hub, the file holds only what was chosen: `from_config` treats a missing key unlike its default.
    chosen = {"_class_name": scheduler_class.__name__, **scheduler_settings}
    (folder / "base/scheduler/scheduler_config.json").write_text(json.dumps(chosen, indent=2) + "\n")
    parts["scheduler"] = scheduler_class.from_pretrained(folder / "base/scheduler")

    hint = Image.fromarray(np.asarray(torch.randint(0, 256, (HEIGHT, WIDTH, 3)), dtype=np.uint8))
    latents = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8)
    prompt = "Red circle, with a Blue background"

    expected, runs = {}, []
    for sampler, sampler_class in (("unipc", UniPCMultistepScheduler), ("ddim", DDIMScheduler)):
        pipe = StableDiffusionControlNetPipeline(controlnet=controlnet, **parts)
        pipe.scheduler = sampler_class.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        for guidance_scale in (1.0, 7.5):
            for conditioning_scale, guess in ((0.5, False), (1.0, False), (1.0, True)):
                image = pipe(
                    prompt,
                    hint,
                    num_inference_steps=STEPS,
                    guidance_scale=guidance_scale,
                    controlnet_conditioning_scale=conditioning_scale,
                    guess_mode=guess,
                    latents=latents.clone(),
                    output_type="np",
                ).images[0]
                run = f"{sampler}-{guidance_scale}-{conditioning_scale}{'-guess' if guess else ''}"
                expected[run] = torch.from_numpy(image).permute(2, 0, 1)[None]
                runs.append(
                    dict(
                        name=run,
                        sampler=sampler,
                        guidance_scale=guidance_scale,
                        conditioning_scale=conditioning_scale,
                        guess=guess,
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
