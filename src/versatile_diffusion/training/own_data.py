"""Fine-tuning of a whole pipeline on pictures with captions of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from versatile_diffusion.data.buckets import Buckets
from versatile_diffusion.data.encoded import INDEX, LATENTS, TOKENS, EncodedSet, encode_set, rank
from versatile_diffusion.data.sources import Report, open_source
from versatile_diffusion.diffuser.groups import covered
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.config_file import configured
from versatile_diffusion.training.diffuser import STAGES, DiffuserObjective, DiffuserSettings
from versatile_diffusion.training.loop import LoopSettings
from versatile_diffusion.training.lora import LoraSettings
from versatile_diffusion.training.pairs import Pairs

LOOP = LoopSettings(steps=400, warmup=20, ema=0.99, eval_minutes=2, sample_minutes=4)
"""Short: for a few hundred to a few thousand pictures."""

SHARES = {"text-to-image": 3, "image-variation": 1, "image-to-text": 2, "text-variation": 1}
HELD_OUT, MOST_HELD_OUT = 20, 256
ENCODED = "encoded"
"""Where in a run's folder its set is, if the run encoded it."""


def own_data(
    model: str,
    data: Path,
    out: Path,
    device: torch.device,
    *,
    flows: Sequence[str] | None = None,
    only: Sequence[str] = (),
    lora: int | None = None,
    lr: float | None = None,
    aspect: float | None = None,
    batch: int | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[DiffuserObjective, LoopSettings]:
    """All flows of a model, trained further.

    Args:
        model: name of a shipped model, a folder, a checkpoint or a hub id; its codecs and context encoders stay.
        data: pictures with captions (see `open_source`), which are encoded into `out/encoded`; or a folder that
            `versatile data encode` wrote with this model. One item in twenty is held out, by its name.
        out: folder of the run.
        device: where to train.
        flows: tasks to train; all that the model can do if left out.
        only: groups and streams to train, or to give adapters; the others stay. All if left out (adapters: contexts).
        lora: train adapters of this rank in place of the weights.
        lr: learning rate.
        aspect: pictures keep their proportions up to this many to one, in batches of one shape; all of them are given
            the codec's own shape if left out.
        batch: items per step of each flow.
        config: fields of `DiffuserSettings`, see `configured`; what else is given wins over them (see `changed`).

    Raises:
        ValueError: there is no such model or data, fewer than two items, the set was encoded by another model, or
            settings do not fit the model (told before anything is encoded).
    """
    if not (data / INDEX).is_file():
        open_source(data)  # refused before a model is loaded
    pipe = VersatileDiffusionPipeline.from_pretrained(model, on_use=False)
    try:
        options = changed(settings_of(pipe), flows, only, lora, lr, batch, config or {})
    except ValueError as error:
        raise ValueError(f"with the settings of --config: {error}" if config else str(error)) from error
    bank = pipe.bank.to(device).eval()
    encoded = encoded_set(data, bank, out / ENCODED, None if aspect is None else buckets_of(pipe, aspect))
    train, held_out = split(encoded, bank, device)
    keys = encoded.keys
    looks = encoded.looks(keys[item] for item in held_out_of(keys))
    objective = DiffuserObjective(
        options,
        train,
        held_out,
        bank,
        {"image": [look.values["image"][0] for look in looks], "text": [look.values["text"][0] for look in looks]},
        start=pipe.unet,
        device=device,
        model={"styles": pipe.config.styles, "defaults": pipe.config.defaults},
    )
    objective.remark = counted(encoded)
    return objective, LOOP


def counted(encoded: EncodedSet) -> str:
    """How many items there are, and what was skipped and why."""
    report = Report(**encoded.index["report"])
    return f"{len(encoded)} items ({report}{report.hint})"


def changed(
    options: DiffuserSettings,
    flows: Sequence[str] | None,
    only: Sequence[str],
    lora: int | None,
    lr: float | None,
    batch: int | None = None,
    config: Mapping[str, Any] = MappingProxyType({}),
) -> DiffuserSettings:
    """The settings with the changes that `own_data` takes. What a file says and an option does not speak of stays:
    `lora` leaves an adapter's targets, alpha and name, `only` the multipliers of what is trained."""
    changes = configured(options, config) | ({} if lr is None else {"lr": lr})
    if flows is not None:
        if unknown := [name for name in flows if name not in options.mixture]:
            raise ValueError(f"the model has no flow {', '.join(unknown)}; allowed: {', '.join(options.mixture)}")
        shares = changes.get("mixture", options.mixture)
        changes["mixture"] = {name: (share or 1) if name in flows else 0 for name, share in shares.items()}
    if batch is not None:
        changes["batch"] = {task.name: batch for task in options.tasks}
    streams = ["global", *options.streams]
    chosen = covered(only, streams)
    told = changes.get("lora")
    if lora is not None or (told and only):
        told = told or LoraSettings()
        rank = told.rank if lora is None else lora
        changes["lora"] = replace(told, rank=rank, targets=tuple(only) or told.targets)
    elif only:
        frozen = {stream: 0.0 for stream in streams if stream not in chosen}
        changes["multipliers"] = {**changes.get("multipliers", {}), **frozen}
    return replace(options, **changes)


def buckets_of(pipe: VersatileDiffusionPipeline, widest: float) -> Buckets:
    """Shapes that the codec and the levels of the diffuser can make, around the model's own size.

    Args:
        widest: the longer side over the shorter one, at most.

    Raises:
        ValueError: the model makes no pictures.
    """
    if "image" not in pipe.bank.codecs:
        raise ValueError(f"{pipe.model_name} makes no pictures that could have shapes")
    codec = pipe.bank.codecs["image"]
    side = codec.fit(Image.new("RGB", (1, 1))).width
    *_, cells = codec.latent_shape()
    return Buckets.of(side, side // cells * 2 ** sum(stage.kind == "down" for stage in pipe.unet.plan), widest)


def encoded_set(data: Path, bank: ModalityBank, out: Path, buckets: Buckets | None = None) -> EncodedSet:
    """The set in `data` if it is encoded; else its pictures and captions, encoded into `out` (once).

    Raises:
        ValueError: another model encoded it, or it is encoded and shapes are asked for.
    """
    if (data / INDEX).is_file():
        if buckets is not None:
            raise ValueError(
                f"{data} is encoded, and its shapes are settled; `versatile data encode --aspect` keeps them"
            )
        encoded = EncodedSet.open(data)
    else:
        report = Report()
        with tqdm(desc="encoding", unit=" items", disable=None) as bar:
            encoded = encode_set(
                open_source(data),
                bank,
                out,
                buckets=buckets,
                report=report,
                progress=lambda done: bar.update(done - bar.n),
            )
    encoded.check(bank)
    return encoded


def split(encoded: EncodedSet, bank: ModalityBank, device: torch.device) -> tuple[Pairs, Pairs]:
    """Items to train on, and those held out.

    Raises:
        ValueError: there are fewer than two.
    """
    if len(encoded) < 2:
        raise ValueError(f"{encoded.folder} has {len(encoded)} item; training needs two or more, one to be held out")
    pairs = Pairs(
        len(encoded),
        {m: encoded.rows(LATENTS, m, device) for m in bank.codecs},
        {m: encoded.rows(TOKENS, m, device) for m in bank.encoders},
    )
    held_out = held_out_of(encoded.keys)
    return pairs.only(sorted(set(range(len(encoded))) - held_out)), pairs.only(sorted(held_out))


def held_out_of(keys: Sequence[str]) -> set[int]:
    """Numbers of the items that are not trained on: a twentieth (at least one, at most 256), by the items' names."""
    count = min(max(1, len(keys) // HELD_OUT), MOST_HELD_OUT)
    return set(sorted(range(len(keys)), key=lambda item: rank(keys[item]))[:count])


def settings_of(pipe: VersatileDiffusionPipeline) -> DiffuserSettings:
    """Settings that train all flows of a pipeline, with the objective that it was trained with.

    Raises:
        ValueError: it has none of the flows that are trained.
    """
    flows = tuple(name for name in STAGES["official"] if pipe.can(TASKS[name].flow))
    if not flows:
        raise ValueError(f"{pipe.model_name} has none of the flows {', '.join(STAGES['official'])}")
    config = {name: value for name, value in pipe.unet.config.items() if not name.startswith("_")}
    scheduler = pipe.scheduler.config
    return DiffuserSettings(
        stage=next(stage for stage, tasks in STAGES.items() if set(flows) <= set(tasks)),
        data_streams=config.pop("data_streams"),
        context_streams=config.pop("context_streams"),
        unet=config,
        mixture={name: SHARES[name] for name in flows},
        batch={"image": 16, "text": 32},
        prediction=scheduler.prediction_type,
        zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr")),
        flows=flows,
        lr=2e-4,
    )
