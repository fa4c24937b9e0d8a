#!/usr/bin/env bash
# Tests and times Pyrograph on this machine's device, without Rust.
#
#   ./run.sh                 every step in turn: parity train demo bench
#   ./run.sh parity demo     these steps
#   ./run.sh tests ARGS...   the test binary with arguments of its own, such as `parity::vae --nocapture`
#
# $OUT (`report` beside this script) gets report.md, and all that a step said in STEP.log. A step may take $LIMIT (540) seconds. One
# that fails is told in the report, and the next one begins; the exit code is 1 then. $BENCH holds arguments for bench.sh.
set -u
here="$(cd "$(dirname "$0")" && pwd)"
export OUT="${OUT:-$here/report}" PYROGRAPH_FIXTURES="$here/fixtures" PYROGRAPH_BIN="$here/pyrograph"
limit="${LIMIT:-540}"
report="$OUT/report.md"
mkdir -p "$OUT" || exit 1
failures=0

tell() { printf '%s\n' "$@" | tee -a "$report"; }

# Kernels are compiled by NVRTC with CUDA's headers; CubeCL looks for them in CUDA_PATH, and the loader for the library.
find_cuda() {
  local nvcc wheels folder
  nvcc="$(readlink -f "$(command -v nvcc || true)")"
  wheels="$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)"
  for folder in "${CUDA_PATH:-}" /usr/local/cuda /opt/cuda "${nvcc%/bin/nvcc}" "$wheels/cu13" /usr; do
    if [ -e "$folder/include/cuda_fp16.h" ]; then
      export CUDA_PATH="$folder"
      break
    fi
  done
  for folder in "${CUDA_PATH:-}"/{lib64,lib,targets/x86_64-linux/lib} "$wheels"/cuda_nvrtc/lib; do
    if compgen -G "$folder/libnvrtc.so*" >/dev/null; then
      export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
      tell "- NVRTC: $(compgen -G "$folder/libnvrtc.so*" | head -n 1); headers: ${CUDA_PATH:-not found}"
      return
    fi
  done
  tell "- NVRTC: $(ldconfig -p 2>/dev/null | grep -m 1 libnvrtc.so || echo 'not found'); headers: ${CUDA_PATH:-not found}"
}

machine() {
  tell "# $("$here/pyrograph" --version 2>&1 | head -n 1), @BACKEND@" "" \
    "- when: $(date -u +%FT%TZ)" \
    "- system: $(sed -n 's/^PRETTY_NAME=//p' /etc/os-release), Linux $(uname -r), $(getconf GNU_LIBC_VERSION), $(nproc) cores"
  if command -v nvidia-smi >/dev/null; then
    tell "- device: $(nvidia-smi --query-gpu=name,memory.total,compute_cap --format=csv,noheader 2>&1 | head -n 4)" \
      "- driver: $(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1 | head -n 1), $(nvidia-smi | grep -o 'CUDA[^|]*Version: [0-9.]*' | head -n 1)"
  else
    tell "- device: there is no nvidia-smi"
  fi
  if [ @BACKEND@ = cuda ]; then find_cuda; fi
}

# Runs a step, and tells how it ended and the end of what it said; for tests, which failed and why.
step() {
  local name="$1" log="$OUT/$1.log" start=$SECONDS code
  shift
  timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1
  code=$?
  local seconds=$((SECONDS - start)) end="passed"
  if [ $code = 124 ] || [ $code = 137 ]; then end="stopped at its limit"; elif [ $code != 0 ]; then end="failed, exit code $code"; fi
  if [ $code != 0 ]; then failures=$((failures + 1)); fi
  tell "" "## $name: $end, $seconds s" "" '```'
  if grep -q '^running [0-9]* test' "$log"; then
    grep -E -A 3 '\.\.\. (FAILED|ignored)|panicked at|^test result|has been running' "$log" | grep -v '\.\.\. ok$' | cut -c1-300 | tail -n 60 | tee -a "$report"
    tell "$(grep -c '\.\.\. ok$' "$log") tests passed"
    if [ "$end" = "stopped at its limit" ]; then tell "the last line: $(tail -n 1 "$log" | cut -c1-300)"; fi
  else
    tail -n 30 "$log" | cut -c1-300 | tee -a "$report"
  fi
  tell '```'
}

# One test at a time: they share the device, and its memory.
tests() { step "$1" "$here/tests" --test-threads 1 "${@:2}"; }

demo() {
  local folder
  folder="$(mktemp -d)"
  step demo "$here/pyrograph" demo "$folder/demo" --json
  cp "$folder/demo/report.html" "$OUT/demo.html" 2>/dev/null
  rm -rf "$folder"
}

# shellcheck disable=SC2086 # several arguments
bench() { step bench "$here/bench.sh" ${BENCH:-}; }

machine
if [ "${1:-}" = tests ]; then
  shift
  tests tests "$@"
else
  if [ $# = 0 ]; then set -- parity train demo bench; fi
  for name in "$@"; do
    case "$name" in
      parity | train) tests "$name" "$name::" ;;
      demo | bench) "$name" ;;
      *) tell "" "## $name: there is no such step" && failures=$((failures + 1)) ;;
    esac
  done
fi
tell "" "$failures steps failed; see $report"
[ "$failures" = 0 ]
