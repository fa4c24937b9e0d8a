"""CLIPTextModel (with and without a projection) and CLIPTokenizer: hidden states, pooled states, and token ids from every
kind of tokenizer folder."""

import json
import random
import string
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import case
from goldens_unet import randomise

SD1_LIKE = dict(hidden_act="quick_gelu", vocab_size=60, hidden_size=12, intermediate_size=20, num_hidden_layers=3)
SD2_LIKE = dict(hidden_act="gelu", vocab_size=45, hidden_size=16, intermediate_size=24, num_hidden_layers=2)
SDXL_2_LIKE = dict(hidden_act="gelu", vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=3)
# name -> (config, heads, longest sequence, batch, tokens, whether the file has the prefix of transformers before 5.6)
SHAPES = {
    "sd1-like": (SD1_LIKE, 3, 77, 2, 77, True),
    "sd2-like": (SD2_LIKE, 4, 20, 3, 9, False),
    "sdxl-2-like": (SDXL_2_LIKE, 2, 12, 4, 12, False),
    # As the published files have it: a wrong end token, so that the largest id counts.
    "sdxl-2-old": (SDXL_2_LIKE, 4, 12, 3, 12, False),
}

WORDS = """red green blue pale golden rod circle with background old lace a an the photo of cat dog fishing rods
whipped white papaya whip it's don't naïve 猫""".split()
PROMPTS = [
    "",
    " ",
    "red circle with blue background",
    "pale golden rod circle with old lace background",
    "Red CIRCLE with BLUE Background",
    "  red   circle\twith\nblue\r\nbackground  ",
    "a photo of a cat, highly detailed, 4k!!!",
    "a photo, of: a (cat) [dog] {the} <white>",
    "it's don't I'll we've they're he'd I'm IT'S DON'T",
    "'s 't 're ''s 'quoted' ‘curly’ “quotes”",
    "0123456789 3.14 1,000 2nd 10x",
    "²³¼½ ٣٤٥ ⅷ Ⅷ",
    "naïve café façade Ångström ÅNGSTRÖM",
    "cafe\u0301 A\u030angstro\u0308m e\u0301\u0302",
    "猫 一只猫 東京タワー 한국어 조선글",
    "Привет мир ΑΒΓΔ ΣΊΣΥΦΟΣ",
    "İstanbul ISTANBUL ıI ß ẞ ŉ ǅ ﬁ ﬃ",
    "مرحبا بالعالم שלום עולם",
    "हिन्दी தமிழ் ไทย ខ្មែរ",
    "😀 👍🏽 👨‍👩‍👧‍👦 🇫🇷 ❤️ ☃",
    "cat😀dog🐶cat",
    "zero\u200bwidth joi\u200dner \ufeffbom soft\u00adhyphen",
    "nbsp\u00a0space thin\u2009space ideographic\u3000space line\u2028sep para\u2029sep",
    "ogham\u1680space mongolian\u180evowel next\u0085line medium\u205fspace",
    "tab\tvertical\u000bform\u000cfeed",
    "control\u0001chars\u0007bell\u001bescape\u007fdel",
    "separators\u001c\u001d\u001e\u001f here \u0000 nul",
    "&amp; &lt;b&gt; &#39;s &quot;",
    "<b>bold</b> <!-- comment -->",
    "http://example.com/a?b=c&d=e#f user@example.com",
    "C:\\path\\to\\file.txt /usr/bin/env",
    "a_b-c+d=e*f/g^h~i`j|k",
    "... !!! ??? ,,, --- ___ ***",
    "¡Hola! ¿Qué tal? €100 £5 ¥3",
    "«guillemets» „low“ ‹single›",
    "x\u0338 combining\u0323\u0307 marks\u0307\u0323",
    "ｆｕｌｌｗｉｄｔｈ　ＴＥＸＴ １２３",
    "ᾳ ᾼ Ω Å K",
    "\U0001d400\U0001d401 mathematical \U0001d7d8",
    "\U00010400\U00010428 deseret \U0001f150",
    "private\ue000use \U000f0000 plane",
    "noncharacter \uffff \ufffe replacement \ufffd",
    "<|startoftext|> <|endoftext|> inside",
    "<|ENDOFTEXT|> <|StartOfText|>",
    "red<|endoftext|>circle <|endoftext",
    "! !! a!b",
    "a <cat-toy> and a <CAT-TOY>, cat-toy",
    "(red:1.3) [blue|green] ((emphasis)) BREAK",
    "a" * 300,
    "ab " * 50,
    "red circle " * 40,
    "red circle with blue background, " * 3,
    "red circle with blue background and a cat.",
    "😀" * 40,
    "猫" * 60,
    "papaya whip papapapa papayawhip rodod odrod",
    "goldenrod golden-rod golden.rod golden'rod",
    "it’s don’t",
    "mixed123abc 12ab34 a1b2",
    "CamelCaseWords snake_case_words kebab-case-words",
    "the  the the\u00a0\u00a0the",
    "\ud7a3\u1112\u1161\u11ab jamo",
]


