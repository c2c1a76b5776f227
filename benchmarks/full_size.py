"""Memory and time of every task on full-size weights, beside diffusers' own text-to-image pipeline on the same weights.

    python benchmarks/full_size.py write /somewhere/roomy [--dtype float16]     # 13 GB as float16, 26 GB as float32
    python benchmarks/full_size.py run /somewhere/roomy [--compute float32] [--side 256]
    python benchmarks/full_size.py convert /somewhere/roomy               # takes as much room again

`run` measures each in a process of its own, one denoising step on the CPU, and prints a table:

* load: seconds until the pipeline is there; first step: until the first denoising step is done, loading included
  (imports are not); CPU: seconds of processor time until then, which other processes disturb less;
* peak: the most memory resident (VmHWM), in which mapped pages of files count although the system can drop them;
  anonymous: the most that it cannot drop (RssAnon, sampled). Both with Python and its libraries: the row "imports" is
  a process that only imports them.

`convert` takes the written weights through every layout with `versatile convert`, from diffusers' to ours to the
official one, and compares the last with the first, byte for byte.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PROMPT = "a cat"
OURS: dict[str, Callable[..., Any]] = {
    "text-to-image": lambda pipe, picture, **options: pipe.text_to_image(PROMPT, **options),
    "image-variation": lambda pipe, picture, **options: pipe.image_variation(picture, **options),
    "dual-guided": lambda pipe, picture, **options: pipe.dual_guided(PROMPT, picture, **options),
    "image-to-text": lambda pipe, picture, **options: pipe.image_to_text(picture, **options),
    "text-variation": lambda pipe, picture, **options: pipe.text_variation(PROMPT, **options),
}
TO_TEXT = ("image-to-text", "text-variation")  # which take no height and width
THEIRS = "diffusers text-to-image"
IMPORTS = "imports"


class Memory(threading.Thread):
    """The most anonymous memory of this process, sampled."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = 0

    def run(self) -> None:
        while True:
            self.anonymous = max(self.anonymous, status("RssAnon"))
            time.sleep(0.02)


def status(field: str) -> int:
    """Bytes, from the system's page about this process."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", text)[1])  # type: ignore[index]


def ours(folder: Path, dtype: torch.dtype) -> Any:
    from versatile_diffusion import VersatileDiffusionPipeline

    return VersatileDiffusionPipeline.from_official(folder / "official", dtype)


def theirs(folder: Path, dtype: torch.dtype) -> Any:
    """diffusers' pipeline, its components read one by one, since it cannot read the folder as a whole."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import UNetFlatConditionModel
    from diffusers.pipelines.deprecated.versatile_diffusion.pipeline_versatile_diffusion_text_to_image import (
        VersatileDiffusionTextToImagePipeline,
    )
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    folder = folder / "diffusers"
    encoder = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder", dtype=dtype)
    length = encoder.config.max_position_embeddings
    return VersatileDiffusionTextToImagePipeline(
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=length),
        text_encoder=encoder,
        image_unet=UNet2DConditionModel.from_pretrained(folder / "image_unet", torch_dtype=dtype),
        text_unet=UNetFlatConditionModel.from_pretrained(folder / "text_unet", torch_dtype=dtype),
        vae=AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
    )


def measure(what: str, folder: Path, dtype: torch.dtype, side: int) -> dict[str, float]:
    """One row of the table, about this very process."""
    import diffusers  # noqa: F401
    import transformers  # noqa: F401
    from PIL import Image

    import versatile_diffusion.interop.read.official_files  # noqa: F401

    memory = Memory()
    memory.start()
    marks = [now()]
    options: dict[str, Any] = {} if what in TO_TEXT else {"height": side, "width": side}
    if what == THEIRS:
        pipe = theirs(folder, dtype)
        marks.append(now())
        pipe.set_progress_bar_config(disable=True)
        stop = {"callback": lambda *_: marks.append(now())}
        pipe(PROMPT, num_inference_steps=1, **options, **stop)
    elif what != IMPORTS:
        pipe = ours(folder, dtype)
        marks.append(now())
        pipe.set_progress_bar_config(disable=True)
        stop = {"callback_on_step_end": lambda *_: marks.append(now())}
        picture = Image.new("RGB", (side, side), "red")
        OURS[what](pipe, picture, seed=0, num_inference_steps=1, **options, **stop)
    time.sleep(0.1)
    begin, loaded, first = (marks * 3)[:3]  # importing alone has one mark
    return {
        "load": loaded[0] - begin[0],
        "first step": first[0] - begin[0],
        "CPU": first[1] - begin[1],
        "peak": status("VmHWM"),
        "anonymous": memory.anonymous,
    }


