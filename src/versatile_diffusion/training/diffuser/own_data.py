"""Fine-tuning of a complete pipeline on your own images with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from versatile_diffusion.choices import unknown
from versatile_diffusion.data.buckets import Buckets, Shape
from versatile_diffusion.data.encoded import INDEX, LATENTS, TOKENS, EncodedSet, encode_set, rank
from versatile_diffusion.data.encoded_shards import is_encoded
from versatile_diffusion.data.report import Report
from versatile_diffusion.data.sources import open_source
from versatile_diffusion.data.stream import WINDOW
from versatile_diffusion.diffuser.groups import streams_in
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.read.stable_diffusion import warm_start as read_warm_start
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.training.diffuser.distill import DistillObjective
from versatile_diffusion.training.diffuser.distillation import DistillSettings
from versatile_diffusion.training.diffuser.lora import LoraSettings
from versatile_diffusion.training.diffuser.mixture import STAGES, single_flows
from versatile_diffusion.training.diffuser.objective import DiffuserObjective
from versatile_diffusion.training.diffuser.pairs import Pairs
from versatile_diffusion.training.diffuser.paper import PAPER, loop_of, settings_for
from versatile_diffusion.training.diffuser.promotion import with_streams
from versatile_diffusion.training.diffuser.settings import DiffuserSettings
from versatile_diffusion.training.diffuser.streamed import Streamed, StreamSettings, open_sets
from versatile_diffusion.training.engine.config_file import read_changes
from versatile_diffusion.training.engine.loop import LoopSettings

LOOP = LoopSettings(steps=400, warmup=20, ema=0.99, eval_minutes=2, sample_minutes=4)
"""A short run, for a few hundred to a few thousand images."""

SHARES = {"text-to-image": 3, "image-variation": 1, "image-to-text": 2, "text-variation": 1}
HELD_OUT, MOST_HELD_OUT = 20, 256
ENCODED = "encoded"
"""Subfolder of a run with its encoded set, if the run encoded it."""


@dataclass(frozen=True)
class OwnData:
    """Options of a fine-tuning run.

    Args:
        flows: tasks to train; default: all that the model supports.
        only: groups and streams to train, or to add adapters to; the others are frozen. Default: all (adapters:
            contexts).
        lora: train adapters of this rank instead of the weights.
        lr: learning rate.
        aspect: keep aspect ratios up to this one (longer to shorter side), in batches of one shape; default: resize all
            images to the codec's size.
        batch: items per step of each flow.
        encoding: of the captions; detected by default.
        stream: sets that are streamed while training instead of `data`, each with its weight (`SET@WEIGHT`): shards or
            folders of images with captions, or encoded sets, local or remote.
        window: size of a stream's shuffle buffer, for each batch of a step.
        paper: a key of `PAPER`: one of the paper's trainings, at the size of the model.
        phase: 1 or 2: at half the codec's image size, then at full size.
        warm_start: Stable Diffusion v1 checkpoint to initialise the diffuser from, instead of the model's.
        distill: fields of `DistillSettings`: distil the model instead of training it.
        config: fields of `DiffuserSettings`, see `read_changes`; other options take precedence (see `change_settings`).
    """

    flows: Sequence[str] | None = None
    only: Sequence[str] = ()
    lora: int | None = None
    lr: float | None = None
    aspect: float | None = None
    batch: int | None = None
    encoding: str | None = None
    stream: Sequence[str] = ()
    window: int = WINDOW
    paper: str | None = None
    phase: int = 1
    warm_start: str | None = None
    distill: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.paper is not None and self.paper not in PAPER:
            raise ValueError(unknown("settings of the paper", self.paper, PAPER))
        if self.warm_start is not None and self.paper is None:
            raise ValueError(f"a warm start needs one of the paper's settings: {', '.join(PAPER)}")

        if self.distill is not None and self.paper is not None:
            raise ValueError("the paper's settings train a model; they do not distil it")

    @property
    def streams(self) -> StreamSettings | None:
        return StreamSettings.parsed(self.stream, window=self.window) if self.stream else None


def own_data(
    model: str, data: Path | None, out: Path, device: torch.device, **options: Any
) -> tuple[DiffuserObjective, LoopSettings]:
    """Set up fine-tuning of all flows of a model.

    Args:
        model: name of a shipped model, a folder, a checkpoint or a hub id; its codecs and context encoders are frozen.
        data: images with captions (see `open_source`), which are encoded into `out/encoded`; or a folder that
            `versatile data encode` wrote with this model. One item in twenty is held out, by name. None with `stream`.
        out: folder of the run.
        device: to train on.
        options: fields of `OwnData`.

    Raises:
        ValueError: no such model or data, fewer than two items, a set of another model, or incompatible settings.
    """
    given = OwnData(**options)
    if (data is None) == (not given.stream):
        raise ValueError("pass either data or sets to stream")
    names = [str(data)] if given.streams is None else [name for name, _ in given.streams.sets]
    raw = [name for name in names if not is_encoded(name)]
    for name in raw:
        open_source(name, given.encoding)  # fail before a model is loaded
    pipe = VersatileDiffusionPipeline.from_pretrained(model, on_use=False)
    settings, earlier, loop = _begin(pipe, given)
    bank = pipe.bank.to(device).eval()
    buckets = None if given.aspect is None else buckets_of(pipe, given.aspect)
    if given.paper is not None and given.phase == 1 and raw:
        buckets = buckets or Buckets((_half(pipe),))
    train: Pairs | Streamed
    if given.streams is not None:
        train = open_sets(given.streams, bank, device, buckets, given.encoding)
        held_out, looks, remark = train.held_out, train.looks, train.remark
    else:
        assert data is not None
        encoded = encoded_set(data, bank, out / ENCODED, buckets, given.encoding)
        train, held_out = split(encoded, bank, device)
        keys = encoded.keys
        looks, remark = encoded.looks(keys[item] for item in held_out_of(keys)), describe_counts(encoded)
    kind = DiffuserObjective if settings.distill is None else DistillObjective
    objective = kind(
        settings,
        train,
        held_out,
        bank,
        {modality: [look.values[modality][0] for look in looks] for modality in looks[0].values},
        start=with_streams(earlier, settings.data, settings.contexts),
        device=device,
        model={"styles": pipe.config.styles, "defaults": pipe.config.defaults},
    )
    objective.remark = remark
    return objective, loop


def _begin(pipe: VersatileDiffusionPipeline, given: OwnData) -> tuple[DiffuserSettings, MultiFlowUNet, LoopSettings]:
    """The diffuser settings, the initial diffuser, and the loop settings."""
    base, earlier, loop = None, pipe.unet, LOOP
    if given.paper is not None:
        run = PAPER[given.paper]
        if given.warm_start is not None:
            streams = run.settings()
            earlier = read_warm_start(given.warm_start, data=streams.data, contexts=streams.contexts).unet
        base, loop = settings_for(run, earlier, pipe.bank), loop_of(run, given.phase)
    base = base or settings_of(pipe)
    try:
        settings = change_settings(base, given.flows, given.only, given.lora, given.lr, given.batch, given.config)
    except ValueError as error:
        raise ValueError(f"with the settings of --config: {error}" if given.config else str(error)) from error
    if given.distill is not None:
        settings = replace(settings, distill=replace(settings.distill or DistillSettings(), **given.distill))
    if settings.distill is not None:  # the teacher alone has a null context
        settings = replace(settings, dropout=0.0)
    return settings, earlier, loop


def _half(pipe: VersatileDiffusionPipeline) -> Shape:
    """Half the size of the model's images: 256 pixels for the published model."""
    codec = next(codec for name, codec in pipe.bank.codecs.items() if MODALITIES[name].size)
    side = codec.fit(Image.new("RGB", (1, 1))).width // 2
    return side, side


