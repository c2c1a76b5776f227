#!/usr/bin/env bash
# Trains the emoji model with a third modality, spoken words: the two sets, the audio codec, the context encoder and the
# judges (these three unless PARTS and JUDGE have them; PARTS= JUDGE= trains them anew), the diffuser with streams of audio
# (what words sound like, from texts; the same from all inputs; then all noise levels); measures it and writes the
# distribution. Stop it at any time and call it again: every part goes on where it stopped, and what is done is not done
# again. Each part has minutes of its own for one call (MINUTES for all; MINUTES_CODEC, MINUTES_ENCODER, MINUTES_JUDGE,
# MINUTES_WORDS, MINUTES_MEANS, MINUTES_DIFFUSER), for machines that are held for a while only. CLOCK_CODEC and so on are
# the minutes of the whole part, at the end of which its learning rate is 0; without them it has the steps of its recipe.
# STEPS shortens every part, to see whether all of it runs; NPROC is the number of processes of each.
#   scripts/train_speech.sh
#   PARTS= JUDGE= CLOCK_CODEC=14 CLOCK_ENCODER=22 CLOCK_JUDGE=10 CLOCK_WORDS=32 CLOCK_MEANS=30 CLOCK_DIFFUSER=47 NPROC=2 \
#     scripts/train_speech.sh
#   MINUTES=9 scripts/train_speech.sh
#   STEPS=2 EMOJI=tests/data/emoji DATA=runs/dry/speech RUNS=runs/dry OUT=runs/dry/model scripts/train_speech.sh
set -euo pipefail
. "$(dirname "$0")/paths.sh" EMOJI DATA RUNS OUT PARTS JUDGE IMAGE_JUDGE
versatile=${VERSATILE:-versatile}
python=${PYTHON:-$(dirname "$(command -v "$versatile")")/python}
data=${DATA:-data/speech}
runs=${RUNS:-runs/speech}
out=${OUT:-models/emoji-speech}
image_judge=${IMAGE_JUDGE:-tests/data/judge}
parts=${PARTS-models/emoji-speech/src/versatile_diffusion_emoji_speech/weights/bank}
judge=${JUDGE-tests/data/speech-judge}
emoji=$(dirname "$data")/emoji # where the recipe looks for it

train() { # NAME OF RUN, OBJECTIVE, SETTINGS, PART (of the names of variables)
    [ -d "$runs/$1/export" ] && return
    local minutes=MINUTES_$4 clock=CLOCK_$4
    minutes=${!minutes:-${MINUTES:-}} clock=${!clock:-}
    "$versatile" train "$2" --settings "$3" --data "$data" --out "$runs/$1" ${minutes:+--minutes "$minutes"} \
        ${clock:+--by-clock "$clock"} ${STEPS:+--steps "$STEPS"} ${NPROC:+--nproc "$NPROC"}
    [ -d "$runs/$1/export" ] || { echo "$1 goes on with the next call"; exit 0; }
}

measure() { # NAME OF RUN
    [ -f "$runs/figures/$1/figures.md" ] && return
    "$python" -m versatile_diffusion.recipes.speech.figures --model "$runs/$1/export" --data "$data" \
        --judge "$judge" --image-judge "$image_judge" --out "$runs/figures/$1" \
        ${STEPS:+--steps "$STEPS" --count 2}
}

if [ -n "${EMOJI:-}" ] && [ ! -e "$emoji" ]; then # a set that lies elsewhere
    mkdir -p "$(dirname "$emoji")"
    ln -s "$(realpath "$EMOJI")" "$emoji"
fi
[ -f "$data/speech.json" ] || command -v espeak-ng >/dev/null || {
    echo "error: espeak-ng, which speaks the words, is not installed; on Debian: apt-get install espeak-ng" >&2
    exit 2
}
[ -f "$emoji/manifest.json" ] || "$versatile" data emoji --out "$emoji"
[ -f "$data/speech.json" ] || "$versatile" data speech --emoji "$emoji" --out "$data"
[ -d "$parts/codec-audio" ] || train audio-codec audio-codec speech CODEC
[ -d "$parts/encoder-audio" ] || train audio-context audio-context speech ENCODER
[ -d "$judge" ] || { train speech-judge speech-judge speech JUDGE; judge=$runs/speech-judge/export; }
train diffuser-words diffuser speech-words WORDS
train diffuser-means diffuser speech-means MEANS
train diffuser-speech diffuser speech DIFFUSER
measure diffuser-speech
"$python" -m versatile_diffusion.recipes.speech.ship --run "$runs/diffuser-speech" --data "$data" --out "$out" \
    --figures "$runs/figures/diffuser-speech"
"$python" -m versatile_diffusion.evaluation.training_curves "$runs/diffuser-words" "$runs/diffuser-means" \
    "$runs/diffuser-speech" --out "$runs/training.svg"
echo "$out can be installed; $runs/figures has the figures, $runs/training.svg the losses of the diffuser"
