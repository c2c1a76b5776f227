"""Fine-tuning of a whole pipeline on pictures with captions of one's own."""

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
from versatile_diffusion.data.sources import Report, open_source
from versatile_diffusion.data.stream import WINDOW
from versatile_diffusion.diffuser.groups import covered
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.read.stable_diffusion import warm_start as read_warm_start
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.training.diffuser.distill import DistillObjective
from versatile_diffusion.training.diffuser.distillation import DistillSettings
from versatile_diffusion.training.diffuser.lora import LoraSettings
from versatile_diffusion.training.diffuser.mixture import single_flows
from versatile_diffusion.training.diffuser.objective import STAGES, DiffuserObjective, DiffuserSettings
from versatile_diffusion.training.diffuser.pairs import Pairs
from versatile_diffusion.training.diffuser.paper import PAPER, loop_of, settings_for
from versatile_diffusion.training.diffuser.promotion import with_streams
from versatile_diffusion.training.diffuser.streamed import Streamed, StreamSettings, streamed
from versatile_diffusion.training.engine.config_file import configured
from versatile_diffusion.training.engine.loop import LoopSettings

LOOP = LoopSettings(steps=400, warmup=20, ema=0.99, eval_minutes=2, sample_minutes=4)
"""Short: for a few hundred to a few thousand pictures."""

SHARES = {"text-to-image": 3, "image-variation": 1, "image-to-text": 2, "text-variation": 1}
HELD_OUT, MOST_HELD_OUT = 20, 256
ENCODED = "encoded"
"""Where in a run's folder its set is, if the run encoded it."""


@dataclass(frozen=True)
class OwnData:
    """How a model is trained further.

    Args:
        flows: tasks to train; all that the model can do if left out.
        only: groups and streams to train, or to give adapters; the others stay. All if left out (adapters: contexts).
        lora: train adapters of this rank in place of the weights.
        lr: learning rate.
        aspect: pictures keep their proportions up to this many to one, in batches of one shape; all of them are given
            the codec's own shape if left out.
        batch: items per step of each flow.
        encoding: of the captions, where it cannot be told from them.
        stream: sets that are read while training in place of `data`, each with its weight (`SET@WEIGHT`): shards or
            folders of pictures with captions, or encoded sets, here or on other machines.
        window: samples of a stream that wait to be drawn in any order, for each batch of a step.
        paper: a key of `PAPER`: one of the paper's trainings, at the size of the model.
        phase: of it, 1 or 2: at half the codec's size and at all of it.
        warm_start: a checkpoint of Stable Diffusion v1 that the diffuser begins as, in place of the model's.
        distill: fields of `DistillSettings`: the model is distilled in place of being trained further.
        config: fields of `DiffuserSettings`, see `configured`; what else is given wins over them (see `changed`).
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
            raise ValueError(f"a warm start goes with the paper's settings: {', '.join(PAPER)}")

        if self.distill is not None and self.paper is not None:
            raise ValueError("the paper's settings train a model; they do not distil it")

    @property
    def streams(self) -> StreamSettings | None:
        return StreamSettings.parsed(self.stream, window=self.window) if self.stream else None


def own_data(
    model: str, data: Path | None, out: Path, device: torch.device, **options: Any
) -> tuple[DiffuserObjective, LoopSettings]:
    """All flows of a model, trained further.

    Args:
        model: name of a shipped model, a folder, a checkpoint or a hub id; its codecs and context encoders stay.
        data: pictures with captions (see `open_source`), which are encoded into `out/encoded`; or a folder that
            `versatile data encode` wrote with this model. One item in twenty is held out, by its name. None with
            `stream`.
        out: folder of the run.
        device: where to train.
        options: fields of `OwnData`.

    Raises:
        ValueError: no such model or data, fewer than two items, a set of another model, or settings that do not fit.
    """
    given = OwnData(**options)
    if (data is None) == (not given.stream):
        raise ValueError("give either data or sets to stream")
    names = [str(data)] if given.streams is None else [name for name, _ in given.streams.sets]
    raw = [name for name in names if not is_encoded(name)]
    for name in raw:
        open_source(name, given.encoding)  # refused before a model is loaded
    pipe = VersatileDiffusionPipeline.from_pretrained(model, on_use=False)
    settings, earlier, loop = _begun(pipe, given)
    bank = pipe.bank.to(device).eval()
    buckets = None if given.aspect is None else buckets_of(pipe, given.aspect)
    if given.paper is not None and given.phase == 1 and raw:
        buckets = buckets or Buckets((_half(pipe),))
    train: Pairs | Streamed
    if given.streams is not None:
        train = streamed(given.streams, bank, device, buckets, given.encoding)
        held_out, looks, remark = train.held_out, train.looks, train.remark
    else:
        assert data is not None
        encoded = encoded_set(data, bank, out / ENCODED, buckets, given.encoding)
        train, held_out = split(encoded, bank, device)
        keys = encoded.keys
        looks, remark = encoded.looks(keys[item] for item in held_out_of(keys)), counted(encoded)
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


def _begun(pipe: VersatileDiffusionPipeline, given: OwnData) -> tuple[DiffuserSettings, MultiFlowUNet, LoopSettings]:
    """The settings that a model trains with, the diffuser that it begins as, and how long."""
    base, earlier, loop = None, pipe.unet, LOOP
    if given.paper is not None:
        run = PAPER[given.paper]
        if given.warm_start is not None:
            streams = run.settings()
            earlier = read_warm_start(given.warm_start, data=streams.data, contexts=streams.contexts).unet
        base, loop = settings_for(run, earlier, pipe.bank), loop_of(run, given.phase)
    base = base or settings_of(pipe)
    try:
        settings = changed(base, given.flows, given.only, given.lora, given.lr, given.batch, given.config)
    except ValueError as error:
        raise ValueError(f"with the settings of --config: {error}" if given.config else str(error)) from error
    if given.distill is not None:
        settings = replace(settings, distill=replace(settings.distill or DistillSettings(), **given.distill))
    if settings.distill is not None:  # the teacher alone has a null context
        settings = replace(settings, dropout=0.0)
    return settings, earlier, loop


def _half(pipe: VersatileDiffusionPipeline) -> Shape:
    """Half the size of the model's images: where it is the published one, 256 pixels."""
    codec = next(codec for name, codec in pipe.bank.codecs.items() if MODALITIES[name].size)
    side = codec.fit(Image.new("RGB", (1, 1))).width // 2
    return side, side