def now() -> tuple[float, float]:
    """Seconds by the clock and of processor time."""
    return time.perf_counter(), time.process_time()


def table(rows: dict[str, dict[str, float]]) -> str:
    """Rows in Markdown."""
    lines = ["| what | load, s | first step, s | CPU, s | peak, GB | anonymous, GB |", "|---|---:|---:|---:|---:|---:|"]
    for name, row in rows.items():
        times = " | ".join(f"{row[key]:.1f}" for key in ("load", "first step", "CPU"))
        sizes = " | ".join(f"{row[key] / 1e9:.2f}" for key in ("peak", "anonymous"))
        lines.append(f"| {name} | {times} | {sizes} |")
    one, other = rows["text-to-image"], rows[THEIRS]
    shares = ", ".join(f"{key} {one[key] / other[key]:.2f}" for key in ("first step", "CPU", "peak", "anonymous"))
    return "\n".join([*lines, "", f"text-to-image over diffusers': {shares}"])


def run(arguments: argparse.Namespace) -> str:
    """Every measurement in a new process."""
    rows = {}
    for what in (IMPORTS, *OURS, THEIRS):
        command = [sys.executable, __file__, "measure", str(arguments.folder), "--what", what]
        command += ["--compute", arguments.compute, "--side", str(arguments.side)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{what}: {done.stderr.strip()}")
        rows[what] = json.loads(done.stdout.splitlines()[-1])
        print(what, rows[what], file=sys.stderr)
    return table(rows)


def convert(folder: Path) -> str:
    """Time and memory of each conversion, and whether the weights came back."""
    lines = ["| conversion | s | CPU, s | peak, GB |", "|---|---:|---:|---:|"]
    for source, target, layout in (("diffusers", "ours", "ours"), ("ours", "back", "official")):
        command = [sys.executable, "-m", "versatile_diffusion", "convert", folder / source, folder / target]
        began = time.perf_counter()
        process = subprocess.Popen([*map(str, command), "--to", layout], stdout=subprocess.DEVNULL)
        _, code, used = os.wait4(process.pid, 0)
        if code:
            sys.exit(f"{source} to {layout} failed")
        seconds = f"{time.perf_counter() - began:.0f} | {used.ru_utime + used.ru_stime:.0f}"
        lines.append(f"| {source} to {layout} | {seconds} | {1024 * used.ru_maxrss / 1e9:.2f} |")
    names = [file.relative_to(folder / "official") for file in (folder / "official").rglob("*.safetensors")]
    equal, *others = filecmp.cmpfiles(folder / "official", folder / "back", map(str, names), shallow=False)
    differ = f", others: {others}" if any(others) else ""
    return "\n".join([*lines, "", f"{len(equal)} of {len(names)} files of weights are the same{differ}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("write", "run", "convert", "measure"))
    parser.add_argument("folder", type=Path, help="of the weights")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="of the model that is written")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="of the files")
    parser.add_argument("--compute", choices=("float16", "float32"), default="float32", help="dtype in memory")
    parser.add_argument("--side", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--what", help="the one thing that `measure` measures")
    arguments = parser.parse_args()
    if arguments.command == "write":
        from full_size_files import write

        write(arguments.folder, arguments.size, getattr(torch, arguments.dtype))
    elif arguments.command == "convert":
        print(convert(arguments.folder))
    elif arguments.command == "measure":
        row = measure(arguments.what, arguments.folder, getattr(torch, arguments.compute), arguments.side)
        print(json.dumps(row))
    else:
        print(run(arguments))


if __name__ == "__main__":
    main()
