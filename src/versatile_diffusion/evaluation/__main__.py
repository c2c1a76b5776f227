"""`python -m versatile_diffusion.evaluation --model emoji --data DIR`: recognition rates on held-out items."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.evaluation.recognition import recognition
from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline

SPLITS = ("pair-test", "concept-test")


def main() -> None:
    """Measures a model, prints the rates and writes them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m versatile_diffusion.evaluation", description=main.__doc__)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=256, help="items of each split")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    pipe = VersatileDiffusionPipeline.from_pretrained(given.model)
    options = {"num_inference_steps": given.steps, "guidance_scale": given.guidance_scale}
    protocol = {"count": given.count, "seed": given.seed, "scheduler": type(pipe.scheduler).__name__, **options}
    result = {"protocol": protocol}
    for split in SPLITS:
        result[split] = recognition(pipe, EmojiSet.load(given.data, split), given.count, given.seed, **options)
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
