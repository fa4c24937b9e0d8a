"""Image cases: what Pillow makes of a file on its way to a training image or to a hint for inference.

`train` is torchvision's `Resize(side)` and `CenterCrop(side)` with the PIL backend, written with PIL alone:
the shorter side becomes `side`, the longer one `int(side * long / short)`, and crop offsets are Python's `round`.
Pillow 13 or newer: older ones resize the width first in every case, which shows where a filter overshoots.
`inference` is diffusers' `VaeImageProcessor`: Lanczos to a size, or to the own size cut to multiples of 8.
"""

import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import case

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Pixels are equal, except that the weights of these are made with sines, which differ between C libraries.
TOLERANCE = {"hamming": 1, "lanczos": 1}
ORIENTATION = 0x0112


def make(out: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = random.Random(seed)

    def size() -> tuple[int, int]:
        return sizes.randint(41, 75), sizes.randint(41, 75)

    for name in FILTERS:
        for direction, side in [("down", 24), ("up", 88)]:
            train(out, f"{name}_{direction}", picture(rng, *size()), side, name)
    for shape, (width, height) in {"wide": (131, 43), "tall": (45, 120)}.items():
        for name in ["bilinear", "lanczos"]:
            train(out, f"{shape}_{name}", picture(rng, width, height), 32, name)

    rgb = picture(rng, *size())
    alpha = Image.fromarray(rng.integers(0, 256, (rgb.height, rgb.width), dtype=np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    grey_alpha = rgb.convert("L")
    grey_alpha.putalpha(alpha)
    palette = rgb.quantize(17)
    grey16 = Image.fromarray(rng.integers(0, 65536, (size()[1], size()[0]), dtype=np.uint16))
    kinds = {"rgba": rgba, "grey": rgb.convert("L"), "grey_alpha": grey_alpha, "palette": palette, "bilevel": rgb.convert("1")}
    for name, image in kinds.items():
        train(out, f"kind_{name}", image, 32, "bilinear")
    train(out, "kind_palette_transparent", palette, 32, "bilinear", transparency=3)
    train(out, "kind_grey16", grey16, 32, "bilinear", tolerance=1)

    train(out, "format_bmp", rgb, 32, "bilinear", suffix="bmp")
    train(out, "format_tiff", rgb, 32, "bilinear", suffix="tiff")
    train(out, "format_webp", rgb, 32, "bilinear", suffix="webp", lossless=True)
    # Decoders differ by a few levels on a smooth picture; a wrong orientation differs by a hundred.
    smooth = smooth_picture(*size())
    train(out, "format_jpeg", smooth, 32, "bilinear", suffix="jpg", tolerance=6, quality=95)
    for orientation in range(1, 9):
        train(out, f"exif_{orientation}_png", picture(rng, *size()), 16, "bilinear", exif=exif_of(orientation))
    train(out, "exif_6_jpeg", smooth, 32, "bilinear", suffix="jpg", tolerance=6, quality=95, exif=exif_of(6))

    inference(out, "inference_own_size", picture(rng, *size()), None)
    inference(out, "inference_given_size", picture(rng, *size()), (64, 40))


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Black and white noise, which makes filters overshoot, over a gradient, which shows a shift."""
    noise = rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255
    gradient = np.asarray(smooth_picture(width, height))
    is_noise = np.add.outer(np.arange(height) // 8, np.arange(width) // 8) % 2 == 0
    return Image.fromarray(np.where(is_noise[..., None], noise, gradient))


def smooth_picture(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))


def train(out: Path, name: str, image: Image.Image, side: int, interpolation: str, suffix="png", tolerance=None, **save) -> None:
    tolerance = TOLERANCE.get(interpolation, 0) if tolerance is None else tolerance
    source = write(out, name, image, suffix, save, operation="train", side=side, interpolation=interpolation, tolerance=tolerance)
    rgb = as_rgb(Image.open(source))
    width, height = rgb.size
    if width <= height:
        resized = (side, int(side * height / width))
    else:
        resized = (int(side * width / height), side)
    rgb = rgb.resize(resized, FILTERS[interpolation])
    left, top = round((rgb.width - side) / 2), round((rgb.height - side) / 2)
    rgb.crop((left, top, left + side, top + side)).save(source.parent / "expected.png")


def inference(out: Path, name: str, image: Image.Image, size: tuple[int, int] | None) -> None:
    source = write(out, name, image, "png", {}, operation="inference", size=size, tolerance=1)
    rgb = as_rgb(Image.open(source))
    size = size or (rgb.width // 8 * 8, rgb.height // 8 * 8)
    rgb.resize(size, Image.Resampling.LANCZOS).save(source.parent / "expected.png")


def write(out: Path, name: str, image: Image.Image, suffix: str, save: dict, **fields) -> Path:
    folder = case.write(out, "images", name, {"source": f"source.{suffix}", **fields})
    image.save(folder / f"source.{suffix}", **save)
    return folder / f"source.{suffix}"


def as_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow's own conversion cuts off the low byte or clips, by version.
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.round(values * 255 / 65535).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
