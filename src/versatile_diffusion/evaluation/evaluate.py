"""Evaluation of a model under a protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from versatile_diffusion.evaluation.items import ALL, HeldOut, Items, spread
from versatile_diffusion.evaluation.measures import Bench, Generated, measure
from versatile_diffusion.evaluation.networks import Networks, fit_images, load_networks
from versatile_diffusion.evaluation.protocol import DATA, Protocol
from versatile_diffusion.evaluation.recognition import EncoderJudge
from versatile_diffusion.evaluation.results import Result
from versatile_diffusion.evaluation.subjects import BATCH, Subject
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.tasks import Task
from versatile_diffusion.version import __version__

Measurement = tuple[Result, Sequence["WaySamples"]]
"""A result and the generated samples."""
LEAST_REAL = 64
"""Minimum number of further real images; below it, distances are to all images of the split."""


@dataclass(frozen=True)
class WaySamples:
    """Samples of one task or reference, for display."""

    split: str
    way: str
    made: Generated


def evaluate(
    subject: Subject,
    data: HeldOut,
    protocol: Protocol,
    tasks: Sequence[str] = (),
    samples_seen: int | None = None,
    trust_features: bool = False,
) -> tuple[Result, list[WaySamples]]:
    """Evaluate a model on held-out items, with real images and texts as reference.

    Args:
        subject: the model; metric networks run on its device.
        data: the held-out set.
        protocol: the protocol; hashes of networks and data set are filled in.
        tasks: names of tasks to measure; default: all tasks of the model.
        samples_seen: number of training samples, for plots.
        trust_features: whether TorchScript feature networks (which execute code) are allowed.

    Raises:
        ValueError: an unsupported task, no encoders to rank candidates, or networks, data set or splits that do not
            match the protocol.
    """
    start = time.monotonic()
    wanted = subject.wanted(protocol, tasks)
    held = {DATA: data.hash}
    protocol = protocol.on(data.splits, data.parts)
    protocol.check(held)
    networks = load_networks(protocol, subject.encoders, subject.device, trust_features)
    protocol = protocol.with_hashes({**held, **networks.hashes})
    tables: dict[str, dict[str, Any]] = {}
    judge_accuracy, samples = {}, []
    for split in protocol.splits:
        if networks.judge is not None and (found := data.accuracy(networks.judge, split)):
            judge_accuracy[split] = found
        items = data.items(split, protocol.count)
        bench = _bench(networks, data, split, protocol)
        for way, made in _ways(subject, items, wanted, protocol):
            samples.append(WaySamples(split, way, made))
            for group, row in measure(made, bench, protocol.resamples).items():
                tables.setdefault(split if group == ALL else f"{split}, {group}", {})[way] = row
    model = {
        "name": subject.name,
        "hash": subject.hash,
        "guidance_scale": {task.name: subject.guidance(task, protocol) for task in wanted},
        "samples": samples_seen,
        "device": str(subject.device),
    }
    seconds = round(time.monotonic() - start, 1)
    return Result(protocol, model, judge_accuracy, tables, seconds, f"versatile-diffusion {__version__}"), samples


def _bench(networks: Networks, data: HeldOut, split: str, protocol: Protocol) -> Bench:
    """Prepare the metrics of a split. Its images outside the items are the real images."""
    images, vocabulary = data.images(split), data.vocabulary(split)
    items = set(spread(len(images), protocol.count))
    others = [row for row in range(len(images)) if row not in items]
    real = fit_images(
        [images[row] for row in (others if len(others) >= LEAST_REAL else range(len(images)))], protocol.side
    )
    known = vocabulary if "text" in networks.encoders else None
    encoders = None if known is None else EncoderJudge.of(networks.encoders, known)
    return Bench(networks, encoders, {network.name: network(real) for network in networks.features})


def _ways(subject: Subject, items: Items, tasks: Sequence[Task], protocol: Protocol) -> Iterator[tuple[str, Generated]]:
    """Yield the given values (upper bound), their codec reconstructions, and the outputs of every task."""
    given = {modality: _fit(modality, values, protocol) for modality, values in items.given.items()}
    items = replace(items, given=given)
    for modality, values in given.items():
        yield f"given {modality}", Generated(modality, values, items, None)
    for modality in (codec for codec in subject.codecs if codec in given):
        values = _fit(modality, subject.round_trip(modality, given[modality]), protocol)
        yield f"{modality} codec", Generated(modality, values, items, modality, exact=True)
    for task in (one for one in tasks if one.flow.contexts[0] in given):  # the data set has no other modalities
        source = task.flow.contexts[0]
        values = _fit(task.flow.data, _make(subject, task, given[source], protocol), protocol)
        yield task.name, Generated(task.flow.data, values, items, source)


def _make(subject: Subject, task: Task, given: Sequence[Any], protocol: Protocol) -> list[Any]:
    """Generate `seeds` values per given one, in batches."""
    copies = [value for value in given for _ in range(protocol.seeds)]
    values: list[Any] = []
    size = max(1, BATCH // protocol.candidates)
    for start in tqdm(range(0, len(copies), size), desc=task.name, disable=None):
        part = copies[start : start + size]
        seeds = range(protocol.seed + start, protocol.seed + start + len(part))
        values.extend(subject.make(task, part, seeds, protocol))
    return values


def _fit(modality: str, values: Sequence[Any], protocol: Protocol) -> list[Any]:
    """Fit images to the protocol's side; return other values unchanged."""
    return fit_images(values, protocol.side) if MODALITIES[modality].form == "painted" else list(values)