def describe_counts(encoded: EncodedSet) -> str:
    """Summary of a set: number of items, and what was skipped and why."""
    report = Report(**encoded.index["report"])
    outdated = f"; {encoded.outdated}" if encoded.outdated else ""
    return f"{len(encoded)} items ({report}{report.hint}){outdated}"


def change_settings(
    options: DiffuserSettings,
    flows: Sequence[str] | None,
    only: Sequence[str],
    lora: int | None,
    lr: float | None,
    batch: int | None = None,
    config: Mapping[str, Any] = MappingProxyType({}),
) -> DiffuserSettings:
    """Settings with the changes that `own_data` accepts. Options override only what they name: `lora` keeps targets,
    alpha and name of an adapter from `config`; `only` keeps the multipliers of what is trained."""
    changes = read_changes(options, config) | ({} if lr is None else {"lr": lr})
    if flows is not None:
        if unknown := [name for name in flows if name not in options.mixture]:
            raise ValueError(f"the model has no flow {', '.join(unknown)}; allowed: {', '.join(options.mixture)}")
        shares = changes.get("mixture", options.mixture)
        changes["mixture"] = {name: (share or 1) if name in flows else 0 for name, share in shares.items()}
    if batch is not None:
        changes["batch"] = {task.name: batch for task in options.tasks}
    streams = ["global", *options.streams]
    chosen = streams_in(only, streams)
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
    """Buckets of shapes that codec and diffuser support, with about the area of the model's images.

    Args:
        pipe: the model.
        widest: maximum ratio of the longer side to the shorter one.

    Raises:
        ValueError: the model does not generate images.
    """
    sized = [codec for name, codec in pipe.bank.codecs.items() if MODALITIES[name].size]
    if not sized:
        raise ValueError(f"{pipe.model_name} does not generate images, so it has no aspect ratios")
    side = sized[0].fit(Image.new("RGB", (1, 1))).width
    *_, cells = sized[0].latent_shape()
    return Buckets.of(side, side // cells * 2 ** sum(stage.kind == "down" for stage in pipe.unet.plan), widest)


def encoded_set(
    data: Path, bank: ModalityBank, out: Path, buckets: Buckets | None = None, encoding: str | None = None
) -> EncodedSet:
    """The set in `data` if it is encoded; else encode its images and captions into `out` (once).

    Raises:
        ValueError: encoded by another model, or encoded already and `buckets` given.
    """
    if (data / INDEX).is_file():
        if buckets is not None:
            raise ValueError(
                f"{data} is already encoded with fixed shapes; `versatile data encode --aspect` keeps aspect ratios"
            )
        encoded = EncodedSet.open(data)
    else:
        report = Report()
        with tqdm(desc="encoding", unit=" items", disable=None) as bar:
            encoded = encode_set(
                open_source(data, encoding),
                bank,
                out,
                buckets=buckets,
                report=report,
                progress=lambda done: bar.update(done - bar.n),
            )
    encoded.check(bank)
    return encoded


def split(encoded: EncodedSet, bank: ModalityBank, device: torch.device) -> tuple[Pairs, Pairs]:
    """Split a set into training and held-out items.

    Raises:
        ValueError: fewer than two items.
    """
    if len(encoded) < 2:
        raise ValueError(f"{encoded.folder} has {len(encoded)} item; training needs at least two, one of them held out")
    pairs = Pairs(
        len(encoded),
        {m: encoded.rows(LATENTS, m, device) for m in bank.codecs},
        {m: encoded.rows(TOKENS, m, device) for m in bank.encoders},
    )
    held_out = held_out_of(encoded.keys)
    return pairs.only(sorted(set(range(len(encoded))) - held_out)), pairs.only(sorted(held_out))


def held_out_of(keys: Sequence[str]) -> set[int]:
    """Indices of the held-out items: one in twenty (at least 1, at most 256), by name."""
    count = min(max(1, len(keys) // HELD_OUT), MOST_HELD_OUT)
    return set(sorted(range(len(keys)), key=lambda item: rank(keys[item]))[:count])


def settings_of(pipe: VersatileDiffusionPipeline) -> DiffuserSettings:
    """Settings to train all flows of a pipeline with the prediction target that it was trained with.

    Raises:
        ValueError: it has no flow with a single context.
    """
    able = single_flows()
    flows = tuple(name for name, task in able.items() if pipe.can(task.flow))
    if not flows:
        raise ValueError(f"{pipe.model_name} supports none of the flows {', '.join(able)}")
    config = {name: value for name, value in pipe.unet.config.items() if not name.startswith("_")}
    data_streams = config.pop("data_streams")
    scheduler = pipe.scheduler.config
    return DiffuserSettings(
        stage=next((stage for stage, tasks in STAGES.items() if set(flows) <= set(tasks)), list(STAGES)[-1]),
        data_streams=data_streams,
        context_streams=config.pop("context_streams"),
        unet=config,
        mixture={name: SHARES.get(name, 1) for name in flows},
        batch={name: 16 if MODALITIES[name].grid else 32 for name in data_streams},
        prediction=scheduler.prediction_type,
        zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr")),
        flows=flows,
        lr=2e-4,
    )
