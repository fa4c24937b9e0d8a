"""Folders of weights under every name that diffusers and transformers write: in one file and in shards, as safetensors and
as pickles, each with a variant beside it whose weights have the other sign. The libraries load each of them back."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from huggingface_hub import split_torch_state_dict_into_shards
from transformers import CLIPTextConfig, CLIPTextModel

import case
from goldens_unet import randomise

VAE = dict(
    block_out_channels=(2,),
    down_block_types=("DownEncoderBlock2D",),
    up_block_types=("UpDecoderBlock2D",),
    layers_per_block=1,
    norm_num_groups=1,
    latent_channels=2,
)
TEXT = dict(
    vocab_size=24,
    hidden_size=4,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=8,
    bos_token_id=22,
    eos_token_id=23,
)
VARIANT = "fp16"
# Less than half of each model in halves.
VAE_SHARD_BYTES, TEXT_SHARD_BYTES = 1800, 500


def negated(model: torch.nn.Module) -> torch.nn.Module:
    """The variant: in halves, so that the other half of its name is true, too."""
    other = type(model).from_config(model.config) if hasattr(model, "from_config") else type(model)(model.config)
    other.load_state_dict({name: -tensor for name, tensor in model.state_dict().items()})
    return other.half()


def save_pickles(model: torch.nn.Module, folder: Path, variant: str | None, max_shard_size: int) -> None:
    """As transformers 4 saved with `safe_serialization=False`, which its present version reads and does not write."""
    dotted = f".{variant}" if variant else ""
    tensors = model.state_dict()
    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern=f"pytorch_model{dotted}{{suffix}}.bin", max_shard_size=max_shard_size
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    for file, names in split.filename_to_tensors.items():
        torch.save({name: tensors[name] for name in names}, folder / file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"pytorch_model.bin.index{dotted}.json").write_text(json.dumps(index, indent=2, sort_keys=True))


def rename_to_old_variant(folder: Path) -> None:
    """What diffusers before 0.30 called a variant's index and shards."""
    stem = "diffusion_pytorch_model"
    index = folder / f"{stem}.safetensors.index.{VARIANT}.json"
    text = index.read_text()
    for shard in folder.glob(f"{stem}.{VARIANT}-*"):
        numbers = shard.name.removeprefix(f"{stem}.{VARIANT}").removesuffix(".safetensors")
        old = f"{stem}{numbers}.{VARIANT}.safetensors"
        text = text.replace(shard.name, old)
        shard.rename(folder / old)
    index.unlink()
    (folder / f"{stem}.safetensors.{VARIANT}.index.json").write_text(text)


def check(folder: Path, model: torch.nn.Module, is_pickle: bool) -> None:
    for variant, sign in ((None, 1), (VARIANT, -1)):
        loaded = type(model).from_pretrained(
            folder, variant=variant, use_safetensors=not is_pickle, torch_dtype=torch.float32
        )
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, sign * model.state_dict()[name]), (folder, variant, name)


def make(out: Path, seed: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(9000 + seed)
    vae, text = AutoencoderKL(**VAE), CLIPTextModel(CLIPTextConfig(**TEXT))
    for component, model, shard_bytes in (("vae", vae, VAE_SHARD_BYTES), ("text_encoder", text, TEXT_SHARD_BYTES)):
        randomise(model)
        model.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
        for is_pickle in (False, True):
            for size, layout in ((2**30, "single"), (shard_bytes, "sharded")):
                name = f"{component}-{layout}-{'bin' if is_pickle else 'safetensors'}"
                write(out, name, component, model, size, is_pickle)
    name = "vae-sharded-old-variant"
    write(out, name, "vae", vae, VAE_SHARD_BYTES, False)
    rename_to_old_variant(out / "spellings" / name)
    check(out / "spellings" / name, vae, False)


def write(out: Path, name: str, component: str, model: torch.nn.Module, size: int, is_pickle: bool) -> None:
    facts = {"component": component, "variant": VARIANT, "pickle": is_pickle}
    folder = case.write(out, "spellings", name, facts, expected=model.state_dict())
    for old in folder.glob("*model*"):
        old.unlink()
    for variant, saved in ((None, model), (VARIANT, negated(model))):
        if is_pickle and component == "text_encoder":
            save_pickles(saved, folder, variant, size)
        else:
            saved.save_pretrained(folder, variant=variant, max_shard_size=size, safe_serialization=not is_pickle)
    check(folder, model, is_pickle)
