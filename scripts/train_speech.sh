#!/usr/bin/env bash
# Trains the emoji model with a third modality, spoken words: the two sets, the audio codec, the context encoder and the
# judges, the diffuser with streams of audio where nothing old learns, then all nine flows together; measures both and
# writes the distribution. Stop it at any time and call it again: every part goes on where it stopped, and what is done is
# not done again. Each part has minutes of its own for one call (MINUTES for all; MINUTES_CODEC, MINUTES_ENCODER,
# MINUTES_JUDGE, MINUTES_DIFFUSER, MINUTES_JOINT), for machines that are held for a while only. CLOCK_DIFFUSER and
# CLOCK_JOINT are the minutes of the whole stage, at the end of which its learning rate is 0; without them it has the steps
# of its recipe. STEPS shortens every part, to see whether all of it runs; NPROC is the number of processes of each. The
# distribution has the run SHIP: diffuser-speech, whose old layers are those of the emoji model, is small;
# diffuser-speech-joint has all of the diffuser.
#   scripts/train_speech.sh
#   CLOCK_DIFFUSER=240 CLOCK_JOINT=45 scripts/train_speech.sh
#   MINUTES=9 scripts/train_speech.sh
#   STEPS=2 EMOJI=tests/data/emoji DATA=runs/dry/speech RUNS=runs/dry OUT=runs/dry/model scripts/train_speech.sh
set -euo pipefail
. "$(dirname "$0")/paths.sh" EMOJI DATA RUNS OUT IMAGE_JUDGE
versatile=${VERSATILE:-versatile}
python=${PYTHON:-$(dirname "$(command -v "$versatile")")/python}
data=${DATA:-data/speech}
runs=${RUNS:-runs/speech}
out=${OUT:-models/emoji-speech}
image_judge=${IMAGE_JUDGE:-tests/data/judge}
ship=${SHIP:-diffuser-speech}
emoji=$(dirname "$data")/emoji # where the recipe looks for it

train() { # NAME OF RUN, OBJECTIVE, SETTINGS, MINUTES OF THIS CALL, MINUTES OF THE WHOLE RUN
    [ -d "$runs/$1/export" ] && return
    local minutes=${4:-${MINUTES:-}}
    "$versatile" train "$2" --settings "$3" --data "$data" --out "$runs/$1" ${minutes:+--minutes "$minutes"} \
        ${5:+--by-clock "$5"} ${STEPS:+--steps "$STEPS"} ${NPROC:+--nproc "$NPROC"}
    [ -d "$runs/$1/export" ] || { echo "$1 goes on with the next call"; exit 0; }
}

measure() { # NAME OF RUN
    [ -f "$runs/figures/$1/figures.md" ] && return
    "$python" -m versatile_diffusion.recipes.speech.figures --model "$runs/$1/export" --data "$data" \
        --judge "$runs/speech-judge/export" --image-judge "$image_judge" --out "$runs/figures/$1" \
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
train audio-codec audio-codec speech "${MINUTES_CODEC:-}"
train audio-context audio-context speech "${MINUTES_ENCODER:-}"
train speech-judge speech-judge speech "${MINUTES_JUDGE:-}"
train diffuser-speech diffuser speech "${MINUTES_DIFFUSER:-}" "${CLOCK_DIFFUSER:-}"
measure diffuser-speech
train diffuser-speech-joint diffuser speech-joint "${MINUTES_JOINT:-}" "${CLOCK_JOINT:-}"
measure diffuser-speech-joint
"$python" -m versatile_diffusion.recipes.speech.ship --run "$runs/$ship" --data "$data" --out "$out" \
    --figures "$runs/figures/$ship"
"$python" -m versatile_diffusion.evaluation.training_curves "$runs/diffuser-speech" "$runs/diffuser-speech-joint" \
    --out "$runs/training.svg"
echo "$out can be installed; $runs/figures has the figures, $runs/training.svg the losses of the diffuser"
