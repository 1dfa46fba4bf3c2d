#!/usr/bin/env bash
# Kernels and training on a machine with a GPU, from a checkout, without an installation or a network:
#
#   benchmarks/gpu.sh [build|check|bench|train] [--out FOLDER] [--seconds N] [--systems "NAME,..."]
#
# build: compile for this GPU. check: every backend against float64, repeats bit for bit, compute-sanitizer.
# bench: times and memory beside the peers that are installed, as per cent of the floor, packing of signs as
# per cent of a copy's rate; tables and JSON.
# train: losses beside the CPU's, bytes a parameter, transfers and overlap with the optimizer in main memory.
# Without a stage: all four. A stage ends after N seconds (450); called again it goes on where it stood
# (exit status 75: more is left). Needs python3 with torch; triton and nvcc where there are kernels for them.
set -uo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
export PYTHONPATH="$root/kernels:$root/science_models${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1

stages=(build check bench train)
case "${1:-}" in
  build | check | bench | train) stages=("$1"); shift ;;
  -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac

python="${PYTHON:-python3}"
if ! "$python" -c "import torch" 2>/dev/null; then
  echo "$python has no torch; name one that has, as PYTHON=.venv/bin/python $0" >&2
  exit 2
fi

for stage in "${stages[@]}"; do
  if [ "$stage" = train ]; then
    "$python" "$root/benchmarks/training_gpu.py" "$@" || exit $?
  else
    "$python" "$root/benchmarks/kernels_gpu.py" "$stage" "$@" || exit $?
  fi
done
