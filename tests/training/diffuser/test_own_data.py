"""Fine-tuning a saved model on a folder of pictures with captions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import build_tiny_pipeline

from versatile_diffusion.data.encoded import EncodedSet, encode_set
from versatile_diffusion.data.sources import open_source
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.recipes.export import export
from versatile_diffusion.recipes.run import run
from versatile_diffusion.training.diffuser import own_data as module
from versatile_diffusion.training.diffuser.mixture import STAGES
from versatile_diffusion.training.diffuser.own_data import (
    buckets_of,
    change_settings,
    held_out_of,
    own_data,
    settings_of,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(("red", "green", "blue", "orange", "purple", "black")):
        Image.new("RGB", (20, 16), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} house\n")
    return folder


def test_a_model_goes_on_from_where_it_is(model: Path, data: Path, tmp_path: Path) -> None:
    what, _ = own_data(str(model), data, tmp_path, CPU)
    assert (what.train_pairs.count, what.held_out.count) == (5, 1)
    before = build_tiny_pipeline().unet
    assert all(torch.equal(p, q) for p, q in zip(what.build().parameters(), before.parameters(), strict=True))
    assert [task.name for task in what.options.tasks] == [*settings_of(build_tiny_pipeline()).mixture]


def test_a_run_on_own_data_makes_a_model(model: Path, data: Path, tmp_path: Path) -> None:
    options = {"flows": ["text-to-image", "image-to-text"], "lr": 1e-3}
    shutil.copytree(data, tmp_path / "mine")
    outcome = run("own-data", str(model), tmp_path / "mine", tmp_path / "run", steps=4, device="cpu", options=options)
    assert outcome.finished
    shutil.rmtree(tmp_path / "mine")  # what was encoded is enough for the rest
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses, agreement = logged[-2:]
    assert {"eval/text-to-image", "eval/text-variation"} <= set(losses)
    assert {f"sample/{name}/agreement" for name in STAGES["official"]} <= set(agreement)
    assert all(-1 <= value <= 1 for name, value in agreement.items() if name != "step")
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["started"]["threads"] == torch.get_num_threads()
    pipe = VersatileDiffusionPipeline.from_pretrained(tmp_path / "run" / "export")
    assert pipe.config.styles == build_tiny_pipeline().config.styles
    assert len(pipe.text_to_image("a red house", num_inference_steps=2, seed=0).images) == 1
    assert (export(tmp_path / "run", tmp_path / "again") / "model_index.json").is_file()


def test_what_is_shown_was_held_out(model: Path, shapes: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "HELD_OUT", 4)  # of these twelve
    what, _ = own_data(str(model), shapes, tmp_path / "run", CPU)
    encoded = EncodedSet.open(tmp_path / "run" / "encoded")
    held_out = [encoded.keys[item] for item in held_out_of(encoded.keys)]
    assert what.held_out.count == len(held_out) == 3
    shown = Counter(picture.getpixel((0, 0)) for picture in what.looks["image"])
    assert shown == Counter(Image.open(shapes / key).getpixel((0, 0)) for key in held_out)
    codec = what.bank.codecs["image"]
    latents = codec.encode([codec.fit(picture) for picture in what.looks["image"]])
    held = what.held_out.latents["image"].draw(torch.arange(3), torch.Generator())
    assert torch.cdist(latents.flatten(1), held.flatten(1)).min(1).values.max() < 0.05


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two processes wait for each other at every step, long on a busy machine
def test_two_processes_of_torchrun_are_one_run(model: Path, data: Path, tmp_path: Path) -> None:
    """They train as one process does that takes the batches of both."""
    where = ["--from", str(model), "--data", str(data), "--out", str(tmp_path / "two"), "--device", "cpu"]
    starter = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "versatile_diffusion.train"]
    told = [sys.executable, "-m", *starter, *where, "--steps", "20", "--warmup", "1", "--lr", "0.001"]
    told += ["--eval-minutes", "999", "--sample-minutes", "999"]  # at the end alone, however slow the machine is
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    alone = environment | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(told, env=alone, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("finished; ") == 1
    settings = json.loads((tmp_path / "two" / "settings.json").read_text())
    assert (settings["started"]["processes"], settings["started"]["threads"]) == (2, 1)
    checkpoint = torch.load(tmp_path / "two" / "checkpoint.pt", weights_only=True)
    assert (checkpoint["step"], checkpoint["batches"], len(checkpoint["others"])) == (20, 2, 1)
    assert VersatileDiffusionPipeline.from_pretrained(tmp_path / "two" / "export").tasks()
    changes = {"accumulate": 2, "warmup": 1, "eval_minutes": 999, "sample_minutes": 999}
    run("own-data", str(model), data, tmp_path / "one", steps=20, device="cpu", changes=changes, options={"lr": 1e-3})
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("two", "one")]
    assert len(logs[0]) == 3  # losses, on held-out items, agreement
    for two, one in zip(*([json.loads(line) for line in lines[:2]] for lines in logs), strict=True):
        for name in two.keys() - {"seconds", "items_per_second", "memory_gib"}:
            assert two[name] == pytest.approx(one[name], rel=1e-3), name


def test_adapters_on_own_data(model: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    options = {"lora": 2, "only": ["context"], "lr": 1e-2}
    assert run("own-data", str(model), data, tmp_path / "run", steps=3, device="cpu", options=options).finished
    assert (tmp_path / "run" / "export" / "lora").is_dir()
    unet = VersatileDiffusionPipeline.from_pretrained(tmp_path / "run" / "export").unet
    before = build_tiny_pipeline().unet.state_dict()
    changed_names = {name for name, value in unet.state_dict().items() if not torch.equal(value, before[name])}
    assert changed_names
    assert all(name.startswith("context") for name in changed_names)


def test_an_encoded_folder_is_taken_as_it_is(model: Path, data: Path, tmp_path: Path) -> None:
    bank = VersatileDiffusionPipeline.from_pretrained(model).bank
    encode_set(open_source(data), bank, tmp_path / "encoded")
    what, _ = own_data(str(model), tmp_path / "encoded", tmp_path / "run", CPU)
    direct, _ = own_data(str(model), data, tmp_path / "other", CPU)
    for step in range(4):
        one, other = (o.batch(step, torch.Generator().manual_seed(step))[0] for o in (what, direct))
        assert torch.equal(one.latent, other.latent)
        assert torch.equal(one.context.tokens, other.context.tokens)
    assert not (tmp_path / "run").exists()


def test_what_is_trained_can_be_chosen() -> None:
    options = settings_of(build_tiny_pipeline())
    some = change_settings(options, ["image-to-text"], ["context", "data.text"], None, 1e-4)
    assert {name for name, share in some.mixture.items() if share} == {"image-to-text"}
    assert some.multipliers == {"global": 0.0, "data.image": 0.0}
    assert (some.lr, some.streams) == (1e-4, options.streams)
    with pytest.raises(ValueError, match="no flow image-to-smell; allowed: text-to-image"):
        change_settings(options, ["image-to-smell"], [], None, None)
    with pytest.raises(ValueError, match=r"context\.audio; allowed"):
        change_settings(options, None, ["context.audio"], None, None)
    with pytest.raises(ValueError, match="no trainable weights"):
        change_settings(options, ["text-to-image"], ["data.text"], None, None)


def test_a_model_of_fewer_flows(model: Path) -> None:
    options = settings_of(build_tiny_pipeline(data=("text",), contexts=("image",)))
    assert (options.stage, options.flows, options.streams) == (
        "official",
        ("image-to-text",),
        ["data.text", "context.image"],
    )
    assert settings_of(build_tiny_pipeline(data=("image",))).stage == "dual_context"
    assert replace(options).mixture == {"image-to-text": 2}


def test_one_picture_is_too_few(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "a.txt").write_text("black")
    with pytest.raises(ValueError, match="training needs at least two"):
        own_data(str(model), tmp_path / "data", tmp_path / "run", CPU)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """Three wide pictures, six square ones, three tall ones."""
    folder = tmp_path_factory.mktemp("shapes")
    for number in range(12):
        size = {0: (40, 10), 1: (10, 40)}.get(number % 4, (20, 20))
        Image.new("RGB", size, (20 * number, 90, 200)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text("a house\n")
    return folder


def test_each_batch_has_pictures_of_one_shape(model: Path, shapes: Path, tmp_path: Path) -> None:
    what, _ = own_data(str(model), shapes, tmp_path / "one", CPU, flows=["text-to-image"], aspect=4)
    again, _ = own_data(str(model), shapes, tmp_path / "other", CPU, flows=["text-to-image"], aspect=4)
    seen = Counter()
    for step in range(60):
        (batch,), (same,) = (o.batch(step, torch.Generator().manual_seed(step)) for o in (what, again))
        assert torch.equal(batch.latent, same.latent)
        assert torch.equal(batch.noise, same.noise)
        seen[tuple(batch.latent.shape[2:])] += 1
    assert set(seen) == {(2, 8), (4, 4), (8, 2)}
    assert seen[4, 4] > max(seen[2, 8], seen[8, 2])  # there are twice as many
    sizes = [len(numbers) for numbers in what.train_pairs.latents["image"].alike]
    assert sum(sizes) == what.train_pairs.count == 11


def test_a_run_on_pictures_of_several_shapes(model: Path, shapes: Path, tmp_path: Path) -> None:
    outcome = run("own-data", str(model), shapes, tmp_path / "run", steps=4, device="cpu", options={"aspect": 4})
    assert outcome.finished
    assert all(0 < value < 10 for value in outcome.metrics.values())
    pipe = VersatileDiffusionPipeline.from_pretrained(tmp_path / "run" / "export")
    assert pipe.text_to_image("a house", height=8, width=32, num_inference_steps=1, seed=0).images[0].size == (32, 8)
    with pytest.raises(ValueError, match="with other shapes"):
        own_data(str(model), shapes, tmp_path / "run", CPU)
    with pytest.raises(ValueError, match="already encoded with fixed shapes"):
        own_data(str(model), tmp_path / "run" / "encoded", tmp_path / "next", CPU, aspect=4)
    with pytest.raises(ValueError, match="does not generate images"):
        buckets_of(build_tiny_pipeline(data=("text",)), 2)


def test_the_loss_on_held_out_items_is_over_all_shapes(model: Path, shapes: Path, tmp_path: Path) -> None:
    """As the mean over its shapes, each measured alone."""
    what, _ = own_data(str(model), shapes, tmp_path, CPU, flows=["text-to-image"], aspect=4)
    what.held_out = what.train_pairs
    unet, task = what.build(), what.mixture.tasks[0]
    parts = what._measured(task, what.held_out)
    assert sorted(len(part) for part in parts)[-1] < sum(map(len, parts)) == 64
    generator, total = torch.Generator().manual_seed(0), 0.0
    with torch.no_grad():
        for items in parts:
            batch = what._of(task, what.held_out, items, generator)
            total += len(items) * float(what._loss(unet, batch)[0])
        assert what.evaluate(unet)["text-to-image"] == pytest.approx(total / 64)
