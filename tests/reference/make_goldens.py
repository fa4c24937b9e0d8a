#!/usr/bin/env python3
"""Makes the parity cases: tiny random models and what PyTorch, diffusers and transformers compute with them.

    pip install torch diffusers transformers datasets scipy torchsde pillow opencv-python-headless
    python tests/reference/make_goldens.py --seed 0 --out tests/fixtures/parity [--only unet vae]

Each part is a module `goldens_<part>.py` beside this file with a function `make(out, seed)` that writes
`out/<kind>/<case>/case.json` and safetensors files. Any seed gives valid cases; seed 0 is committed.
"""

import argparse
import importlib
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parts = sorted(path.stem.removeprefix("goldens_") for path in HERE.glob("goldens_*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    args = parser.parse_args()
    for part in args.only:
        importlib.import_module(f"goldens_{part}").make(args.out, args.seed)
        print(f"{part}: done")


if __name__ == "__main__":
    main()
