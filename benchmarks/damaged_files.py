"""Damaged files of every kind, read as a user would: each gives a value or one sentence with its path.

    .venv/bin/python benchmarks/damaged_files.py --mutants 2000 --seed 0

Each mutant is read in a process of its own, which has 6 GB of address space and 20 seconds of a processor. Prints a
table by kind, and what went wrong; exit code 1 where something did. What `verify` passes must also load.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import tiny_official  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny import build_tiny_pipeline  # noqa: E402

from versatile_diffusion import VersatileDiffusionPipeline, load_embeddings, save_embeddings  # noqa: E402
from versatile_diffusion.cli.io.mistakes import _message  # noqa: E402
from versatile_diffusion.cli.io.model import without_bars  # noqa: E402
from versatile_diffusion.cli.verbs.replay import again, finder, read, threads_of  # noqa: E402
from versatile_diffusion.data.encoded import EncodedSet, encode_set  # noqa: E402
from versatile_diffusion.data.sources import open_source  # noqa: E402
from versatile_diffusion.evaluation.protocol import Protocol  # noqa: E402
from versatile_diffusion.interop.read.found import CONFIG_FILE  # noqa: E402
from versatile_diffusion.interop.read.tensors import open_tensors  # noqa: E402
from versatile_diffusion.interop.verify import verify  # noqa: E402
from versatile_diffusion.pipeline.models import model_of_record  # noqa: E402
from versatile_diffusion.reading import naming  # noqa: E402
from versatile_diffusion.records.png import save_png  # noqa: E402

LONGEST, ADDRESSES, MOST_GB = 20, 6 << 30, 2.0
NASTY: tuple[bytes, ...] = (
    *(b"null", b"true", b"-1", b"0", b"1e400", b"NaN", b"9" * 30, b'"x"', b'"../../x"', b'"\\u0000"', b"[]", b"{}"),
    *(b"[[0]]", b'{"a":1}', b"[" * 3000 + b"]" * 3000, b'"' + b"\xff" * 5 + b'"'),
)
"""Values that stand in JSON for another."""


@dataclass(frozen=True)
class Kind:
    """Files that are damaged one at a time, and how they are read.

    Args:
        name: for the table.
        folder: with whole files.
        files: of these, those to damage, by pattern.
        open: reads the folder; `(folder, damaged file)`.
    """

    name: str
    folder: Path
    files: str
    open: Callable[[Path, Path], Any]


def tensors(_folder: Path, file: Path) -> None:
    """Every tensor of a file."""
    found = open_tensors(file)
    for name in found:
        found[name].flatten()[:1].clone()


def model(folder: Path, _file: Path) -> None:
    """Verified, then loaded: what passes must load."""
    passed = verify(folder, numbers=False).ok
    try:
        VersatileDiffusionPipeline.from_pretrained(folder)
    except ValueError as error:
        if passed:
            raise RuntimeError("verify passed what does not load") from error
        raise


def embeddings(folder: Path, _file: Path) -> None:
    """All in a folder."""
    list(load_embeddings(folder))


def encoded(folder: Path, _file: Path) -> None:
    """The index, and what is asked of it."""
    found = EncodedSet.open(folder)
    len(found), found.keys


def record(pipe: Any, folder: Path, file: Path) -> None:
    """As `versatile replay` takes it, with the model that made it."""
    saved = read(file).record
    with naming(file):
        threads_of(saved), model_of_record(saved)
        again(pipe, saved, finder(file, {}))


def protocol(_folder: Path, file: Path) -> None:
    """Of an evaluation."""
    Protocol.read(str(file)).check_here([])


def kinds(home: Path) -> list[Kind]:
    """Whole files of every kind, below a folder."""
    pipe = build_tiny_pipeline()
    pipe.save_pretrained(home / "ours")
    official = home / "official"
    official.mkdir()
    tiny_official.write_official(official)
    (official / CONFIG_FILE).write_text(json.dumps(tiny_official.CONFIG))
    weights = home / "weights"
    weights.mkdir()
    state = {f"{name}.weight": torch.randn(4, 5) for name in "abc"}
    save_file(state, weights / "a.safetensors", metadata={"format": "pt"})
    torch.save(state, weights / "a.pth")
    torch.save(state, weights / "old.bin", _use_new_zipfile_serialization=False)
    wrapped = {"state_dict": state, "best": np.float64(3), "from": Path("/a"), "ema": {"module": state}, "step": 7}
    torch.save(wrapped, weights / "wrapped.ckpt")
    torch.save(wrapped, weights / "wrapped_old.ckpt", _use_new_zipfile_serialization=False)
    places = {"weight_map": dict.fromkeys(state, "a.safetensors")}
    (weights / "a.safetensors.index.json").write_text(json.dumps(places))
    for name in ("embeddings", "records", "protocols"):
        (home / name).mkdir()
    save_embeddings(home / "embeddings" / "a.safetensors", torch.randn(2, 3, 192), modality="text", names=["a", "b"])
    (home / "set").mkdir()
    Image.new("RGB", (16, 16), "red").save(home / "set" / "a.png")
    (home / "set" / "a.txt").write_text("a cat")
    encode_set(open_source(home / "set"), pipe.bank, home / "encoded")
    _write_records(pipe, home / "records")
    (home / "protocols" / "a.json").write_text(json.dumps(Protocol.read("quick").plain()))
    return [
        Kind("weights", weights, "*", tensors),
        Kind("our model: JSON", home / "ours", "**/*.json", model),
        Kind("our model: weights", home / "ours", "**/*.safetensors", model),
        Kind("official files", official, "**/*", model),
        Kind("embeddings", home / "embeddings", "*", embeddings),
        Kind("encoded.json", home / "encoded", "*", encoded),
        Kind("records", home / "records", "*", partial(record, pipe)),
        Kind("protocols", home / "protocols", "*", protocol),
    ]


def _write_records(pipe: Any, folder: Path) -> None:
    pipe.set_progress_bar_config(disable=True)
    for name, made in (("a.png", pipe.text_to_image("a dog", num_inference_steps=1, seed=1)),
                       ("a.json", pipe.text_variation("a dog", num_inference_steps=1, seed=1))):  # fmt: skip
        told = {**made[0].settings, "from_pretrained": "emoji", "threads": 1}
        if name == "a.png":
            save_png(made.images[0], folder / name, told)
        else:
            (folder / name).write_text(json.dumps({"texts": made.texts, **told}))


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A file of which something is wrong."""
    changed = bytearray(content)
    place = draw.randrange(len(content) + 1)
    if draw.random() < 0.5:  # what is read first decides most
        place = draw.randrange(min(len(content), 3000) + 1)
    match draw.choice(("cut", "flip", "flip", "bytes", "insert", "remove", "zero", "value", "value", "value")):
        case "cut":
            return content[:place]
        case "flip":
            for _ in range(draw.choice((1, 1, 3, 20))):
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        case "bytes":
            changed[place : place + 8] = draw.randbytes(8)
        case "insert":
            changed[place:place] = draw.choice((draw.randbytes(draw.choice((1, 50))), content[:200]))
        case "remove":
            del changed[place : place + draw.choice((1, 7, 400))]
        case "zero":
            changed[place : place + 64] = bytes(64)
        case "value":
            return _other_value(content, draw)
    return bytes(changed)


