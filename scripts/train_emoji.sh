#!/usr/bin/env bash
# Trains the emoji model's diffuser on the second edition of the set, with the codecs and context encoders of the
# installed model; then the judge, and the shipped folder. Says first what is missing for any of it. Stop it at any time
# and call it again: every part goes on where it stopped. MINUTES limits each part of one call, for machines that are
# held for minutes only; STEPS shortens every part, to see whether all of it runs, with the few pictures of the tests in
# minutes; NPROC is the number of processes of each. FROM=nothing trains codecs and encoders too, on the first edition
# (all 1,652 concepts), and the diffuser in the paper's three stages.
#   MINUTES=9 scripts/train_emoji.sh
#   STEPS=2 DATA=tests/data/emoji RUNS=runs/dry MODEL=runs/dry/model scripts/train_emoji.sh
#   FROM=nothing DATA=data/emoji-1 RUNS=runs/emoji-1 MODEL=runs/emoji-1/model scripts/train_emoji.sh
set -euo pipefail
. "$(dirname "$0")/paths.sh" DATA RUNS MODEL
versatile=${VERSATILE:-versatile}
python=${PYTHON:-$(dirname "$(command -v "$versatile")")/python}
data=${DATA:-data/emoji}
runs=${RUNS:-runs/emoji}
model=${MODEL:-models/emoji/src/versatile_diffusion_emoji/weights}
limits=(${MINUTES:+--minutes "$MINUTES"} ${STEPS:+--steps "$STEPS"} ${NPROC:+--nproc "$NPROC"})

train() { # NAME OF RUN, OBJECTIVE, SETTINGS
    [ -d "$runs/$1/export" ] && return
    "$versatile" train "$2" --settings "$3" --data "$data" --out "$runs/$1" "${limits[@]}"
    [ -d "$runs/$1/export" ] || { echo "$1 goes on with the next call"; exit 0; }
}

needs() { "$python" -m versatile_diffusion.recipes.emoji.needs --data "$data" "$@"; }

if [ "${FROM:-installed}" = nothing ]; then
    needs --runs "$runs"
    [ -f "$data/manifest.json" ] || "$versatile" data emoji --edition 1 --out "$data"
    train image-codec image-codec emoji
    train context-encoders context-encoders emoji
    train text-codec text-codec emoji
    train image-context image-context emoji
    train diffuser-basic diffuser emoji-basic
    train diffuser-dual-context diffuser emoji-dual-context
    train diffuser-official diffuser emoji
    stages=(diffuser-basic diffuser-dual-context diffuser-official)
else
    needs
    [ -f "$data/manifest.json" ] || "$versatile" data emoji --out "$data"
    train diffuser-2 diffuser emoji-2
    stages=(diffuser-2)
fi
train judge judge emoji-2
"$python" -m versatile_diffusion.recipes.emoji.ship --run "$runs/${stages[-1]}" --data "$data" --out "$model"
"$python" -m versatile_diffusion.evaluation.training_curves "${stages[@]/#/$runs/}" --out "$runs/training.svg"
echo "$model can be loaded; $runs/training.svg shows the losses of the diffuser"
