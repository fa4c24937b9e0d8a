#!/usr/bin/env bash
# Times training of SD 1.5 at 512 px on this machine's device in turns with diffusers'.
#
# $OUT (default: the current folder) gets bench-report.md and bench-report.json, written anew after each size. $PYROGRAPH_PYTHON,
# or python3, needs torch, transformers and diffusers to time diffusers, too: on CUDA in bf16 where PyTorch finds it.
# Arguments go to bench_vs_diffusers.py and win over these.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
exec "${PYROGRAPH_PYTHON:-python3}" "$here/bench/bench_vs_diffusers.py" --pyrograph "$here/pyrograph" \
  --resolution 512 --batch-size 1 4 8 16 --steps 10 @OURS@ --theirs="--device auto --mixed-precision auto" \
  --report "${OUT:-.}/bench-report.md" --json "${OUT:-.}/bench-report.json" "$@"
