#!/usr/bin/env bash
# What this package does on a GPU, in at most 8 minutes, without a network: its tests there, then speed and memory.
#
#   scripts/gpu_check.sh [--tiny]            the tests marked `gpu`, then figures into benchmarks/gpu.md
#   scripts/gpu_check.sh tests               the tests alone
#   scripts/gpu_check.sh figures [--tiny]    the figures alone; --tiny: tiny models on any device, printed
#   scripts/gpu_check.sh wheels FOLDER [NAME ...]
#                                            on a machine with PyPI: what a GPU machine may lack, as wheels
#
# Variables: PYTHON (python3), WHEELS (folder of wheels: what is missing is installed from it, into a folder of its
# own), PLATFORM_PYTHON (of `wheels`: Python version of the GPU machine, that of this one by default), OUT (folder that
# gets a copy of the figures).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
wanted=${1:-all}
case $wanted in
    wheels) shift; exec "$python" scripts/gpu_check.py wheels "$@" ;;
    all | tests | figures) shift $(($# > 0)) ;;
    --*) wanted=all ;;
    *) echo "no command '$wanted'; give tests, figures or wheels" >&2; exit 2 ;;
esac

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
missing=$("$python" scripts/gpu_check.py missing)
if [ -n "$missing" ] && [ -n "${WHEELS:-}" ]; then
    # shellcheck disable=SC2086  # names are words
    "$python" -m pip install --quiet --no-index --find-links "$WHEELS" --no-deps --target "$site" $missing
elif [ -n "$missing" ]; then
    echo "missing here: $missing; where PyPI is: scripts/gpu_check.sh wheels FOLDER $missing; here: WHEELS=FOLDER" >&2
    exit 2
fi
export PYTHONPATH="$PWD/src:$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
export CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True

status=0 outcome=()
if [ "$wanted" != figures ]; then
    timeout 270 "$python" -m pytest -m gpu -p no:cacheprovider tests/*/test_device_*.py || status=$?
    outcome=(--tests "$status")
fi
if [ "$wanted" != tests ]; then
    "$python" scripts/gpu_check.py figures --seconds $((460 - SECONDS)) "${outcome[@]}" "$@" || status=$?
fi
exit "$status"
