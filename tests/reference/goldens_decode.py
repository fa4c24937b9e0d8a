"""Decode cases: files of every kind, and what Hugging Face's `datasets` and Pillow make of them before training."""

import io
import struct
import zlib
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

import case

ORIENTATION = 0x0112


def make(out: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    picture = noise.resize((24, 16), Image.Resampling.BICUBIC)

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        keep(out, f"jpeg-orientation-{orientation}", picture, "JPEG", 3, exif=exif, quality=95, subsampling=0)
    keep(out, "jpeg-cmyk", picture.convert("CMYK"), "JPEG", 4, quality=95)
    keep(out, "jpeg-grey", picture.convert("L"), "JPEG", 2, quality=95)
    keep(out, "jpeg-progressive", picture, "JPEG", 3, progressive=True, quality=95, subsampling=0)
    keep(out, "jpeg-icc", picture, "JPEG", 3, quality=95, subsampling=0, icc_profile=profile())

    keep(out, "png-palette", picture.quantize(16), "PNG", 0)
    keep(out, "png-palette-transparent", picture.quantize(16), "PNG", 0, transparency=bytes(range(0, 256, 16)))
    keep(out, "png-1-bit", picture.convert("1"), "PNG", 0)
    keep(out, "png-grey-alpha", picture.convert("LA"), "PNG", 0)
    rgba = picture.convert("RGBA")
    rgba.putalpha(picture.convert("L"))
    keep(out, "png-rgba", rgba, "PNG", 0)
    write(out, "png-interlaced", interlaced(picture), "png", 0)
    keep(out, "png-animated", picture, "PNG", 0, save_all=True, append_images=[picture.rotate(180)])
    keep(out, "png-1x1", picture.crop((0, 0, 1, 1)), "PNG", 0)

    keep(out, "webp-lossless", rgba, "WEBP", 0, lossless=True, exact=True)
    keep(out, "webp-lossy", picture, "WEBP", 6, quality=90)
    keep(out, "webp-animated", picture, "WEBP", 0, save_all=True, append_images=[picture.rotate(180)], lossless=True)
    keep(out, "gif-animated", picture, "GIF", 0, save_all=True, append_images=[picture.rotate(180)])
    transparent = picture.quantize(8)
    keep(out, "gif-transparent", transparent, "GIF", 0, transparency=3)
    keep(out, "bmp", picture, "BMP", 0)
    keep(out, "tiff-lzw", picture, "TIFF", 0, compression="tiff_lzw")


def keep(out: Path, name: str, image: Image.Image, kind: str, tolerance: int, **options) -> None:
    file = io.BytesIO()
    image.save(file, kind, **options)
    write(out, name, file.getvalue(), kind.lower(), tolerance)


def write(out: Path, name: str, data: bytes, extension: str, tolerance: int) -> None:
    folder = case.write(out, "decode", name, {"source": f"source.{extension}", "tolerance": tolerance})
    (folder / f"source.{extension}").write_bytes(data)
    decoded = datasets.Image().decode_example({"bytes": data, "path": None})
    decoded.convert("RGB").save(folder / "expected.png")


def profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def interlaced(image: Image.Image) -> bytes:
    """Adam7, which Pillow reads but does not write."""
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    rows = b""
    for top, left, down, right in (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
    ):
        for row in pixels[top::down, left::right]:
            rows += b"\0" + row.tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