def counted(encoded: EncodedSet) -> str:
    """How many items there are, and what was skipped and why."""
    report = Report(**encoded.index["report"])
    outdated = f"; {encoded.outdated}" if encoded.outdated else ""
    return f"{len(encoded)} items ({report}{report.hint}){outdated}"


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
    sized = [codec for name, codec in pipe.bank.codecs.items() if MODALITIES[name].size]
    if not sized:
        raise ValueError(f"{pipe.model_name} makes no pictures that could have shapes")
    side = sized[0].fit(Image.new("RGB", (1, 1))).width
    *_, cells = sized[0].latent_shape()
    return Buckets.of(side, side // cells * 2 ** sum(stage.kind == "down" for stage in pipe.unet.plan), widest)


def encoded_set(
    data: Path, bank: ModalityBank, out: Path, buckets: Buckets | None = None, encoding: str | None = None
) -> EncodedSet:
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
    able = single_flows()
    flows = tuple(name for name, task in able.items() if pipe.can(task.flow))
    if not flows:
        raise ValueError(f"{pipe.model_name} has none of the flows {', '.join(able)}")
    config = {name: value for name, value in pipe.unet.config.items() if not name.startswith("_")}
    scheduler = pipe.scheduler.config
    return DiffuserSettings(
        stage=next((stage for stage, tasks in STAGES.items() if set(flows) <= set(tasks)), list(STAGES)[-1]),
        data_streams=config.pop("data_streams"),
        context_streams=config.pop("context_streams"),
        unet=config,
        mixture={name: SHARES.get(name, 1) for name in flows},
        batch={name: 16 if modality.grid else 32 for name, modality in MODALITIES.items() if modality.data_stream},
        prediction=scheduler.prediction_type,
        zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr")),
        flows=flows,
        lr=2e-4,
    )
