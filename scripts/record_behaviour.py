"""Record what the package computes and writes, so that a refactor can be shown to change nothing.

    .venv/bin/python scripts/record_behaviour.py --out before.json
    .venv/bin/python scripts/record_behaviour.py --out after.json
    .venv/bin/python scripts/record_behaviour.py --compare before.json after.json

Only public doors are used: names of the package `versatile_diffusion` and its command line, so the script still runs
when modules move. Files are compared byte for byte, texts and JSON without paths, times and dates. Compare on the same
machine with the same libraries. `--only REGEX` records the sections whose names match.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline, load_embeddings, save_embeddings

ROOT = Path(__file__).parents[1]
SMALL_SET = ROOT / "tests" / "data" / "emoji"
SAVED = ROOT / "tests" / "golden" / "records"
INPUT = "whale.png"
"""What some of the saved records were made from."""
MODEL = "emoji"
YEAR_2020 = 1_577_836_800
TIMES = ("seconds", "per_second", "created", "date", "time", "started", "size_on_disk")
"""Keys of JSON whose values are times, dates or paths."""
NOT_COMPARED = re.compile(r"\.lock$|events\.out\.|checkpoint|\.sha256$|/teacher/")
"""Files that hold times, or what others of these files hold too."""
Found = dict[str, Any]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


def sha_of(value: Any) -> str:
    """Hash of a tensor, an array or an image, its shape and type included."""
    array = value.detach().cpu().contiguous() if isinstance(value, torch.Tensor) else np.ascontiguousarray(value)
    raw = array.view(torch.uint8).numpy() if isinstance(array, torch.Tensor) and array.ndim else np.asarray(array)
    return sha(f"{tuple(array.shape)} {array.dtype}".encode() + raw.tobytes())


def cleaned(value: Any, work: Path) -> Any:
    """JSON or a text without paths of this run, times and dates."""
    if isinstance(value, dict):
        return {name: cleaned(one, work) for name, one in value.items() if name not in TIMES}
    if isinstance(value, list | tuple):
        return [cleaned(one, work) for one in value]
    if isinstance(value, str):
        value = value.replace(str(work), "<work>").replace(str(ROOT), "<root>")
        value = re.sub(r"\b\d+(\.\d+)?(s|it/s|s/it| s| ms| seconds)\b|\b\d\d:\d\d(:\d\d)?\b", "<time>", value)
        return re.sub(r"\d{4}-\d\d-\d\d", "<date>", value)
    return value


def drawing(number: int, side: int = 64, width: int | None = None) -> Image.Image:
    """A disc on a slope of colours, other for every number."""
    rows, columns = np.mgrid[:side, : width or side]
    levels = np.stack([rows * (2 + number % 3), columns * 3, 255 - rows - columns], axis=-1).clip(0, 255)
    inside = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / (3 + number % 2)) ** 2
    levels[inside] = (200, 40 * (number % 6), 20 + 30 * (number % 7))
    return Image.fromarray(levels.astype(np.uint8))


def half_mask() -> Image.Image:
    return Image.fromarray(np.repeat(np.uint8([[255] * 28 + [128] * 8 + [0] * 28]), 64, axis=0))


STEPS: dict[str, Any] = {"num_inference_steps": 3, "seed": 11}


def calls() -> dict[str, Callable[[Any, Any], Any]]:
    """Cases by name: `(pipe, image)` to an Output or a tensor."""
    text, style = "a red apple", "noto"

    def both(pipe: Any, image: Any, **options: Any) -> Any:
        return pipe.dual_guided(prompt=text, image=image, **STEPS, **options)

    def mixed(pipe: Any, image: Any, *conditions: Condition, data: str = "image", **options: Any) -> Any:
        return pipe.generate(data, list(conditions), **{**STEPS, **options})

    return {
        "text_to_image": lambda p, i: p.text_to_image(text, num_images_per_prompt=2, **STEPS),
        "text_to_image.prompts": lambda p, i: p.text_to_image([text, "a blue car"], **STEPS),
        "text_to_image.style": lambda p, i: p.text_to_image(text, style=style, **STEPS),
        "text_to_image.negative": lambda p, i: p.text_to_image(text, negative_prompt="green", **STEPS),
        "text_to_image.size": lambda p, i: p.text_to_image(text, height=48, width=64, **STEPS),
        "text_to_image.eta": lambda p, i: p.text_to_image(text, eta=0.5, guidance_rescale=0.7, **STEPS),
        "text_to_image.interval": lambda p, i: p.text_to_image(text, guidance_interval=(0.3, 0.8), **STEPS),
        "text_to_image.dpm": lambda p, i: p.text_to_image(text, scheduler="dpm++", **STEPS),
        "text_to_image.unipc": lambda p, i: p.text_to_image(text, scheduler="unipc", null="2022", **STEPS),
        "text_to_image.candidates": lambda p, i: p.text_to_image(text, candidates=2, **STEPS),
        "text_to_image.rank": lambda p, i: p.text_to_image(text, num_outputs=2, rank=True, **STEPS),
        "text_to_image.np": lambda p, i: p.text_to_image(text, output_type="np", **STEPS),
        "text_to_image.pt": lambda p, i: p.text_to_image(text, output_type="pt", **STEPS),
        "text_to_image.latent": lambda p, i: p.text_to_image(text, output_type="latent", **STEPS),
        "text_to_image.context": lambda p, i: p.text_to_image(text, output_type="context", **STEPS),
        "image_variation": lambda p, i: p.image_variation(i, **STEPS),
        "image_variation.mask": lambda p, i: p.image_variation(i, mask=half_mask(), **STEPS),
        "image_variation.null": lambda p, i: p.image_variation(i, null="2022", **STEPS),
        "image_variation.start": lambda p, i: p.image_variation(i, start=drawing(5), fidelity=0.4, **STEPS),
        "image_variation.repaint": lambda p, i: p.image_variation(i, start=i, repaint=(0, 0, 0.5, 1), **STEPS),
        "image_to_text": lambda p, i: p.image_to_text(i, num_outputs=2, **STEPS),
        "image_to_text.decoding": lambda p, i: p.image_to_text(i, temperature=0.8, top_k=5, top_p=0.9, **STEPS),
        "image_to_text.length": lambda p, i: p.image_to_text(i, max_length=4, mask=half_mask(), **STEPS),
        "text_variation": lambda p, i: p.text_variation(text, **STEPS),
        "text_variation.start": lambda p, i: p.text_variation(text, start="a green pear", fidelity=0.5, **STEPS),
        "dual_guided.attention": both,
        "dual_guided.layer": lambda p, i: both(p, i, mixing="layer", layer_seed=3),
        "dual_guided.model": lambda p, i: both(p, i, mixing="model", text_to_image_strength=0.7),
        "dual_guided.join": lambda p, i: both(p, i, mixing="join"),
        "conditions.weights": lambda p, i: mixed(
            p, i, Condition("text", text, weight=3, start=0.2), Condition("image", i, weight=1, end=0.7)
        ),
        "conditions.focus": lambda p, i: mixed(p, i, Condition("image", i, focus=0.2, guidance_scale=5)),
        "conditions.regions": lambda p, i: mixed(
            p, i, Condition("image", i, region=(0, 0, 0.5, 1)), Condition("text", text, region=(0.5, 0, 1, 1))
        ),
        "conditions.negative": lambda p, i: mixed(p, i, Condition("image", i, mask=half_mask(), negative=drawing(4))),
        "conditions.to_text": lambda p, i: mixed(p, i, Condition("image", i), Condition("text", text), data="text"),
        "conditions.tokens": lambda p, i: mixed(p, i, Condition("text", tokens=p.encode_context(text, "text"))),
        "encode_context.image": lambda p, i: p.encode_context([i, drawing(2)], mask=[half_mask()] * 2),
        "encode_context.text": lambda p, i: p.encode_context([text, "", "a dog " * 6]),
        "encode_latent.image": lambda p, i: p.encode_latent([i, drawing(2)], seed=4),
        "encode_latent.text": lambda p, i: p.encode_latent([text, "a dog"], seed=4),
        "decode_latent.image": lambda p, i: p.decode_latent(p.encode_latent([i])),
        "decode_latent.text": lambda p, i: p.decode_latent(p.encode_latent([text, "a dog"], "text"), top_k=3, seed=2),
    }


def recorded(value: Any, work: Path) -> Found:
    """What there is of an Output, a tensor, or a list of values."""
    if isinstance(value, torch.Tensor):
        return {"tensor": sha_of(value)}
    if isinstance(value, list):
        return {"values": [one if isinstance(one, str) else sha_of(one) for one in value]}
    values = value.values if isinstance(value.values, list) else [value.values]
    return {
        "values": [one if isinstance(one, str) else sha_of(one) for one in values],
        "latents": sha_of(value.latents),
        "settings": cleaned(json.loads(json.dumps(value.settings)), work),
        "items": [sha(json.dumps(cleaned(item.settings, work), sort_keys=True).encode()) for item in value],
        "prompts": list(value.prompts),
        "cost": str(value.cost),
        "layer_plan": sha(repr(value.layer_plan).encode()),
        "ranking": [[row.score, list(row.items)] for row in value.ranking],
    }


def python(work: Path) -> Iterator[tuple[str, Any]]:
    """Outputs, latents and embeddings of the shipped model, and replays of their settings."""
    pipe = VersatileDiffusionPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    image = drawing(1)
    for name, call in calls().items():
        made = call(pipe, image)
        yield name, recorded(made, work)
        if name in ("text_to_image", "text_variation", "text_to_image.candidates"):
            again = pipe.replay(made[0].settings)
            yield f"{name}.replayed", torch.equal(again.latents, made.latents[:1])
    yield "embeddings", embeddings(pipe, image, work)
    pipe.save_pretrained(work / "saved")
    for name, content in files(work / "saved", work):
        yield f"saved/{name}", content


def embeddings(pipe: Any, image: Any, work: Path) -> Found:
    """An embeddings file, and what is read from it."""
    file = work / "tokens.safetensors"
    save_embeddings(file, pipe.encode_context([image, drawing(3)]), pipe=pipe, names=("one", "three"))
    held = load_embeddings(file)
    return {"file": sha(file.read_bytes()), "tensor": sha_of(held.tensor), "as": str(held.made_as)}


# The command line, in this process: a start of Python and torch costs more than most of these commands.


def versatile(work: Path, *words: object) -> Found:
    """Exit code and output of a command that is run in the folder `work`."""
    out, progress, before = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO(), (sys.argv, Path.cwd())
    sys.argv = ["versatile", *map(str, words)]
    os.chdir(work)
    try:
        with redirect_stdout(out), redirect_stderr(progress):
            runpy.run_module("versatile_diffusion", run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
    out.flush()
    raw = out.buffer.getvalue()  # type: ignore[attr-defined]
    found = {"code": code, "out": printed(raw, work)}
    if code == 2:
        found["error"] = cleaned(progress.getvalue().strip(), work).splitlines()[-1]
        print(f"versatile {' '.join(map(str, words))}: {found['error']}", file=sys.stderr)
    return found


def printed(raw: bytes, work: Path) -> Any:
    """What went to stdout: JSON as such, text by its lines, bytes by their hash."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return sha(raw)
    try:
        return [cleaned(json.loads(line), work) for line in ([text] if text.startswith("{\n") else text.splitlines())]
    except json.JSONDecodeError:
        return cleaned(text, work).splitlines()


