"""Measuring a model under a protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from versatile_diffusion.data.emoji.manifest import Manifest
from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.evaluation.measures import Bench, Made, measure
from versatile_diffusion.evaluation.networks import Networks, fitted, load_networks
from versatile_diffusion.evaluation.protocol import DATA, Protocol
from versatile_diffusion.evaluation.recognition import EncoderJudge, Items, spread
from versatile_diffusion.evaluation.results import Result
from versatile_diffusion.evaluation.subjects import BATCH, Subject
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.tasks import Task
from versatile_diffusion.training.judge import accuracy
from versatile_diffusion.version import __version__

LEAST_REAL = 64
"""Real pictures besides the items, below which distances are taken to all pictures of the split."""


@dataclass(frozen=True)
class Sample:
    """What was made of the items in one way, to look at."""

    split: str
    way: str
    made: Made


def evaluate(
    subject: Subject, data: Path, protocol: Protocol, tasks: Sequence[str] = (), samples_seen: int | None = None
) -> tuple[Result, list[Sample]]:
    """All measures of a model on held-out items, beside those of the real pictures and texts.

    Args:
        subject: the model; the networks that measure compute where it does.
        data: the emoji set, or one in its layout.
        protocol: how; the hashes of the networks and of the data set are filled in.
        tasks: names of those to measure; all that the model can do where left out.
        samples_seen: what the model was trained on, for plots.

    Raises:
        ValueError: the model has none of the tasks, or no encoders to choose candidates by; or the networks are not
            those of the protocol, or not all of them, or the data set is not.
    """
    start = time.monotonic()
    wanted = subject.wanted(protocol, tasks)
    held = {DATA: Manifest.read(data).hash}
    protocol.check(held)
    networks = load_networks(protocol, subject.encoders, subject.device)
    protocol = protocol.with_hashes({**held, **networks.hashes})
    tables: dict[str, dict[str, Any]] = {}
    judge_accuracy, samples = {}, []
    for split in protocol.splits:
        known = EmojiSet.load(data, split)
        if networks.judge is not None:
            judge_accuracy[split] = accuracy(networks.judge, known)
        items = Items.of(known, protocol.count)
        bench = _bench(networks, known, protocol)
        for way, made in _ways(subject, items, wanted, protocol):
            samples.append(Sample(split, way, made))
            for group, row in measure(made, bench, protocol.resamples).items():
                tables.setdefault(split if group == "all" else f"{split}, {group}", {})[way] = row
    model = {
        "name": subject.name,
        "hash": subject.hash,
        "guidance_scale": {task.name: subject.guidance(task, protocol) for task in wanted},
        "samples": samples_seen,
        "device": str(subject.device),
    }
    seconds = round(time.monotonic() - start, 1)
    return Result(protocol, model, judge_accuracy, tables, seconds, f"versatile-diffusion {__version__}"), samples


def _bench(networks: Networks, data: EmojiSet, protocol: Protocol) -> Bench:
    """What the measures of a split use. The real pictures are those of the split that are no items."""
    items = set(spread(len(data), protocol.count))
    others = [row for row in range(len(data)) if row not in items]
    rows = others if len(others) >= LEAST_REAL else range(len(data))
    real = fitted([MODALITIES["image"].check(data.pictures[row]) for row in rows], protocol.side)
    encoders = EncoderJudge.of(networks.encoders, data) if "text" in networks.encoders else None
    return Bench(networks, encoders, {network.name: network(real) for network in networks.features})


def _ways(subject: Subject, items: Items, tasks: Sequence[Task], protocol: Protocol) -> Iterator[tuple[str, Made]]:
    """The given values (the ceilings), the same through the codecs, and every task."""
    given = {modality: _fitted(modality, values, protocol) for modality, values in items.given.items()}
    items = replace(items, given=given)
    for modality, values in given.items():
        yield f"given {modality}", Made(modality, values, items, None)
    for modality in subject.codecs:
        values = _fitted(modality, subject.round_trip(modality, given[modality]), protocol)
        yield f"{modality} codec", Made(modality, values, items, modality, exact=True)
    for task in tasks:
        source = task.flow.contexts[0]
        values = _fitted(task.flow.data, _make(subject, task, given[source], protocol), protocol)
        yield task.name, Made(task.flow.data, values, items, source)


def _make(subject: Subject, task: Task, given: Sequence[Any], protocol: Protocol) -> list[Any]:
    """`seeds` values per given one, in batches."""
    copies = [value for value in given for _ in range(protocol.seeds)]
    values: list[Any] = []
    size = max(1, BATCH // protocol.candidates)
    for start in tqdm(range(0, len(copies), size), desc=task.name, disable=None):
        part = copies[start : start + size]
        seeds = range(protocol.seed + start, protocol.seed + start + len(part))
        values.extend(subject.make(task, part, seeds, protocol))
    return values


def _fitted(modality: str, values: Sequence[Any], protocol: Protocol) -> list[Any]:
    """Pictures at the protocol's side; texts as they are."""
    return fitted(values, protocol.side) if modality == "image" else list(values)
