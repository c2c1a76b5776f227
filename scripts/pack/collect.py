"""Puts the newest average of a run into RESULTS as pieces under 15 MB in half precision, with its log and sheets.

`cat RESULTS/model.tar.* | tar -x` gives the folder of the diffuser; the rest of the model is that of the pack."""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
from pathlib import Path

import torch

from versatile_diffusion.diffuser.unet import MultiFlowUNet

PIECE = 14_000_000
PEAK = 989e12
"""Floating point operations a second of an H100 or H200 in bfloat16, dense, as its maker says."""


def utilisation(run: Path, flops: dict[str, float], items_per_second: float) -> float:
    """The share of `PEAK` that goes into the model (MFU)."""
    told = json.loads((run / "settings.json").read_text())["batch"]
    batch = {
        flow: told.get(flow, told.get("text" if flow.endswith(("to-text", "text-variation")) else "image"))
        for flow in flops
    }
    steps = items_per_second / sum(batch.values())
    return steps * sum(batch[flow] * flops[flow] for flow in flops) / PEAK


def main() -> None:
    """Collects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--export", required=True, help="the folder below the run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cpu", type=Path, required=True, help="cpu.json of the pack")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unet = MultiFlowUNet.from_pretrained(given.run / given.export / "unet").to(torch.float16)
        unet.save_pretrained(Path(folder) / "unet")
        for name in ("model_index.json",):
            (Path(folder) / name).write_bytes((given.run / given.export / name).read_bytes())
        whole = Path(folder) / "model.tar"
        with tarfile.open(whole, "w") as tar:
            for file in sorted((Path(folder) / "unet").iterdir()):
                tar.add(file, f"unet/{file.name}")
            tar.add(Path(folder) / "model_index.json", "model_index.json")
            for name in ("log.jsonl", "settings.json"):
                tar.add(given.run / name, name)
            for sheet in sorted((given.run / "samples").glob("*"))[-4:]:
                tar.add(sheet, f"samples/{sheet.name}")
        data = whole.read_bytes()
        pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
        for number, piece in enumerate(pieces):
            fresh = given.out / f".model.tar.{number}"
            fresh.write_bytes(piece)
        for number in range(len(pieces)):  # quickly, one after the other
            (given.out / f".model.tar.{number}").replace(given.out / f"model.tar.{number}")
    lines = [json.loads(line) for line in (given.run / "log.jsonl").read_text().splitlines()]
    (last,) = [line for line in lines if "lr_factor" in line][-1:] or [{}]
    told = {name: last.get(name) for name in ("step", "loss", "seconds", "items_per_second", "memory_gib")}
    if last:
        told["mfu"] = utilisation(given.run, json.loads(given.cpu.read_text())["flops"], last["items_per_second"])
    (given.out / "speed.json").write_text(json.dumps(told) + "\n")
    print(json.dumps({"pieces": len(pieces), **told}))


if __name__ == "__main__":
    main()
