#!/usr/bin/env python3
"""Makes one data set of five pairs in every layout that is read, with the tools that people use for each.

    pip install datasets pyarrow pillow
    python tests/reference/make_layouts.py --out tests/fixtures/layouts

`imagefolder/` is what the others are compared with: the same pictures, byte for byte, in the same order.
"""

import argparse
import csv
import io
import json
import random
import shutil
import tarfile
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import embed_table_storage
from PIL import Image

COUNT = 5
CAPTIONS = ["red circle", "a caption, with a comma", 'one with "quotes"', "größer", ""]


def picture(seed: int) -> bytes:
    draw = random.Random(seed)
    image = Image.new("RGB", (16, 12), tuple(draw.randrange(256) for _ in range(3)))
    for _ in range(20):
        image.putpixel((draw.randrange(16), draw.randrange(12)), tuple(draw.randrange(256) for _ in range(3)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


IMAGES = [picture(index) for index in range(COUNT)]
HINTS = [picture(100 + index) for index in range(COUNT)]


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def pictures(folder: Path, images: str = "images", hints: str = "conditioning_images") -> None:
    for index in range(COUNT):
        write(folder / images / f"{index}.png", IMAGES[index])
        write(folder / hints / f"{index}.png", HINTS[index])


def rows(image: str, hint: str, text: str, images: str = "images", hints: str = "conditioning_images") -> list[dict]:
    return [
        {image: f"{images}/{index}.png", hint: f"{hints}/{index}.png", text: CAPTIONS[index]} for index in range(COUNT)
    ]


def json_lines(of: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in of)


def hub_dataset(first: int, last: int, bytes_only: bool = False) -> datasets.Dataset:
    """What `load_dataset` gives: pictures as structs of bytes and path."""
    struct = lambda data, name: {"bytes": data, "path": name}
    table = {
        "image": [struct(IMAGES[index], f"{index}.png") for index in range(first, last)],
        "conditioning_image": [struct(HINTS[index], f"{index}.png") for index in range(first, last)],
        "text": CAPTIONS[first:last],
        "score": [0.5] * (last - first),
    }
    features = datasets.Features(
        image=datasets.Image(),
        conditioning_image=datasets.Image(),
        text=datasets.Value("string"),
        score=datasets.Value("float64"),
    )
    return datasets.Dataset.from_dict(table, features=features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    datasets.disable_progress_bars()

    names = ("file_name", "conditioning_image_file_name", "text")
    pictures(out / "imagefolder/train")
    write(out / "imagefolder/train/metadata.jsonl", json_lines(rows(*names)))

    pictures(out / "metadata-parquet/train")
    table = pa.Table.from_pylist(rows(*names))
    pq.write_table(table, out / "metadata-parquet/train/metadata.parquet")

    # What push_to_hub does with each shard.
    for split, edges in {"train": (0, 3, COUNT), "test": (0, 1)}.items():
        shards = list(zip(edges, edges[1:]))
        for place, (first, last) in enumerate(shards):
            shard = hub_dataset(first, last).with_format("arrow").map(embed_table_storage, batched=True, batch_size=2)
            path = out / f"parquet/data/{split}-{place:05}-of-{len(shards):05}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            shard.to_parquet(path, batch_size=2)

    # Plain bytes, other names, another compression, captions as lists.
    table = pa.table({
        "picture": pa.array(IMAGES, pa.large_binary()),
        "edges": HINTS,
        "words": pa.array([[caption] for caption in CAPTIONS]),
    })
    pq.write_table(table, out / "parquet-binary.parquet", compression="zstd", row_group_size=2, use_dictionary=False)
    # Paths.
    pictures(out / "parquet-paths")
    table = pa.Table.from_pylist(rows("image", "conditioning_image", "text"))
    pq.write_table(table, out / "parquet-paths/train.parquet", compression="lz4")

    for name, whole in {"arrow": hub_dataset(0, COUNT), "arrow-dict": datasets.DatasetDict(
        train=hub_dataset(0, COUNT), test=hub_dataset(0, 1)
    )}.items():
        num_shards = {"num_shards": {"train": 2, "test": 1}} if name == "arrow-dict" else {"num_shards": 2}
        whole.save_to_disk(out / name, **num_shards)

    def tar(path: Path, members: list[tuple[str, bytes]], **options) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", **options) as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    def texts(index: int) -> list[tuple[str, bytes]]:
        return [
            (f"{index:04}.jpg", IMAGES[index]),
            (f"{index:04}.hint.png", HINTS[index]),
            (f"{index:04}.txt", CAPTIONS[index].encode()),
        ]

    tar(out / "webdataset/shard-000000.tar", [member for index in range(3) for member in texts(index)])
    tar(out / "webdataset/shard-000001.tar", [member for index in range(3, COUNT) for member in texts(index)])

    # Names that need a pax header, captions in JSON, folders.
    long = "sub/" + "x" * 120
    tar(out / "webdataset-json.tar", [member for index in range(COUNT) for member in [
        (f"./{long}-{index}.conditioning_image.png", HINTS[index]),
        (f"./{long}-{index}.image.png", IMAGES[index]),
        (f"./{long}-{index}.json", json.dumps({"text": CAPTIONS[index], "width": 16}).encode()),
    ]], format=tarfile.PAX_FORMAT)

    def archive(path: Path, members: list[tuple[str, bytes]], compression: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, data in members:
                file.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data, compression)

    def members(images: str, hints: str) -> list[tuple[str, bytes]]:
        return [(f"{images}/{index}.png", IMAGES[index]) for index in range(COUNT)] + [
            (f"{hints}/{index}.png", HINTS[index]) for index in range(COUNT)
        ]

    metadata = ("train/metadata.jsonl", json_lines(rows(*names)).encode())
    for name, compression in {"zip-stored": zipfile.ZIP_STORED, "zip-deflated": zipfile.ZIP_DEFLATED}.items():
        archive(out / f"{name}.zip", [*members("train/images", "train/conditioning_images"), metadata], compression)

    # fusing/fill50k: a script that is not run, a table and two archives.
    script = out / "fill50k-script"
    write(script / "fill50k.py", "raise RuntimeError('a dataset script is never run')\n")
    write(script / "train.jsonl", json_lines(rows("image", "conditioning_image", "text")))
    split = members("images", "conditioning_images")
    archive(script / "images.zip", split[:COUNT], zipfile.ZIP_DEFLATED)
    archive(script / "conditioning_images.zip", split[COUNT:], zipfile.ZIP_STORED)

    # lllyasviel's own fill50k.
    pictures(out / "fill50k", "target", "source")
    write(out / "fill50k/prompt.json", json_lines(rows("target", "source", "prompt", "target", "source")))

    # Tables of any name.
    pictures(out / "jsonl")
    write(out / "jsonl/pairs.jsonl", json_lines(rows("image", "conditioning_image", "text")))
    pictures(out / "csv")
    with open(out / "csv/pairs.csv", "w", newline="") as file:
        table = csv.DictWriter(file, ["image", "conditioning_image", "text"])
        table.writeheader()
        table.writerows(rows("image", "conditioning_image", "text"))

    # Two folders, and kohya's two roots with folders of repeats.
    pictures(out / "paired")
    pictures(out / "kohya", "img/1_circles", "cond")
    for index in range(COUNT):
        write(out / f"paired/images/{index}.txt", CAPTIONS[index])
        write(out / f"kohya/img/1_circles/{index}.caption", CAPTIONS[index])


if __name__ == "__main__":
    main()
