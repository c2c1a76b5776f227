"""Offline generation: what becomes of each row of a table, and that nothing is done twice."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from PIL import Image
from service_client import file_of
from tiny import build_tiny_pipeline

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.data.journal import POISONOUS, STRIKES
from versatile_diffusion.data.sources import open_source
from versatile_diffusion.records.png import read_record
from versatile_diffusion.serving.api.results import digest_of
from versatile_diffusion.serving.many.cluster import by_ray_data
from versatile_diffusion.serving.many.order import LEDGER, GenerationOrder, pieces
from versatile_diffusion.serving.many.rows import Table, TableColumns, row_of
from versatile_diffusion.serving.many.work import INVALID, JOURNAL, UNDONE, GenerateShard, done_already, generate_many
from versatile_diffusion.tasks import TASKS

WORDS = ("a red apple", "a green pear", "the cat", "a dog", "two blue house", "an apple", "a pear")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The values of each run of a model."""
    made: list[Any] = []
    real = VersatileDiffusionPipeline.generate

    def generate(pipe: Any, data: str, conditions: Any, **options: Any) -> Any:
        output = real(pipe, data, conditions, **options)
        made.append(conditions[0].value)
        return output

    monkeypatch.setattr(VersatileDiffusionPipeline, "generate", generate)
    return made


def written(file: Path, rows: list[dict[str, Any]]) -> str:
    frame = pl.DataFrame(rows, infer_schema_length=None)
    {".parquet": frame.write_parquet, ".csv": frame.write_csv, ".jsonl": frame.write_ndjson}[file.suffix](file)
    return str(file)


def order_of(table: str, out: Path, model: str, **more: Any) -> GenerationOrder:
    given = {"task": "text-to-image", "seed": 5, "options": {"num_inference_steps": 2}, "dtype": "float32", **more}
    return GenerationOrder(Table(table), out, model=model, **given)


def made(order: GenerationOrder) -> dict[str, Any]:
    return generate_many(order, pieces(order))


