"""Joint generation of an image and its caption: both data streams of one diffuser, each conditioning the other.

Every few steps the current image estimate becomes a context of the caption, and the current caption estimate a context
of the image. No extra training is needed: both streams see the same inputs as in the tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.numeric import number, settle
from versatile_diffusion.pipeline.inputs import check_conditions
from versatile_diffusion.pipeline.interrupt import Flag, under_way
from versatile_diffusion.pipeline.names import own_names
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.pipeline.replay import FIELDS, Resolve, arguments_of
from versatile_diffusion.pipeline.run import Run, begin, encode_values, finish, prepare
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import entry, only
from versatile_diffusion.sampling import seeds

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.callback import StepCallback
    from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline

NAME = "joint"
RESULTS = ("picture", "caption")
PARTNERS = {"image": "text", "text": "image"}
SHARED = ("num_inference_steps", "num_outputs", "scheduler", "null", "mixing", "layer_seed", "layer_bits")
"""Options that apply to both; all others apply to the image."""
ALONE = ("candidates", "rank", "layer_plan")
"""Options that do not apply to paired outputs."""


@dataclass(frozen=True)
class Exchange:
    """How image and caption condition each other.

    Args:
        caption_weight: weight of the caption's estimate among the image's conditions.
        picture_weight: weight of the image's estimate among the caption's conditions.
        every: steps between exchanges; each exchange decodes and encodes both estimates.
        after: start of the exchange as a fraction of the trajectory, 0 (noise) to 1 (done); early estimates carry
            little.

    Raises:
        ValueError: a value out of range.
    """

    caption_weight: float = 1.0
    picture_weight: float = 1.0
    every: int = 5
    after: float = 0.2

    def __post_init__(self) -> None:
        settled = {name: number(name, getattr(self, name)) for name in ("caption_weight", "picture_weight", "after")}
        settled["every"] = number("every", self.every, 1, whole=True)
        settle(self, **settled)
        if not self.after < 1:
            raise ValueError(f"after is {shown(self.after)}; it must be 0 or more and below 1")

    def weight_in(self, data: str) -> float:
        """Return the weight of the other modality's estimate in this modality's stream."""
        return {"image": self.caption_weight, "text": self.picture_weight}[data]


@dataclass(frozen=True)
class Joint:
    """Images and their captions, item by item; the settings of either can be replayed."""

    picture: Output
    caption: Output

    def __len__(self) -> int:
        return len(self.picture)

    def __getitem__(self, index: int) -> Joint:
        return Joint(self.picture[index], self.caption[index])


@torch.no_grad()
def joint(
    pipe: VersatileDiffusionPipeline,
    conditions: Sequence[Condition] = (),
    *,
    exchange: Exchange | None = None,
    captioning: Mapping[str, Any] | None = None,
    seed: seeds.Seed = None,
    callback_on_step_end: StepCallback | None = None,
    **options: Any,
) -> Joint:
    """Generate images with captions, unconditionally or from conditions.

    Args:
        pipe: pipeline with image and text as data and context.
        conditions: conditions of both; empty for unconditional generation.
        exchange: how they condition each other.
        captioning: arguments of the caption as in `VersatileDiffusionPipeline.generate`, e.g. `guidance_scale`.
        seed: item k uses `seed + k` in both; random by default.
        callback_on_step_end: as in `generate`, after each step of the image; its return value is ignored. Setting
            `pipeline._interrupt = True` stops both early; a caption that has not begun takes one step.
        options: arguments of the image; those in `SHARED` apply to the caption, too.

    Raises:
        ValueError: a missing flow, or an invalid request.
    """
    conditions = check_conditions(conditions)
    exchange, options, own = exchange or Exchange(), own_names(options), own_names(captioning or {})
    if refused := {*options, *own} & {*ALONE}:
        raise ValueError(f"{min(refused)}: not supported in joint generation, where image and caption form a pair")
    own = {name: options[name] for name in SHARED if name in options} | own
    picture = _prepare(pipe, "image", conditions, exchange, seed, options)
    everywhere = [replace(condition, region=None) for condition in conditions]  # text has no canvas
    caption = _prepare(pipe, "text", everywhere, exchange, picture.seeds, own)
    with under_way(pipe) as flag, pipe.progress_bar(total=picture.total + caption.total) as bar:
        streams = JointStream(pipe, picture, flag, callback_on_step_end), JointStream(pipe, caption, flag)
        while any(stream.running for stream in streams):
            for stream, other in (streams, streams[::-1]):
                bar.update(stream.advance(exchange.every))
                other.hear(stream)
        made = [stream.finish() for stream in streams]
    record = {
        "name": NAME,
        "exchange": asdict(exchange),
        "captioning": {name: caption.request.record()[name] for name in FIELDS},
        "captions": made[1].texts,
    }
    settings = made[0].settings | {"conditions": made[0].settings["conditions"][:-1]}
    kinds = zip(made, RESULTS, strict=True)
    pipe.maybe_free_model_hooks()
    return Joint(*(replace(o, settings=settings | {"application": record | {"result": kind}}) for o, kind in kinds))


def again(pipe: VersatileDiffusionPipeline, settings: Mapping[str, Any], resolve: Resolve | None = None) -> Output:
    """Reproduce the image or the caption of these settings, all items; called by `applications.again.replay`."""
    record, arguments = settings["application"], arguments_of(settings, resolve)
    arguments = {name: value for name, value in arguments.items() if name not in ("data", "latents", *ALONE)}
    captioning = only(entry(record, "captioning", Mapping), FIELDS)
    captioning = {name: value for name, value in captioning.items() if name not in ALONE}
    exchange = Exchange(**only(entry(record, "exchange", Mapping), [field.name for field in fields(Exchange)]))
    result = chosen("result of a joint generation", entry(record, "result", object), RESULTS)
    output: Output = getattr(joint(pipe, exchange=exchange, captioning=captioning, **arguments), result)
    return output


def _prepare(
    pipe: VersatileDiffusionPipeline,
    data: str,
    conditions: Sequence[Condition],
    exchange: Exchange,
    seed: seeds.Seed,
    options: Mapping[str, Any],
) -> Run:
    """Prepare the run of one stream, with a placeholder for the other's estimate as last condition."""
    blank = encode_values(pipe, PARTNERS[data], [next(iter(MODALITIES[PARTNERS[data]].blanks.values()))])
    silent = Condition(PARTNERS[data], tokens=blank, weight=exchange.weight_in(data), start=exchange.after)
    return prepare(pipe, pipe.request(data, (*conditions, silent), dict(options)), seed, None, None)