def byte_characters() -> dict:
    """GPT-2's table: every byte and the printable character that stands for it, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def build_vocabulary(words: list) -> tuple:
    """Vocabulary and merges with which each word is one token; the same as the text crate's function."""
    characters = byte_characters()
    tokens = [*characters.values(), *(character + "</w>" for character in characters.values())]
    ranks = {}
    for word in words:
        parts = [characters[byte] for byte in word.lower().encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:]))
            _, at = min(((ranks[pair], at) for at, pair in enumerate(pairs) if pair in ranks), default=(None, 0))
            ranks.setdefault(pairs[at], len(ranks))
            parts[at : at + 2] = ["".join(pairs[at])]
            if parts[at] not in tokens:
                tokens.append(parts[at])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: idx for idx, token in enumerate(tokens)}, list(ranks)


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def write_vocabulary(folder: Path) -> None:
    vocab, merges = build_vocabulary(WORDS)
    write_json(folder / "vocab.json", vocab)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def bare(folder: Path) -> None:
    """Nothing but vocabulary and merges."""
    write_vocabulary(folder)


def sd1_folder(folder: Path) -> None:
    """As Stable Diffusion 1.5 has it: special tokens that are normalised, in two files."""
    write_vocabulary(folder)
    token = lambda content: dict(content=content, lstrip=False, normalized=True, rstrip=False, single_word=False)
    bos, eos = token("<|startoftext|>"), token("<|endoftext|>")
    typed = {"bos_token": bos, "eos_token": eos, "unk_token": eos}
    config = {key: {"__type": "AddedToken"} | value for key, value in typed.items()}
    config |= {"pad_token": "<|endoftext|>", "model_max_length": 77, "do_lower_case": True, "add_prefix_space": False}
    write_json(folder / "tokenizer_config.json", config | {"tokenizer_class": "CLIPTokenizer"})
    write_json(folder / "special_tokens_map.json", typed | {"pad_token": "<|endoftext|>"})


def sd2_folder(folder: Path) -> None:
    """As Stable Diffusion 2.1 has it: padded with an exclamation mark; and a learned token."""
    write_vocabulary(folder)
    token = lambda content: dict(content=content, lstrip=False, normalized=True, rstrip=False, single_word=False)
    bos, eos = token("<|startoftext|>"), token("<|endoftext|>")
    named = {"bos_token": bos, "eos_token": eos, "unk_token": eos, "pad_token": "!"}
    write_json(folder / "special_tokens_map.json", named)
    write_json(folder / "tokenizer_config.json", {"model_max_length": 24, "pad_token": "<|endoftext|>"})
    vocab, _ = build_vocabulary(WORDS)
    write_json(folder / "added_tokens.json", {"<cat-toy>": len(vocab)})


def tokenizer_json(folder: Path) -> None:
    """As transformers 5 saves it: one file for everything but the length."""
    vocab, merges = build_vocabulary(WORDS)
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=32).save_pretrained(folder)


