#!/usr/bin/env bash
# Evaluate the shipped emoji model: writes docs/reports/emoji_report.md with its images, and the training curves.
# Needs the judge (scripts/train_emoji.sh); RUNS_IN_ORDER names the diffuser's runs that led to the weights.
set -euo pipefail
. "$(dirname "$0")/paths.sh" DATA RUNS PAGE CURVES
versatile=${VERSATILE:-versatile}
python=${PYTHON:-$(dirname "$(command -v "$versatile")")/python}
data=${DATA:-data/emoji}
runs=${RUNS:-runs/emoji}
order=${RUNS_IN_ORDER:-diffuser-basic diffuser-dual-context diffuser-official}
flows=${FLOWS:-text-to-image,image-variation,image-to-text,text-variation}

"$versatile" evaluate --model "${MODEL:-emoji}" --data "$data" --judge "$runs/judge/export" --count "${COUNT:-96}" \
    --out "$runs/evaluation" --page "${PAGE:-docs/reports/emoji_report.md}"
"$python" -m versatile_diffusion.evaluation.training_curves $(printf "$runs/%s " $order) --flows "$flows" \
    --out "${CURVES:-docs/images/training.svg}"
