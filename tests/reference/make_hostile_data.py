#!/usr/bin/env python3
"""Makes the smallest files of many samples, which the tests damage and the fuzzer begins with.

    pip install pyarrow pillow
    python tests/reference/make_hostile_data.py --out tests/fixtures/hostile/shard
"""

import argparse
import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), color).save(file, "PNG", optimize=True)
    return file.getvalue()


IMAGE, HINT = picture((255, 0, 0)), picture((0, 0, 255))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    struct = lambda data, name: {"bytes": data, "path": name}
    table = pa.table({
        "image": [struct(IMAGE, "a.png"), struct(HINT, "b.png")],
        "conditioning_image": [struct(HINT, "b.png"), struct(IMAGE, "a.png")],
        "text": ["one", "two"],
    })
    pq.write_table(table, out / "struct.parquet", compression="snappy", row_group_size=1)
    binary = pa.table({"image": [IMAGE], "conditioning_image": [HINT], "text": [["one", "two"]]})
    pq.write_table(binary, out / "binary.parquet", compression="zstd")
    for name, new in {"stream.arrow": pa.ipc.new_stream, "file.arrow": pa.ipc.new_file}.items():
        with pa.OSFile(str(out / name), "wb") as file, new(file, table.schema) as writer:
            writer.write_table(table)

    def tar(name: str, format: int, members: dict[str, bytes]) -> None:
        with tarfile.open(out / name, "w", format=format) as archive:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    tar("ustar.tar", tarfile.USTAR_FORMAT, {"0.png": IMAGE, "0.hint.png": HINT, "0.txt": b"one"})
    long = "x" * 110
    tar("pax.tar", tarfile.PAX_FORMAT, {
        f"{long}.image.png": IMAGE,
        f"{long}.conditioning_image.png": HINT,
        f"{long}.json": b'{"text":"one"}',
    })

    metadata = '{"file_name":"a.png","conditioning_image_file_name":"b.png","text":"one"}\n'
    for name, compression in {"stored.zip": zipfile.ZIP_STORED, "deflated.zip": zipfile.ZIP_DEFLATED}.items():
        with zipfile.ZipFile(out / name, "w", compression) as archive:
            for member, data in {"metadata.jsonl": metadata, "a.png": IMAGE, "b.png": HINT}.items():
                archive.writestr(zipfile.ZipInfo(member, (2026, 1, 1, 0, 0, 0)), data, compression)


if __name__ == "__main__":
    main()