def _other_value(content: bytes, draw: random.Random) -> bytes:
    """Another value in place of one of JSON, or a key renamed."""
    found = list(
        re.finditer(rb'(?<=[:\[,])\s*("[^"\n]{0,80}"|-?\d[\d.e+-]*|true|false|null)(?=\s*[,\]}])', content[:65536])
    )
    if not found:
        return content[: len(content) // 2]
    one = draw.choice(found)
    return content[: one.start()] + draw.choice(NASTY) + content[one.end() :]


def mutants(those: list[Kind], seed: int) -> Iterator[tuple[Kind, Path, bytes]]:
    """Kind after kind, without end: a file and what stands in it."""
    draw = random.Random(seed)
    files = {kind.name: sorted(f for f in kind.folder.glob(kind.files) if f.is_file()) for kind in those}
    while True:
        for kind in those:
            file = draw.choice(files[kind.name])
            yield kind, file, damaged(file.read_bytes(), draw)


def resident() -> float:
    """Memory of this process in GB, which a fork begins with."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30


def outcome(kind: Kind, file: Path, content: bytes) -> tuple[str, str, float, float]:
    """What becomes of a mutant: `loaded`, `refused`, `TRACEBACK`, `HANG` or `DEAD`; what is said, seconds, and GB."""
    whole, mine = file.read_bytes(), resident()
    begin, (get, put) = time.monotonic(), os.pipe()
    file.write_bytes(content)
    try:
        if (child := os.fork()) == 0:
            _child(kind, file, put)
        os.close(put)
        with selectors.DefaultSelector() as ready:  # `select` knows no descriptor above 1,023
            ready.register(get, selectors.EVENT_READ)
            if waits := not ready.select(30 * LONGEST):  # other work may have the machine
                os.kill(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
        hung = waits or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
        answer, _, said = os.read(get, 9999).decode(errors="replace").partition("\0")
    finally:
        file.write_bytes(whole)
        os.close(get)
    return "HANG" if hung else answer or "DEAD", said, time.monotonic() - begin, used.ru_maxrss / 2**20 - mine


def _child(kind: Kind, file: Path, put: int) -> None:
    """Reads a mutant, and says how it went through a pipe."""
    try:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1), os.dup2(silent, 2)
        try:
            kind.open(kind.folder, file)
            answer = "loaded\0"
        except BaseException as error:
            said = _message(error) if isinstance(error, Exception) else None
            answer = f"refused\0{said}" if said else f"TRACEBACK\0{type(error).__name__}: {error}"
        os.write(put, answer.encode(errors="backslashreplace")[:2000])
    finally:
        os._exit(0)


def campaign(seed: int, count: int, seconds: float | None = None) -> tuple[dict[str, Counter[str]], list[str]]:
    """Reads mutants until there were `count`, or for some seconds. By kind, how many ended how; and what is wrong."""
    torch.set_num_threads(1)
    without_bars()
    home = Path(tempfile.mkdtemp(prefix="damaged-"))
    table: dict[str, Counter[str]] = {}
    faults, slowest, largest = [], 0.0, 0.0
    try:
        begin = time.monotonic()
        those = kinds(home)
        for kind in those:
            file = next(file for file in sorted(kind.folder.glob(kind.files)) if file.is_file())
            if (answer := outcome(kind, file, file.read_bytes()))[0] != "loaded":
                faults.append(f"{kind.name}, whole: {answer}")
        for number, (kind, file, content) in enumerate(mutants(those, seed)):
            if number >= count or (seconds is not None and time.monotonic() - begin > seconds):
                break
            answer, said, took, gb = outcome(kind, file, content)
            table.setdefault(kind.name, Counter())[answer] += 1
            slowest, largest = max(slowest, took), max(largest, gb)
            if answer.isupper() or gb > MOST_GB:
                faults.append(f"mutant {number}: {file.relative_to(home)}: {answer} {said} ({took:.0f} s, {gb:.2f} GB)")
    finally:
        shutil.rmtree(home)
    table["all"] = sum(table.values(), Counter())
    print(f"slowest {slowest:.1f} s, largest {largest:.2f} GB")
    return table, faults


def main() -> int:
    """The campaign, and a table of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=2000, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop then, if that is earlier")
    options = parser.parse_args()
    table, faults = campaign(options.seed, options.mutants, options.seconds)
    for name, counts in table.items():
        print(f"{name:20} {sum(counts.values()):6}  {', '.join(f'{n} {answer}' for answer, n in counts.most_common())}")
    print("\n".join(faults) or "no fault")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
