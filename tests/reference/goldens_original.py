"""Which tensor of a file with the original names each tensor with diffusers' name is, for the full-size models of the
`contract` part: what diffusers' own converters make of files whose tensors are told apart by their numbers."""

import gzip
import itertools
import json
from pathlib import Path

import torch
from diffusers.loaders import single_file_utils as convert

LAYERS = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")
INSIDE_OF_A_TEXT_LAYER = ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")


class Original:
    """A file in the making; every element of every tensor is another number."""

    def __init__(self):
        self.tensors = {}
        self.next = itertools.count(1)

    def add(self, name: str, *shape: int) -> None:
        n = torch.Size(shape).numel()
        self.tensors[name] = torch.tensor([next(self.next) for _ in range(n)], dtype=torch.float64).reshape(shape)

    def layer(self, name: str) -> None:
        self.add(f"{name}.weight", 2)
        self.add(f"{name}.bias", 2)

    def place(self, tensor: torch.Tensor) -> str:
        """The name of the tensor that this is, or is a part of, and which part."""
        for name, whole in self.tensors.items():
            if tensor.numel() == whole.numel() and torch.equal(tensor.flatten(), whole.flatten()):
                return f"{name}\twhole"
            if whole.ndim == 2 and torch.equal(tensor, whole.T):
                return f"{name}\ttransposed"
            for idx, third in enumerate(whole.chunk(3)):
                if "in_proj" in name and torch.equal(tensor, third):
                    return f"{name}\tthird {idx}"
        raise AssertionError("a tensor that is not in the file")


def transformer_names(names: list[str], diffusers: str) -> list[str]:
    """What is inside of a transformer has the same names in both."""
    return [name.removeprefix(f"{diffusers}.") for name in names if name.startswith(f"{diffusers}.")]


def encoder(file: Original, prefix: str, names: list[str]) -> None:
    for layer in ("time_embed.0", "time_embed.2", "input_blocks.0.0"):
        file.layer(prefix + layer)
    if "add_embedding.linear_1.weight" in names:
        file.layer(prefix + "label_emb.0.0")
        file.layer(prefix + "label_emb.0.2")
    block = 1
    for stage in range(4):
        for idx in range(2):
            one(file, f"{prefix}input_blocks.{block}", names, f"down_blocks.{stage}", idx)
            block += 1
        if f"down_blocks.{stage}.downsamplers.0.conv.weight" in names:
            file.layer(f"{prefix}input_blocks.{block}.0.op")
            block += 1
    resnet(file, f"{prefix}middle_block.0", names, "mid_block.resnets.0")
    for name in transformer_names(names, "mid_block.attentions.0"):
        file.add(f"{prefix}middle_block.1.{name}", 2)
    resnet(file, f"{prefix}middle_block.2", names, "mid_block.resnets.1")


def resnet(file: Original, original: str, names: list[str], diffusers: str) -> None:
    for layer in LAYERS:
        if layer != "skip_connection" or f"{diffusers}.conv_shortcut.weight" in names:
            if f"{diffusers}.conv1.weight" in names:
                file.layer(f"{original}.{layer}")


def one(file: Original, original: str, names: list[str], diffusers: str, idx: int) -> None:
    resnet(file, f"{original}.0", names, f"{diffusers}.resnets.{idx}")
    for name in transformer_names(names, f"{diffusers}.attentions.{idx}"):
        file.add(f"{original}.1.{name}", 2)


def unet(names: list[str], config: dict) -> tuple[Original, dict]:
    file, prefix = Original(), "model.diffusion_model."
    encoder(file, prefix, names)
    block = 0
    for stage in range(4):
        if f"up_blocks.{stage}.resnets.0.conv1.weight" not in names:
            break
        for idx in range(3):
            one(file, f"{prefix}output_blocks.{block}", names, f"up_blocks.{stage}", idx)
            block += 1
        if f"up_blocks.{stage}.upsamplers.0.conv.weight" in names:
            place = 2 if f"up_blocks.{stage}.attentions.0.norm.weight" in names else 1
            file.layer(f"{prefix}output_blocks.{block - 1}.{place}.conv")
    file.layer(f"{prefix}out.0")
    file.layer(f"{prefix}out.2")
    defaults = {"class_embed_type": None, "addition_embed_type": None, "num_class_embeds": None}
    return file, convert.convert_ldm_unet_checkpoint(dict(file.tensors), defaults | config)