def files(folder: Path, work: Path) -> Iterator[tuple[str, Any]]:
    """Every file below a folder."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if NOT_COMPARED.search(name) is None:
            yield name, content_of(file, work)


def content_of(file: Path, work: Path) -> Any:
    """JSON as such, an image with its text chunks, all else by its bytes."""
    if file.suffix == ".json":
        return cleaned(json.loads(file.read_text()), work)
    if file.suffix == ".jsonl":
        return [cleaned(json.loads(line), work) for line in file.read_text().splitlines()]
    if file.suffix in (".md", ".txt", ".html"):
        return sha(cleaned(file.read_text(), work).encode())
    if file.suffix == ".png":
        with Image.open(file) as image:
            told = {key: json.loads(text) if text.startswith("{") else text for key, text in image.text.items()}
            return {"pixels": sha_of(np.array(image)), "texts": cleaned(told, work)}
    return sha(file.read_bytes())


def commands() -> dict[str, tuple[object, ...]]:
    """Commands that write into folders of their own name, in order."""
    short = ("--steps", 3, "--seed", 5, "--device", "cpu", "--no-preview")
    blend = ("blend", "--text", "a car@1,end=0.5", "--image", "photos/1.png@2,mask=mask.png")
    sweep = ("sweep", "text-to-image", "a red apple", "--over", "guidance_scale=1,3", "--over", "seed=0:1")
    return {
        "t2i": ("text-to-image", "a red apple", "--count", 2, *short, "--out", "t2i"),
        "t2i.stdout": ("text-to-image", "a red apple", *short, "--out", "-"),
        "t2i.many": ("text-to-image", "prompts.txt", *short, "--out", "many", "--json"),
        "t2i.again": ("text-to-image", "prompts.txt", *short, "--out", "many", "--json"),
        "variation": ("image-variation", "photos", *short, "--out", "varied", "--mask", "mask.png", "--json"),
        "i2t": ("image-to-text", "photos/1.png", "--count", 2, *short, "--out", "i2t", "--json"),
        "t2t": ("text-variation", "a red apple", *short, "--out", "t2t", "--json"),
        "dual": ("dual-guided", "a red apple", "photos", *short, "--out", "dual", "--mixing", "layer", "--json"),
        "blend": (*blend, "--match-colours", "simple", *short, "--out", "blend", "--json"),
        "blend.text": (*blend, "--to", "text", *short, "--json"),
        "disentangle": ("disentangle", "photos/1.png", *short, "--levels", 3, "--out", "taken", "--json"),
        "edit": ("edit", "photos/1.png", "--caption", "a green apple", *short, "--out", "edit", "--json"),
        "edit.latent": ("edit", "photos/1.png", "--remove", "red", "--add", "green", *short, "--out", "edit2"),
        "joint": ("joint", "--text", "a red apple", *short, "--every", 2, "--out", "joint", "--json"),
        "sweep": (*sweep, "--set", "steps=2", "--out", "sweep", "--device", "cpu", "--no-preview"),
        "encode": ("encode", "photos", "prompts.txt", "--out", "tokens", "--device", "cpu", "--json"),
        "encode.latent": ("encode", "photos", "prompts.txt", "--as", "latent", "--out", "latents", "--device", "cpu"),
        "decode": ("decode", "latents", "--out", "decoded", "--device", "cpu", "--json"),
        "tokens": ("image-to-text", "tokens/1.image-context.safetensors", *short, "--json"),
        "describe": ("describe", "--json"),
        "verify": ("verify", MODEL, "--json"),
        "convert": ("convert", MODEL, "half", "--dtype", "float16", "--json"),
        "data.encode": ("data", "encode", "pairs", "--out", "encoded", "--device", "cpu", "--json"),
        "data.aspect": ("data", "encode", "pairs", "--out", "shapes", "--aspect", 2, "--device", "cpu", "--json"),
        "mistake": ("text-to-image", "a red apple", "--steps", 0),
        **{f"replay/{file.name}": ("replay", f"saved-records/{file.name}", "--out", "again") for file in records()},
    }


def records() -> list[Path]:
    """Files made by an earlier release; texts by their JSON."""
    return sorted(file for file in SAVED.iterdir() if file.suffix in (".png", ".json") and file.name != INPUT)


def prepare(work: Path) -> None:
    """Inputs of the commands."""
    for folder in ("photos", "pairs"):
        (work / folder).mkdir()
    for number, words in enumerate(("a red disc", "a disc, noto style", "a green disc on a slope of colours")):
        for folder in ("photos", "pairs"):
            drawing(number, 64, (64, 96, 48)[number]).save(work / folder / f"{number}.png")
        (work / "pairs" / f"{number}.txt").write_text(words)
    (work / "prompts.txt").write_text("a red apple\na small dog\n")
    half_mask().save(work / "mask.png")
    for file in work.rglob("*"):
        os.utime(file, (YEAR_2020, YEAR_2020))  # an encoded set records the times of its files
    shutil.copytree(SAVED, work / "saved-records")


def command_line(work: Path) -> Iterator[tuple[str, Any]]:
    """What every command prints and writes."""
    prepare(work)
    given = {name for name, _ in files(work, work)}
    for name, words in commands().items():
        yield name, versatile(work, *words)
    for name, content in files(work, work):
        if name not in given and not name.startswith("again/"):
            yield f"file/{name}", content


# Training, two steps of every part.


def trainings() -> dict[str, tuple[object, ...]]:
    own = ("--from", MODEL, "--data", "pairs", "--batch", 2)
    return {
        "image-codec": ("image-codec", "--data", SMALL_SET),
        "context-encoders": ("context-encoders", "--data", SMALL_SET),
        "image-context": ("image-context", "--data", SMALL_SET),
        "text-codec": ("text-codec", "--data", SMALL_SET),
        "judge": ("judge", "--data", SMALL_SET),
        "diffuser": ("diffuser", "--settings", "emoji-tiny-four-flows", "--data", SMALL_SET),
        "own": (*own, "--only", "context"),
        "own-lora": (*own, "--lora", 2, "--flows", "text-to-image,image-to-text"),
    }


def training(work: Path) -> Iterator[tuple[str, Any]]:
    """Measurements and exports of two steps."""
    prepare(work)
    for name, words in trainings().items():
        fixed = ("--out", f"runs/{name}", "--steps", 2, "--device", "cpu")
        # Alone in a process: how sums are rounded depends on where memory lies, and so on what was done before.
        command = [sys.executable, "-m", "versatile_diffusion", "train", *map(str, (*words, *fixed))]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        yield name, {"code": done.returncode, "out": printed(done.stdout.encode(), work)}
        for file, content in files(work / "runs" / name, work):
            yield f"{name}/{file}", content


def record(only: str) -> Found:
    found: Found = {}
    for section, run in {"python": python, "command_line": command_line, "training": training}.items():
        if re.search(only, section) is None:
            continue
        begun = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            for name, value in run(Path(folder).resolve()):
                found[f"{section}/{name}"] = json.loads(json.dumps(value))
        print(f"{section}: {time.process_time() - begun:.0f} s of CPU", file=sys.stderr)
    return found


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """A line for each value that is not the same, with both."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key, "(absent)"), new.get(key, "(absent)"), f"{name}/{key}".lstrip("/"))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{name}[{place}]")
    elif old != new:
        yield f"{name}: {str(old)[:200]} -> {str(new)[:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file to write")
    parser.add_argument("--only", default="", help="sections to record")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD", "NEW"), help="say what differs")
    asked = parser.parse_args()
    if asked.compare:
        old, new = (json.loads(file.read_text()) for file in asked.compare)
        lines = list(differences(old, new))
        print("\n".join([*lines, f"{len(lines)} differences in {len(old)} records"]))
        return int(bool(lines))
    if asked.out is None:
        parser.error("give --out or --compare")
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets name tensors of a file in the order of hashes
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})  # nosec B606
    torch.set_num_threads(1)
    asked.out.write_text(json.dumps(record(asked.only), indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
