"""Writing one parity case."""

import json
from pathlib import Path

from safetensors.torch import save_file


def write(out: Path, kind: str, name: str, case: dict, **files) -> Path:
    """Writes `out/kind/name/` with `case.json` and one file per keyword: `weights={...}` of tensors becomes
    `weights.safetensors`, `config=ConfigMixin().config` or any other dict of plain values becomes `config.json`."""
    folder = out / kind / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.json").write_text(json.dumps(case, indent=2, sort_keys=True) + "\n")
    for stem, content in files.items():
        tensors = {key: value for key, value in content.items() if hasattr(value, "detach")}
        if tensors:
            tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
            save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})
        else:
            (folder / f"{stem}.json").write_text(json.dumps(dict(content), indent=2, sort_keys=True, default=str) + "\n")
    return folder
