#!/usr/bin/env bash
# One command, no network, under eight minutes on a GPU: sampling (eager, compiled, diffusers) and training of a diffuser
# of full size. Options go on to gpu.py, such as --batches 1,4 or --out FILE; --help lists them.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 PYTHONPATH="src:benchmarks${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
exec timeout "${LIMIT:-480}" "$python" benchmarks/gpu.py "$@"
