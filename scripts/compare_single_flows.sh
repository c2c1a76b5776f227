#!/usr/bin/env bash
# The paper's comparison: does a model of four flows match four models of one flow each? All five begin fresh and see
# the same data, each flow as many items in its own model as in the one of four. Needs the codecs, context encoders and
# the judge of scripts/train_emoji.sh. Stop it at any time and call it again. STEPS is the length of the model of four
# flows (7000 if left out), of which each flow has its share; SIZE=tiny takes smaller models and half the items per
# step; COUNT and SPLIT shorten the evaluation.
#   SIZE=tiny STEPS=1400 COUNT=32 SPLIT=pair-test scripts/compare_single_flows.sh
set -euo pipefail
. "$(dirname "$0")/paths.sh" DATA RUNS PAGE
versatile=${VERSATILE:-versatile}
python=${PYTHON:-$(dirname "$(command -v "$versatile")")/python}
data=${DATA:-data/emoji}
runs=${RUNS:-runs/emoji}
count=${COUNT:-96}
page=${PAGE:-docs/reports/single_flows.md}
steps=${STEPS:-7000}

train() { # WHAT IT DOES, STEPS (the learning rate rises in the first tenth of them, and falls to zero)
    [ -d "$runs/$1/export" ] && return
    "$versatile" train diffuser --settings "emoji-${SIZE:+$SIZE-}$1" --data "$data" --out "$runs/$1" --steps "$2" \
        --warmup $(($2 / 10)) --eval-minutes 6 --sample-minutes 60 ${MINUTES:+--minutes "$MINUTES"}
    [ -d "$runs/$1/export" ] || { echo "$1 goes on with the next call"; exit 0; }
}

train four-flows "$steps"
flows=(text-to-image image-variation image-to-text text-variation)
shares=$("$python" -c "
import sys
from versatile_diffusion.recipes.emoji.settings import steps_of
print(*(steps_of(flow, $steps) for flow in sys.argv[1:]))" "${flows[@]}")
against=() single=()
for share in $shares; do
    flow=${flows[${#single[@]}]}
    train "$flow" "$share"
    against+=(--against "$runs/$flow/export") single+=("$runs/$flow")
done
"$versatile" evaluate --model "$runs/four-flows/export" "${against[@]}" --data "$data" --judge "$runs/judge/export" \
    --count "$count" ${SPLIT:+--split "$SPLIT"} --out "$runs/four-flows/evaluation" --page "$page"
"$python" -m versatile_diffusion.recipes.emoji.single_flows "$runs/four-flows" "${single[@]}" --page "$page"
