"""Prompt embeddings: diffusers' `encode_prompt` with clip skip and a second prompt, and weighted prompts of any length as AUTOMATIC1111's
web UI encodes them. The bases are those of `goldens_pipeline`, which must be there."""

import re
from pathlib import Path

import torch
from diffusers import StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline

import case

BACKTRACK = 20
PLAIN = ["red circle", "blue", "Red circle, with a Blue background"]
WEIGHTED = [
    "normal text",
    "an (red) cle",
    "(unbalanced",
    r"\(red\]",
    "(a)(b)",
    "a (((red:1.3)) [on] a (b:0.5), d, (((circle))).",
    "red circle, blue, red, blue circle, aa, cle, circle circle circle circle, red red red red red",
    "red BREAK blue, (circle BREAK cle:1.4)",
    "",
    "BREAK",
    "a ) b ] c : 1.5) (red : 0.7 )",
]


def make(out: Path, seed: int) -> None:
    torch.set_num_threads(1)
    for name in ("sd1-like", "sd2-like", "sdxl-like"):
        make_case(out, name)


def make_case(out: Path, name: str) -> None:
    is_xl = name == "sdxl-like"
    pipeline_class = StableDiffusionXLControlNetPipeline if is_xl else StableDiffusionControlNetPipeline
    extra = {} if is_xl else dict(safety_checker=None)
    pipe = pipeline_class.from_pretrained(out / "generate" / name / "base", controlnet=None, **extra)
    if not hasattr(pipe.text_encoder, "text_model"):
        # Diffusers 0.42 looks for the final layer norm where transformers 4 had it.
        object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    expected, plain = {}, []
    for idx, (clip_skip, second) in enumerate([(None, None), (1, None)] + [(None, "cle blue"), (0, "cle")] * is_xl):
        texts = dict(prompt=PLAIN, negative_prompt=["cle"] * len(PLAIN), clip_skip=clip_skip)
        if second is not None:
            texts |= dict(prompt_2=[second] * len(PLAIN), negative_prompt_2=["a b"] * len(PLAIN))
        if is_xl:
            positive, negative, pooled, negative_pooled = pipe.encode_prompt(do_classifier_free_guidance=True, **texts)
            expected |= {f"plain-{idx}-pooled": pooled, f"plain-{idx}-negative-pooled": negative_pooled}
        else:
            positive, negative = pipe.encode_prompt(
                device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True, **texts
            )
        expected |= {f"plain-{idx}": positive, f"plain-{idx}-negative": negative}
        plain.append(dict(clip_skip=clip_skip or 0, second=second))
    for idx, prompt in enumerate(WEIGHTED):
        for clip_skip in (0, 1):
            expected[f"weighted-{idx}-{clip_skip}"] = encode(pipe, prompt, clip_skip, is_xl)
    settings = dict(base=f"../../generate/{name}/base", prompts=PLAIN, plain=plain, weighted=WEIGHTED)
    case.write(out, "prompts", name, settings, expected={key: value.detach() for key, value in expected.items()})


def encode(pipe, prompt: str, clip_skip: int, is_xl: bool) -> torch.Tensor:
    encoders = [(pipe.tokenizer, pipe.text_encoder)]
    if is_xl:
        encoders.append((pipe.tokenizer_2, pipe.text_encoder_2))
    contexts = []
    for tokenizer, encoder in encoders:
        parts = []
        for ids, weights in chunks(tokenizer, parse(prompt)):
            output = encoder(torch.tensor([ids]), output_hidden_states=True)
            if is_xl:
                states = output.hidden_states[-(clip_skip + 2)]
            elif clip_skip:
                final_layer_norm = getattr(encoder, "text_model", encoder).final_layer_norm
                states = final_layer_norm(output.hidden_states[-(clip_skip + 1)])
            else:
                states = output.last_hidden_state
            before = states.mean()
            states = states * torch.tensor(weights)[None, :, None]
            parts.append(states * (before / states.mean()))
        contexts.append(torch.cat(parts, 1))
    return torch.cat(contexts, 2)


def chunks(tokenizer, pieces: list) -> list:
    """Token ids and weights of each chunk."""
    room = tokenizer.model_max_length - 2
    comma = tokenizer.get_vocab()[",</w>"]
    done, current, last_comma = [], [], -1

    def close() -> None:
        nonlocal current, last_comma
        done.append(current)
        current, last_comma = [], -1

    for text, weight in pieces:
        if text is None:
            close()
            continue
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            if token == comma:
                last_comma = len(current)
            elif len(current) == room and last_comma != -1 and len(current) - last_comma <= BACKTRACK:
                moved = current[last_comma + 1 :]
                current = current[: last_comma + 1]
                close()
                current = moved
            if len(current) == room:
                close()
            current.append((token, weight))
    if current or not done:
        close()
    framed = []
    for chunk in done:
        ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
        padding = tokenizer.model_max_length - len(ids)
        framed.append((ids + [tokenizer.pad_token_id] * padding, [1.0, *(weight for _, weight in chunk), 1.0] + [1.0] * padding))
    return framed


TOKEN = re.compile(r"\\\(|\\\)|\\\[|\\]|\\\\|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|]|[^\\()\[\]:]+|:")


def parse(prompt: str) -> list:
    """Pairs of text and weight; text None is a break."""
    pieces, rounds, squares = [], [], []

    def scale(start: int, factor: float) -> None:
        for piece in pieces[start:]:
            piece[1] *= factor

    for match in TOKEN.finditer(prompt):
        token, weight = match.group(0), match.group(1)
        if token.startswith("\\"):
            pieces.append([token[1:], 1.0])
        elif token == "(":
            rounds.append(len(pieces))
        elif token == "[":
            squares.append(len(pieces))
        elif weight is not None and rounds:
            scale(rounds.pop(), float(weight))
        elif token == ")" and rounds:
            scale(rounds.pop(), 1.1)
        elif token == "]" and squares:
            scale(squares.pop(), 1 / 1.1)
        else:
            for idx, part in enumerate(re.split(r"\s*\bBREAK\b\s*", token)):
                pieces += [[None, 1.0]] * (idx > 0) + [[part, 1.0]]
    for start in rounds:
        scale(start, 1.1)
    for start in squares:
        scale(start, 1 / 1.1)
    merged = []
    for text, weight in pieces:
        if merged and text is not None and merged[-1][0] is not None and merged[-1][1] == weight:
            merged[-1][0] += text
        else:
            merged.append([text, weight])
    return merged
