"""What is recognised of a distilled model's images at a few steps, beside those of its teacher.

    python benchmarks/distilled.py --student RUN/export --teacher emoji --judge tests/data/judge [--page PAGE]

Images of the fixed prompts (`recipes/emoji/prompts.py`), all with one seed, named by the judge: the teacher with
guidance in many steps and in few, and the student without guidance. A student that is an adapter is run by `fast`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from judging import judged_prompts, write_table

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.evaluation.networks import load_judge
from versatile_diffusion.recipes.emoji.prompt_sheet import counts, sheet
from versatile_diffusion.recipes.emoji.prompts import FIXED_PROMPTS


def main(
    student: Annotated[str, typer.Option(help="The distilled model, or the model with a distilled form.")],
    judge: Annotated[Path, typer.Option(help="Folder of the judge.")],
    teacher: Annotated[str | None, typer.Option(help="The model that was distilled, to be judged, too.")] = None,
    fast: Annotated[str, typer.Option(help="The form of the student.")] = "4",
    steps: Annotated[str, typer.Option(help="Steps of the student, with commas between.")] = "1,2,4,8",
    guided: Annotated[str, typer.Option(help="Steps of the teacher, with commas between.")] = "25,8,4",
    count: Annotated[int, typer.Option(min=1, help="Number of prompts.")] = len(FIXED_PROMPTS),
    out: Annotated[Path | None, typer.Option(help="Folder for sheets and numbers.")] = None,
    page: Annotated[Path | None, typer.Option(help="Page with a place for the table.")] = None,
) -> None:
    """Make the table."""
    known, prompts = load_judge(str(judge), torch.device("cpu")), FIXED_PROMPTS[:count]
    kinds = [(f"teacher, {n} guided steps", teacher, {"num_inference_steps": int(n)}) for n in guided.split(",")]
    kinds = kinds if teacher else []
    for n in steps.split(","):
        kinds.append((f"student, {n} steps", student, {"num_inference_steps": int(n), "fast": fast}))
    pipes: dict[str, VersatileDiffusionPipeline] = {}
    table: dict[str, dict[str, Any]] = {}
    for name, model, options in kinds:
        pipe = pipes.setdefault(str(model), VersatileDiffusionPipeline.from_pretrained(str(model)))
        pipe.set_progress_bar_config(disable=True)
        images, rows = judged_prompts(pipe, known, prompts, **options)
        found, passes = counts(rows), options["num_inference_steps"] * (1 if "fast" in options else 2)
        table[name] = {"passes": passes} | {key: found[key] for key in ("first", "among_five", "refused")}
        print(name, json.dumps(table[name]), flush=True)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            sheet(prompts, images, rows).save(out / f"{name.replace(', ', '-').replace(' ', '-')}.png")
            (out / "distilled.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    write_table("distilled", table, "", f"Of {len(prompts)} prompts, by the judge; seed 0.", page)


if __name__ == "__main__":
    typer.run(main)
