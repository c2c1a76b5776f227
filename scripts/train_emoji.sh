#!/usr/bin/env bash
# Trains the emoji model from nothing: data, codecs, context encoders, the diffuser's three stages, the judge, the
# shipped folder, and the curves of the three stages. Stop it at any time and call it again: every part goes on where it
# stopped. MINUTES limits each part of one call, for machines that are held for minutes only; STEPS shortens every part,
# to see whether all of it runs, with the few pictures of the tests in minutes:
#   MINUTES=9 scripts/train_emoji.sh
#   STEPS=2 DATA=tests/data/emoji RUNS=runs/dry MODEL=runs/dry/model scripts/train_emoji.sh
set -euo pipefail
cd "$(dirname "$0")/.."
versatile=${VERSATILE:-versatile}
python=${PYTHON:-$(dirname "$(command -v "$versatile")")/python}
data=${DATA:-data/emoji}
runs=${RUNS:-runs/emoji}
model=${MODEL:-models/emoji/src/versatile_diffusion_emoji/weights}
limits=(${MINUTES:+--minutes "$MINUTES"} ${STEPS:+--steps "$STEPS"})

train() { # NAME OF RUN, OBJECTIVE, SETTINGS
    [ -d "$runs/$1/export" ] && return
    "$versatile" train "$2" --settings "$3" --data "$data" --out "$runs/$1" "${limits[@]}"
    [ -d "$runs/$1/export" ] || { echo "$1 goes on with the next call"; exit 0; }
}

[ -f "$data/manifest.json" ] || "$versatile" data emoji --out "$data"
train image-codec image-codec emoji
train context-encoders context-encoders emoji
train text-codec text-codec emoji
train image-context image-context emoji
train diffuser-basic diffuser emoji-basic
train diffuser-dual-context diffuser emoji-dual-context
train diffuser-official diffuser emoji
train judge judge emoji
"$python" -m versatile_diffusion.training.ship --runs "$runs" --data "$data" --out "$model"
"$python" -m versatile_diffusion.evaluation.training_curves "$runs"/diffuser-{basic,dual-context,official} \
    --out "$runs/training.svg"
echo "$model can be loaded; $runs/training.svg shows the losses of the three stages"
