"""Sheet of fixed prompts for comparing training stages, with the judge's verdicts.

    python -m versatile_diffusion.recipes.emoji.prompt_sheet --model emoji --judge JUDGE --out runs/sheet

writes `prompts.png` with 48 labelled images, and `prompts.json` with the judge's verdict on each image. The same model
and options give the same sheet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image, ImageDraw, ImageFont

from versatile_diffusion.evaluation.baselines import find_subject
from versatile_diffusion.evaluation.judge_network import PictureJudge
from versatile_diffusion.evaluation.networks import fit_images, load_judge, pixels
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.evaluation.subjects import Subject
from versatile_diffusion.files import write_whole
from versatile_diffusion.recipes.emoji.prompts import FIXED_PROMPTS, FixedPrompt
from versatile_diffusion.records.record import fingerprint
from versatile_diffusion.sheets import INK, Layout, tile_images, wrap
from versatile_diffusion.tasks import TASKS

AMONG = 5
"""Number of top predictions in which the concept counts as recognised."""
TILE, COLUMNS, GAP, LINES = 128, 8, 6, 3
RIGHT, WRONG = (0, 128, 0), (192, 0, 0)
FONT_SIZE = 11


def generate(subject: Subject, prompts: Sequence[FixedPrompt], protocol: Protocol, batch: int = 16) -> list[Any]:
    """Generate an image per prompt, all with the protocol's seed.

    Raises:
        ValueError: the model does not support text-to-image.
    """
    subject.wanted(protocol, ["text-to-image"])
    texts = [prompt.text for prompt in prompts]
    parts = (texts[start : start + batch] for start in range(0, len(texts), batch))
    task = TASKS["text-to-image"]
    return [image for part in parts for image in subject.make(task, part, [protocol.seed] * len(part), protocol)]


@torch.no_grad()
def verdicts(
    judge: PictureJudge, prompts: Sequence[FixedPrompt], images: Sequence[Image.Image]
) -> list[dict[str, Any]]:
    """Return the judge's verdict per image: its top predictions (empty if refused), the index of the first one that
    matches the prompt (null if none), and whether the style matches."""
    verdict = judge(pixels(images, judge.device))
    names, styles = judge.config.names or judge.config.concepts, judge.config.styles
    guesses = verdict.likeliest(min(AMONG, len(names))).tolist()
    rows = []
    for prompt, found, style in zip(prompts, guesses, verdict.style.argmax(1).tolist(), strict=True):
        seen = [names[place] for place in found if place >= 0]
        right = [place for place, name in enumerate(seen) if name in prompt.labels]
        row: dict[str, Any] = {
            "prompt": prompt.text,
            "group": prompt.group,
            "labels": list(prompt.labels),
            "seen": seen,
        }
        row |= {"refused": not seen, "place": right[0] if right else None, "style_seen": styles[style]}
        rows.append(row | {"style_right": styles[style] == prompt.style if prompt.style else None})
    return rows


def counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return the number of prompts and of correct verdicts."""
    return {
        "prompts": len(rows),
        "first": sum(row["place"] == 0 for row in rows),
        "among_five": sum(row["place"] is not None for row in rows),
        "refused": sum(row["refused"] for row in rows),
        "styles_asked_for": sum(row["style_right"] is not None for row in rows),
        "styles_right": sum(row["style_right"] is True for row in rows),
    }


def sheet(prompts: Sequence[FixedPrompt], images: Sequence[Image.Image], rows: Sequence[dict[str, Any]]) -> Image.Image:
    """Draw the images above their prompts and verdicts: green for a match with its rank, red for the top prediction
    without one. `rows` is empty without a judge."""
    font = ImageFont.load_default(FONT_SIZE)
    layout = Layout(COLUMNS, (TILE, TILE), GAP, left=GAP, top=GAP, below=(LINES + 1) * (FONT_SIZE + 3))
    canvas = tile_images(images, layout)
    draw = ImageDraw.Draw(canvas)
    for number, prompt in enumerate(prompts):
        left, top = layout.place(number)
        lines = wrap(prompt.text, TILE, font)[:LINES]
        draw.multiline_text((left, top + TILE + 2), "\n".join(lines), INK, font, spacing=2)
        if rows:
            row = rows[number]
            down = top + TILE + 2 + len(lines) * (FONT_SIZE + 3)
            verdict = wrap(_verdict(row), TILE, font)[0]
            draw.text((left, down), verdict, WRONG if row["place"] is None else RIGHT, font)
    return canvas


def _verdict(row: dict[str, Any]) -> str:
    """Format a verdict."""
    if row["place"] is not None:
        return f"{row['place'] + 1}: {row['seen'][row['place']]}"
    return row["seen"][0] if row["seen"] else "nothing"


def write(
    subject: Subject,
    judge: PictureJudge | None,
    protocol: Protocol,
    out: Path,
    prompts: Sequence[FixedPrompt] = FIXED_PROMPTS,
) -> dict[str, Any]:
    """Generate the sheet, write it with the verdicts to `out`, and return the content of the JSON file."""
    images = fit_images(generate(subject, prompts, protocol), protocol.side)
    rows = [] if judge is None else verdicts(judge, prompts, images)
    record = {
        "model": {"name": subject.name, "hash": subject.hash},
        "judge": None if judge is None else fingerprint(judge),
        "sampling": {name: asdict(protocol)[name] for name in ("seed", "steps", "scheduler", "guidance_scale")},
        "guidance_scale": subject.guidance(TASKS["text-to-image"], protocol),
        "counts": counts(rows) if rows else {},
        "verdicts": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    sheet(prompts, images, rows).save(out / "prompts.png")
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_whole(out / "prompts.json", lambda new: new.write_text(text, encoding="utf-8"))
    return record


def main(
    model: Annotated[str, typer.Option(help="Model name, folder or hub id.")] = "emoji",
    judge: Annotated[Path | None, typer.Option(help="Folder of the judge; optional.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of every image.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 25,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance scale; default: the model's.")] = None,
    device: Annotated[str, typer.Option(help="Device.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Output folder for prompts.png and prompts.json.")] = Path("prompt_sheet"),
) -> None:
    """Generate a sheet of 48 fixed prompts and report what a judge recognises."""
    place = torch.device(device)
    protocol = replace(Protocol("sheet"), seed=seed, steps=steps, guidance_scale=guidance_scale)
    known = None if judge is None else load_judge(str(judge), place)
    record = write(find_subject(model, place), known, protocol, out)
    print(json.dumps(record["counts"]))


if __name__ == "__main__":
    typer.run(main)
