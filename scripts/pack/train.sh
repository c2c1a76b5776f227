#!/usr/bin/env bash
# Trains by the clock on this machine, without network, and leaves RESULTS: the newest average in pieces under 15 MB
# (renewed every two minutes; whole after any stop), log, sheets and throughput.
#   train.sh MINUTES [RESULTS]     MINUTES of training; allow two more for encoding and the end
#   train.sh --profile [RESULTS]   steps a second by batch size, compiled or not
# CHECK=no leaves out the comparison of the first steps with the CPU's. SETTINGS=emoji-2 OPTIONS="..." change the run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
minutes=${1:?MINUTES, or --profile}
results=$(mkdir -p "${2:-results}" && cd "${2:-results}" && pwd)
work=${WORK:-$here/work}
python=${PYTHON:-python3}
mkdir -p "$work"
"$python" "$here/versions.py"
"$python" -m pip install -q --disable-pip-version-check --no-index --no-deps --no-compile --upgrade \
    --target "$work/site" "$here"/wheels/*.whl
export PYTHONPATH=$here/src:$work/site HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
"$python" "$here/versions.py" --imports
[ -f "$work/data/manifest.json" ] || { mkdir -p "$work/data" && tar -xJf "$here/data.tar.xz" -C "$work/data"; }
[ "${CHECK:-yes}" = no ] || "$python" "$here/check.py" --data "$work/data" --against "$here/cpu.json" | tee "$results/check.json"
if [ "$minutes" = --profile ]; then
    "$python" "$here/speeds.py" --data "$work/data" --work "$work" | tee "$results/profile.jsonl"
    exit
fi
run=$work/run
collect() { "$python" "$here/collect.py" --run "$run" --export "$1" --out "$results" --cpu "$here/cpu.json" || true; }
watch() { # renews the results whenever the run has written a new average
    seen=
    while sleep 5; do
        now=$(stat -c %Y "$run/export-newest/unet/config.json" 2>/dev/null || true)
        [ -z "$now" ] || [ "$now" = "$seen" ] || { seen=$now; collect export-newest; }
    done
}
watch & watcher=$!
trap 'kill $watcher 2>/dev/null || true' EXIT
# shellcheck disable=SC2086
"$python" -m versatile_diffusion train diffuser --settings "${SETTINGS:-emoji-2-gpu}" --data "$work/data" --out "$run" \
    --by-clock "$minutes" --export-minutes 2 ${OPTIONS:-} 2>&1 | tee "$results/train.txt"
kill $watcher 2>/dev/null || true
if [ -d "$run/export" ]; then collect export; else collect export-newest; fi
