"""Edge cases: what OpenCV's Canny finds in a picture, with the thresholds of the guides to ControlNet."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import case


def make(out: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    soft = Image.fromarray(noise).resize((61, 47), Image.Resampling.BICUBIC)
    find(out, "soft", soft)
    find(out, "hard", Image.fromarray(noise).resize((61, 47), Image.Resampling.NEAREST).rotate(17))
    find(out, "noise", Image.fromarray(rng.integers(0, 120, (40, 33, 3), dtype=np.uint8)))
    # Red and green of equal lightness: a grey picture would have no edge.
    circle = np.full((48, 48, 3), (200, 40, 40), dtype=np.uint8)
    cv2.circle(circle, (22, 26), 15, (10, 137, 40), -1)
    find(out, "equal-lightness", Image.fromarray(circle))


def find(out: Path, name: str, picture: Image.Image) -> None:
    folder = case.write(out, "edges", name, {"thresholds": [100, 200]})
    picture.save(folder / "source.png")
    Image.fromarray(cv2.Canny(np.asarray(picture), 100, 200)).save(folder / "expected.png")