class JointStream:
    """State of one data stream, and its condition on the other."""

    def __init__(self, pipe: VersatileDiffusionPipeline, run: Run, flag: Flag, callback: StepCallback | None = None):
        self.pipe, self.run, self.partner = pipe, run, run.request.conditions[-1]
        self.flag, self.callback = flag, callback
        self.sources = seeds.generators(run.seeds)
        self.latent, self.states, self.guidance = begin(pipe, run, self.sources)
        self.estimate: Tensor | None = None
        self.left = run.total

    @property
    def running(self) -> bool:
        return self.left > 0

    def advance(self, steps: int) -> int:
        """Run this many steps, or until the end or an interruption; return the number of steps run."""
        steps = min(steps, self.left)
        for done in range(steps):
            if self.flag.raised and self.estimate is not None:
                self.latent, self.left = self.estimate, 0
                return done
            state = next(self.states)
            self.left -= 1
            self.latent, self.estimate = state.latent, state.pred_x0 if self.left else state.latent
            if self.callback is not None:
                told = {"latents": state.latent, "pred_x0": state.pred_x0}
                self.callback(self.pipe, state.index, state.timestep, told)
        return steps

    def hear(self, other: JointStream) -> None:
        """Condition this stream on the other's current estimate."""
        if self.running and self.partner.weight and other.estimate is not None:
            self.guidance.exchange(-1, encode_values(self.pipe, self.partner.modality, other.decode_estimate()))

    def decode_estimate(self) -> list[Any]:
        """Decode the current estimate to raw values; texts greedily, so that no random numbers are used."""
        assert self.estimate is not None
        return self.pipe.bank.codecs[self.run.request.data].decode(self.estimate, None, **self.run.request.decoding)

    def finish(self) -> Output:
        return finish(self.pipe, self.run, self.latent, self.sources, self.guidance)