def members(out: Path) -> dict[str, bytes]:
    """All members of all shards."""
    held = {}
    for file in sorted(out.glob("*.tar")):
        with tarfile.open(file) as archive:
            held |= {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    return held


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_item_has_its_value_and_its_complete_record(suffix: str, tmp_path: Path, model: str) -> None:
    """Rows with options of their own; the record makes the item again, to the last bit."""
    rows = [{"prompt": word, "steps": None, "author": f"a{k}"} for k, word in enumerate(WORDS[:3])]
    rows[1]["steps"] = 3
    order = order_of(written(tmp_path / f"in{suffix}", rows), tmp_path / "out", model, rows=2)
    total = made(order)
    assert total == {"rows": 3, "items": 3, "failed": {}, "shards": 2}
    held = members(order.out)
    assert list(held) == [f"{k:09d}-000.{suffix}" for k in range(3) for suffix in ("png", "txt", "json")]
    read = [(item.key, item.values["text"]) for item, _ in open_source(order.out).read()]
    assert [texts for _, texts in read] == [[word] for word in WORDS[:3]], "as training reads shards"
    pipe = VersatileDiffusionPipeline.from_pretrained(model)
    for k, word in enumerate(WORDS[:3]):
        image = Image.open(BytesIO(held[f"{k:09d}-000.png"]))
        record = json.loads(held[f"{k:09d}-000.json"])
        assert held[f"{k:09d}-000.txt"].decode() == record["prompt"] == word
        assert record["num_inference_steps"] == (3 if k == 1 else 2)
        assert record["seed"] == 5 + k
        assert record["row"] == {"number": k, "author": f"a{k}"}
        assert {name: value for name, value in read_record(image).items() if name != "schema"} == record
        assert record["sha256"] == digest_of("image", image.convert("RGB"))
        again = pipe.replay(record)
        assert digest_of("image", again.values[0]) == record["sha256"]


def test_captions_of_files_and_of_bytes_as_parquet(tmp_path: Path, model: str) -> None:
    picture = Image.effect_noise((16, 16), 80).convert("RGB")
    picture.save(tmp_path / "one.png")
    given = file_of(picture)
    rows: list[dict[str, Any]] = [
        {"image": {"bytes": given, "path": None}},
        {"image": {"bytes": None, "path": "one.png"}},
    ]
    table = written(tmp_path / "in.parquet", rows)
    order = order_of(table, tmp_path / "out", model, task="image-to-text", form="parquet", options={"num_outputs": 2})
    assert made(order)["items"] == 4
    frame = pl.read_parquet(order.out / "00000.parquet")
    assert frame.columns == ["key", "row", "value", "suffix", "seed", "prompt", "sha256", "record"]
    assert frame["row"].to_list() == [0, 0, 1, 1]
    assert frame["seed"].to_list() == [5, 6, 7, 8]
    for row in frame.iter_rows(named=True):
        assert row["sha256"] == digest_of("text", row["value"])
        assert json.loads(row["record"])["texts"] == [row["value"]]


def test_failures_are_named_and_the_others_go_on(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a row, and what goes wrong while it is generated."""
    real = VersatileDiffusionPipeline.generate

    def generate(pipe: Any, data: str, conditions: Any, **options: Any) -> Any:
        if "the cat" in conditions[0].value:
            raise RuntimeError("no room")
        return real(pipe, data, conditions, **options)

    monkeypatch.setattr(VersatileDiffusionPipeline, "generate", generate)
    rows = [
        *({"prompt": word, "style": None} for word in WORDS[:4]),
        {"prompt": None, "style": None},
        {"prompt": "a cat", "style": "none"},
    ]
    order = order_of(written(tmp_path / "in.jsonl", rows), tmp_path / "out", model)
    assert made(order)["failed"] == {INVALID: 2, UNDONE: 1}
    told = [json.loads(line) for line in (order.out / "00000.failed.jsonl").read_text().splitlines()]
    assert [(one["row"], one["reason"]) for one in told] == [(2, UNDONE), (4, INVALID), (5, INVALID)]
    assert told[0]["more"] == "no room"
    assert "style" in told[2]["more"]
    assert [name for name in members(order.out) if name.endswith("png")] == [f"00000000{k}-000.png" for k in (0, 1, 3)]
    assert json.loads((order.out / LEDGER).read_text())["total"]["items"] == 3


def test_what_is_done_is_not_done_again(
    tmp_path: Path, model: str, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends in the middle of a shard goes on with the first batch that is missing, and gives the same bytes
    as one that was not interrupted."""
    table = written(tmp_path / "in.csv", [{"prompt": word} for word in WORDS])
    whole = order_of(table, tmp_path / "whole", model, rows=5, batch=2)
    made(whole)
    expected, batches = members(whole.out), list(calls)
    assert len(batches) == 4
    calls.clear()

    order = order_of(table, tmp_path / "out", model, rows=5, batch=2)
    counting = VersatileDiffusionPipeline.generate

    def ends(pipe: Any, *given: Any, **options: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counting(pipe, *given, **options)

    monkeypatch.setattr(VersatileDiffusionPipeline, "generate", ends)
    with pytest.raises(KeyboardInterrupt):
        made(order)
    assert done_already(order, pieces(order)) == 4
    monkeypatch.setattr(VersatileDiffusionPipeline, "generate", counting)
    made(order)
    assert calls == batches
    assert members(order.out) == expected
    made(order)
    assert calls == batches
    assert not list(order.out.glob("*.part"))


def test_a_folder_of_something_else_is_refused(tmp_path: Path, model: str) -> None:
    table = written(tmp_path / "in.csv", [{"prompt": "a cat"}])
    made(order_of(table, tmp_path / "out", model))
    with pytest.raises(ValueError, match=r"begun with other settings \(seed\)"):
        made(order_of(table, tmp_path / "out", model, seed=6))
    written(tmp_path / "in.csv", [{"prompt": "a dog"}])
    with pytest.raises(ValueError, match=r"begun with other settings \(table\)"):
        made(order_of(table, tmp_path / "out", model))


def test_a_row_that_ends_the_process_is_passed_over(tmp_path: Path, model: str) -> None:
    """After as many ends as the journal takes; the others are generated."""
    table = written(tmp_path / "in.csv", [{"prompt": word} for word in WORDS[:3]])
    order = order_of(table, tmp_path / "out", model)
    (piece,) = pieces(order)
    spool = GenerateShard(order).spool(piece)
    spool.mkdir(parents=True)
    told = {"at": [], "strikes": {"1": STRIKES}, "suspects": ["1"]}
    (spool / JOURNAL).write_text(json.dumps(told))
    assert made(order)["failed"] == {POISONOUS: 1}
    assert len(members(order.out)) == 6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image": None}, "column image is empty"),
        ({"image": "https://example.org/a.png"}, "addresses are not fetched"),
        ({"image": 3}, "must be the name of a file"),
        ({"image": "a.png", "steps": "many"}, "steps is 'many'; it must be a whole number"),
        ({"image": "a.png", "steps": 2.5}, "must be a whole number"),
        ({"image": "a.png", "rank": "perhaps"}, "must be true or false"),
        ({"image": "a.png", "guidance_interval": "[0, 1"}, "looks like JSON, and is none"),
    ],
)
def test_what_is_wrong_with_a_row(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    columns = TableColumns.of(list(given), TASKS["image-variation"].flow)
    with pytest.raises(ValueError, match=said):
        row_of(0, given, columns, tmp_path)


def test_columns_by_what_they_are_for(tmp_path: Path) -> None:
    names = ["caption", "path", "image.mask", "text.weight", "cfg", "seed", "height", "NSFW", "temperature"]
    columns = TableColumns.of(names, TASKS["dual-guided"].flow)
    assert columns.values == {"text": "caption", "image": "path"}
    assert columns.fields == {"image.mask": ("image", "mask"), "text.weight": ("text", "weight")}
    assert {name: control.name for name, control in columns.options.items()} == {
        "cfg": "guidance_scale",
        "height": "height",
    }
    assert columns.seed == "seed"
    assert not columns.used("NSFW")
    assert not columns.used("temperature"), "no option of images"
    given = dict(zip(names, ["a cat", "a.png", "m.png", "2", "5", "7", "64", "no", "1"], strict=True))
    row = row_of(3, given, columns, tmp_path)
    assert row.values == {"text": "a cat", "image": str(tmp_path / "a.png")}
    assert row.fields == {"text": {"weight": 2.0}, "image": {"mask": str(tmp_path / "m.png")}}
    assert row.options == {"guidance_scale": 5.0, "height": 64}
    assert (row.seed, row.more) == (7, {"NSFW": "no", "temperature": "1"})
    with pytest.raises(ValueError, match="several columns are for guidance_scale"):
        TableColumns.of(["text", "cfg", "guidance_scale"], TASKS["text-to-image"].flow)
    with pytest.raises(ValueError, match="needs one of text, prompt"):
        TableColumns.of(["words"], TASKS["text-to-image"].flow)


def versatile(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "versatile_diffusion", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.campaign
@pytest.mark.timeout(3600)  # five processes, each of which loads torch
def test_killed_for_good_and_started_again(tmp_path: Path, model: str) -> None:
    """`kill -9` at three moments; what was there stays untouched, and the end is that of an unbroken run."""
    table = written(tmp_path / "in.parquet", [{"prompt": f"{word} {k}"[:12]} for k in range(4) for word in WORDS])
    asked = ["--input", table, "--model", model, "--seed", "1", "--steps", "20", "--shard", "10", "--batch", "2"]
    assert versatile("generate-many", *asked, "--out", str(tmp_path / "whole")).wait(1200) == 0
    out, kept, rows = tmp_path / "out", dict[Path, int](), 0
    for goal in (4, 12, 20):
        process = versatile("generate-many", *asked, "--out", str(out))
        while process.poll() is None and (rows := done(out)) < goal:
            time.sleep(0.01)
        assert process.poll() is None, "it ended by itself"
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        now = {file: file.stat().st_ino for file in [*out.glob("*.part/*.tar"), *out.glob("*.tar")]}
        assert all(now.get(file, inode) == inode for file, inode in kept.items()), "nothing is written again"
        kept = now
    process = versatile("generate-many", *asked, "--out", str(out), "--json")
    told, said = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    assert json.loads(told)["kept"] >= rows >= 20
    assert json.loads(told)["items"] == len(WORDS) * 4
    assert members(out) == members(tmp_path / "whole")


def done(out: Path) -> int:
    """Rows that are done: of shards in the ledger, and of batches of the others."""
    entries = [json.loads(file.read_text())["rows"] for file in out.glob("ledger/*.json")]
    batches = [file for file in out.glob("*.part/*.tar") if not (out / "ledger" / f"{file.parent.stem}.json").exists()]
    return sum(entries) + 2 * len(batches)


def cmdline_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended just now
        return []


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_actors_of_a_cluster_do_the_same(tmp_path: Path, model: str) -> None:
    """By Ray Data, one of whose processes is killed on the way: the bytes are those of this process, and what was done
    before is not done again."""
    pytest.importorskip("ray.data")
    ray = importlib.import_module("ray")
    table = written(tmp_path / "in.csv", [{"prompt": f"{word} {k}"[:12]} for k in range(2) for word in WORDS])
    steps = {"num_inference_steps": 40}
    whole = order_of(table, tmp_path / "whole", model, rows=4, batch=2, options=steps)
    made(whole)
    order = order_of(table, tmp_path / "out", model, rows=4, batch=2, options=steps)
    order.out.mkdir()
    killed, ended = list[int](), threading.Event()

    def kill() -> None:
        """The first process that has done a batch and is at the next one."""
        while not killed and not ended.is_set():
            ready = list(order.out.glob("*.part/*.tar"))
            ours = psutil.Process().children(recursive=True)
            found = [one.pid for one in ours if "MapWorker" in " ".join(cmdline_of(one))]
            if ready and found:
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
            time.sleep(0.01)

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config={"worker_niceness": 0})
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        total = generate_many(order, pieces(order), by_ray_data("local"))
    finally:
        ended.set()
        thread.join()
        ray.shutdown()
    assert killed, "no process was met at work"
    assert total == {"rows": 14, "items": 14, "failed": {}, "shards": 4}
    assert members(order.out) == members(whole.out)
