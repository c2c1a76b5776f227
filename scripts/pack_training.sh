#!/usr/bin/env bash
# Makes a folder of at most 40 MiB that trains the emoji model's diffuser on a machine with a GPU and no network: this
# commit's source, the data set, codecs and context encoders, wheels of what such a machine may lack, and train.sh.
#   versatile data emoji --out data/emoji
#   scripts/pack_training.sh OUT [DATA]
# There: OUT/train.sh MINUTES RESULTS   (or: OUT/train.sh --profile)
set -euo pipefail
. "$(dirname "$0")/paths.sh"
out=${1:?the folder to write}
data=${2:-data/emoji}
python=${PYTHON:-.venv/bin/python}
wheels=(diffusers importlib_metadata zipp requests urllib3 idna certifi charset_normalizer braceexpand einops
    jaxtyping wadler_lindig typer shellingham click annotated_doc rich markdown_it_py mdurl pygments tqdm accelerate)
top=$(git rev-parse --show-toplevel)
[ -f "$data/manifest.json" ] || { echo "error: $data holds no data set; \`versatile data emoji --out $data\` builds one" >&2; exit 2; }
[ ! -e "$out" ] || { echo "error: $out is there already" >&2; exit 2; }
mkdir -p "$out/wheels"
git -C "$top" archive HEAD src models/emoji/pyproject.toml models/emoji/src constraints/ci.txt pyproject.toml \
    | tar -x -C "$out" --exclude='*/weights/unet/*.safetensors' --exclude='src/versatile_diffusion/ui/assets'
cp "$top"/scripts/pack/* "$out/"
(cd "$data" && tar -c manifest.json ./*.tar) | xz -T1 -6 > "$out/data.tar.xz"
"$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform any --implementation py --abi none --python-version 3.12 -d "$out/wheels" \
    -c "$top/constraints/ci.txt" "${wheels[@]}"
"$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: -d "$out/wheels" \
    -c "$top/constraints/ci.txt" psutil # of accelerate; its wheel is for every Python 3
PYTHONPATH=$out/src "$python" "$out/check.py" --data "$data" --record "$out/cpu.json"
size=$(du -sm "$out" | cut -f1)
[ "$size" -le 40 ] || { echo "error: $out takes $size MiB; at most 40 are meant" >&2; exit 1; }
echo "$out takes $size MiB; there: train.sh MINUTES RESULTS"