def tokenizer_json_of_old(folder: Path) -> None:
    """As transformers 4 saved it: merges are lines, truncation and padding are baked in."""
    tokenizer_json(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    content["truncation"] = dict(direction="Right", max_length=10, strategy="LongestFirst", stride=0)
    content["padding"] = dict(
        strategy={"Fixed": 10}, direction="Right", pad_to_multiple_of=None, pad_id=0, pad_type_id=0, pad_token="!"
    )
    write_json(folder / "tokenizer.json", content)
    write_json(folder / "tokenizer_config.json", {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})


FOLDERS = [bare, sd1_folder, sd2_folder, tokenizer_json, tokenizer_json_of_old]


def random_prompts(seed: int) -> list:
    """Prompts of random characters, different for each seed."""
    draw = random.Random(seed)
    alphabets = [
        string.printable,
        "".join(map(chr, range(0x00, 0x180))),
        "".join(map(chr, range(0x300, 0x600))),
        "".join(map(chr, range(0x1E00, 0x2100))),
        "".join(map(chr, range(0x3000, 0x3200))),
    ]
    prompts = ["".join(draw.choices(alphabet, k=draw.randint(5, 40))) for alphabet in alphabets for _ in range(2)]
    return prompts + [" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) for _ in range(4)]


def make_tokenizers(out: Path, seed: int) -> None:
    prompts = PROMPTS + random_prompts(seed)
    for write_folder in FOLDERS:
        name = write_folder.__name__.replace("_", "-")
        folder = out / "tokenizer" / name / "tokenizer"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        write_folder(folder)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        length = min(tokenizer.model_max_length, 77)
        ids = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        removed = []
        for prompt in prompts:
            untruncated = tokenizer(prompt).input_ids
            too_long = len(untruncated) > length
            removed.append(tokenizer.batch_decode([untruncated[length - 1 : -1]])[0] if too_long else None)
        content = {"prompts": prompts, "removed": removed, "words": WORDS, "vocab_size": len(tokenizer)}
        case.write(out, "tokenizer", name, content, ids=dict(ids=ids))


def padded(ids: torch.Tensor, end: int) -> torch.Tensor:
    """Prompts of all lengths, padded in turn with the end token and with token 0."""
    ids = ids.clamp(max=end - 1)
    for row, length in enumerate(torch.linspace(1, ids.shape[1] - 1, ids.shape[0]).int().tolist()):
        ids[row, length:] = end if row % 2 else 0
        ids[row, length] = end
    return ids


def make(out: Path, seed: int) -> None:
    torch.set_num_threads(1)
    for idx, (name, (config, n_heads, max_tokens, batch, n_tokens, prefixed)) in enumerate(SHAPES.items()):
        torch.manual_seed(4000 * seed + idx)
        end = config["vocab_size"] - 1
        special = dict(pad_token_id=1, bos_token_id=end - 1, eos_token_id=2 if name.endswith("-old") else end)
        config = CLIPTextConfig(
            num_attention_heads=n_heads, max_position_embeddings=max_tokens, projection_dim=8, **config, **special
        )
        model = (CLIPTextModelWithProjection if name.startswith("sdxl") else CLIPTextModel)(config).eval()
        randomise(model)
        config.architectures = [type(model).__name__]
        ids = torch.randint(0, config.vocab_size, (batch, n_tokens))
        if name.startswith("sdxl"):
            ids = padded(ids, end)
        with torch.no_grad():
            outputs = model(ids, output_hidden_states=True)
        expected = {f"hidden.{i}": state for i, state in enumerate(outputs.hidden_states)}
        expected["last_hidden_state"] = outputs.last_hidden_state
        expected["pooled"] = outputs.pooler_output if "pooler_output" in outputs else outputs.text_embeds
        weights = model.state_dict()
        if prefixed:
            weights = {f"text_model.{key}": value for key, value in weights.items()}
            weights["text_model.embeddings.position_ids"] = torch.arange(max_tokens)[None]
        case.write(
            out, "text", name, {}, config=config.to_dict(), weights=weights, inputs=dict(ids=ids), expected=expected
        )
    make_tokenizers(out, seed)