def controlnet(names: list[str], config: dict) -> tuple[Original, dict]:
    file, prefix = Original(), "control_model."
    encoder(file, prefix, names)
    n_zero_convs = sum(name.startswith("controlnet_down_blocks.") for name in names) // 2
    for idx in range(n_zero_convs):
        file.layer(f"{prefix}zero_convs.{idx}.0")
    file.layer(f"{prefix}middle_block_out.0")
    for idx in range(0, 15, 2):
        file.layer(f"{prefix}input_hint_block.{idx}")
    converted = convert.convert_controlnet_checkpoint(dict(file.tensors), config)
    # Diffusers has no rule for what only XL has, though the UNet's names are the same.
    for idx, layer in itertools.product((1, 2), ("weight", "bias")):
        if f"add_embedding.linear_{idx}.{layer}" in names:
            original = f"{prefix}label_emb.0.{2 * idx - 2}.{layer}"
            converted[f"add_embedding.linear_{idx}.{layer}"] = file.tensors[original]
    return file, converted


def vae(names: list[str], config: dict) -> tuple[Original, dict]:
    file, prefix = Original(), "first_stage_model."
    for layer in ("quant_conv", "post_quant_conv"):
        file.layer(prefix + layer)
    for half, blocks in (("encoder", "down"), ("decoder", "up")):
        for layer in ("conv_in", "norm_out", "conv_out"):
            file.layer(f"{prefix}{half}.{layer}")
        for idx in (1, 2):
            for layer in ("norm1", "conv1", "norm2", "conv2"):
                file.layer(f"{prefix}{half}.mid.block_{idx}.{layer}")
        file.layer(f"{prefix}{half}.mid.attn_1.norm")
        for layer in ("q", "k", "v", "proj_out"):
            file.add(f"{prefix}{half}.mid.attn_1.{layer}.weight", 2, 2, 1, 1)
            file.add(f"{prefix}{half}.mid.attn_1.{layer}.bias", 2)
        for level in range(4):
            diffusers = f"{half}.{blocks}_blocks.{level if half == 'encoder' else 3 - level}"
            for idx in range(3):
                for ours, theirs in (("norm1",) * 2, ("conv1",) * 2, ("norm2",) * 2, ("conv2",) * 2,
                                     ("conv_shortcut", "nin_shortcut")):  # fmt: skip
                    if f"{diffusers}.resnets.{idx}.{ours}.weight" in names:
                        file.layer(f"{prefix}{half}.{blocks}.{level}.block.{idx}.{theirs}")
            if f"{diffusers}.{blocks}samplers.0.conv.weight" in names:
                file.layer(f"{prefix}{half}.{blocks}.{level}.{blocks}sample.conv")
    return file, convert.convert_ldm_vae_checkpoint(dict(file.tensors), config)


def clip(names: list[str], _config: dict) -> tuple[Original, dict]:
    file = Original()
    for name in names:
        if not name.startswith("text_projection"):
            file.add(f"cond_stage_model.transformer.{name}", 2)
    return file, convert.convert_ldm_clip_checkpoint(dict(file.tensors))


def open_clip(prefix: str, n_layers: int):
    def make(names: list[str], _config: dict) -> tuple[Original, dict]:
        file = Original()
        for name in ("token_embedding.weight", "positional_embedding"):
            file.add(prefix + name, 2, 2)
        file.layer(f"{prefix}ln_final")
        file.add(f"{prefix}text_projection", 2, 3)
        file.add(f"{prefix}logit_scale", 1)
        for idx in range(n_layers):
            layer = f"{prefix}transformer.resblocks.{idx}"
            file.add(f"{layer}.attn.in_proj_weight", 6, 2)
            file.add(f"{layer}.attn.in_proj_bias", 6)
            for inner in INSIDE_OF_A_TEXT_LAYER:
                file.layer(f"{layer}.{inner}")
        return file, convert.convert_open_clip_checkpoint(None, dict(file.tensors), prefix=prefix)

    return make


MODELS = {
    "unet-sd15": unet,
    "unet-sd21": unet,
    "unet-sdxl": unet,
    "controlnet-sd15": controlnet,
    "controlnet-sd21": controlnet,
    "controlnet-sdxl": controlnet,
    "vae-sd15": vae,
    "clip-l": clip,
    "open-clip-h": open_clip("cond_stage_model.model.", 24),
    "open-clip-big-g": open_clip("conditioner.embedders.1.model.", 32),
}


def make(out: Path, seed: int) -> None:
    for model, make_file in MODELS.items():
        contract = Path(__file__).parents[1] / "fixtures" / "parity" / "contract" / model
        names = sorted(json.loads((contract / "case.json").read_text()))
        config = json.loads((contract / "config.json").read_text())
        file, converted = make_file(names, config)
        converted = {name: tensor for name, tensor in converted.items() if "position_ids" not in name}
        # The contract has text encoders with a projection, whether their model has one or not.
        wanted = [name for name in names if name in converted or not name.startswith("text_projection")]
        assert sorted(converted) == wanted, sorted(set(converted) ^ set(wanted))[:8]
        lines = "".join(f"{name}\t{file.place(converted[name])}\n" for name in wanted)
        case = out / "original" / model
        case.mkdir(parents=True, exist_ok=True)
        (case / "case.json").write_text(json.dumps({"n_tensors": len(wanted)}) + "\n")
        (case / "places.tsv.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
