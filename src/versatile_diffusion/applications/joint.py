"""A picture and its caption together: both data streams of one diffuser, each guiding the context of the other.

Every few steps the picture as it is estimated so far becomes a context of the caption, and the caption as it is
estimated so far a context of the picture. Nothing is trained for it: both streams see what they see in the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.names import own_names
from versatile_diffusion.sampling.output import Output
from versatile_diffusion.sampling.replay import FIELDS, Resolve, arguments_of
from versatile_diffusion.sampling.run import Run, begin, encoded, finish, prepare

if TYPE_CHECKING:
    from versatile_diffusion.sampling.pipeline import StepCallback, VersatileDiffusionPipeline

NAME = "joint"
PARTNERS = {"image": "text", "text": "image"}
SHARED = ("num_inference_steps", "num_outputs", "scheduler", "null", "mixing", "layer_seed")
"""Options that hold for both; all others are those of the picture alone."""
ALONE = ("candidates", "rank", "layer_plan")
"""Options that make no sense for two outputs that belong together."""


@dataclass(frozen=True)
class Exchange:
    """How picture and caption guide each other.

    Args:
        caption_weight: weight of the caption's estimate among what guides the picture.
        picture_weight: weight of the picture's estimate among what guides the caption.
        every: steps between exchanges: each decodes and encodes both estimates.
        after: share of the trajectory, 0 (noise) to 1 (done), from which on they guide; earlier estimates say little.

    Raises:
        ValueError: a number is out of its range.
    """

    caption_weight: float = 1.0
    picture_weight: float = 1.0
    every: int = 5
    after: float = 0.2

    def __post_init__(self) -> None:
        for name in ("caption_weight", "picture_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a number of 0 or more")
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every is {self.every!r}; it must be a whole number of steps, 1 or more")
        if not 0 <= self.after < 1:
            raise ValueError(f"after is {self.after}; it must be 0 or more and below 1")

    def weight_in(self, data: str) -> float:
        """Of the other one, in the stream of a modality."""
        return {"image": self.caption_weight, "text": self.picture_weight}[data]


@dataclass(frozen=True)
class Joint:
    """Pictures and their captions, item by item; `applications.again.replay` takes the settings of either."""

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
    seed: int | Sequence[int] | None = None,
    callback_on_step_end: StepCallback | None = None,
    **options: Any,
) -> Joint:
    """Pictures with captions, from noise or from what guides both.

    Args:
        pipe: with image and text as data and as contexts.
        conditions: what guides both besides each other; none for pictures and captions from noise alone.
        exchange: how they guide each other.
        captioning: arguments of the caption as in `VersatileDiffusionPipeline.generate`, such as `guidance_scale`.
        seed: item k has `seed + k` in both; drawn afresh if left out.
        callback_on_step_end: as in `generate`, after each step of the picture; what it returns is not used.
        options: arguments of the picture; those in `SHARED` hold for the caption, too.

    Raises:
        ValueError: the model has no such flows, or what is asked is not possible.
    """
    exchange, options, own = exchange or Exchange(), own_names(options), own_names(captioning or {})
    if refused := {*options, *own} & {*ALONE}:
        raise ValueError(f"{min(refused)}: picture and caption belong together, so neither is chosen or planned alone")
    own = {name: options[name] for name in SHARED if name in options} | own
    picture = _prepared(pipe, "image", conditions, exchange, seed, options)
    everywhere = [replace(condition, region=None) for condition in conditions]  # a text has no canvas
    caption = _prepared(pipe, "text", everywhere, exchange, picture.seeds, own)
    streams = Stream(pipe, picture, callback_on_step_end), Stream(pipe, caption)
    with pipe.progress_bar(total=picture.total + caption.total) as bar:
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
    kinds = zip(made, ("picture", "caption"), strict=True)
    pipe.maybe_free_model_hooks()
    return Joint(*(replace(o, settings=settings | {"application": record | {"result": kind}}) for o, kind in kinds))


def again(pipe: VersatileDiffusionPipeline, settings: Mapping[str, Any], resolve: Resolve | None = None) -> Output:
    """The picture or the caption that settings describe, all items; `applications.again.replay` calls it."""
    record, arguments = settings["application"], arguments_of(settings, resolve)
    arguments = {name: value for name, value in arguments.items() if name not in ("data", "latents", *ALONE)}
    captioning = {name: value for name, value in record["captioning"].items() if name not in ALONE}
    both = joint(pipe, exchange=Exchange(**record["exchange"]), captioning=captioning, **arguments)
    return getattr(both, record["result"])


def _prepared(
    pipe: VersatileDiffusionPipeline,
    data: str,
    conditions: Sequence[Condition],
    exchange: Exchange,
    seed: int | Sequence[int] | None,
    options: Mapping[str, Any],
) -> Run:
    """The run of one stream: its last condition is the other one, which says nothing yet."""
    blank = encoded(pipe, PARTNERS[data], [next(iter(MODALITIES[PARTNERS[data]].blanks.values()))])
    silent = Condition(PARTNERS[data], tokens=blank, weight=exchange.weight_in(data), start=exchange.after)
    return prepare(pipe, pipe.request(data, (*conditions, silent), dict(options)), seed, None, None)


class Stream:
    """One data stream on its way, and what it hears of the other."""

    def __init__(self, pipe: VersatileDiffusionPipeline, run: Run, callback: StepCallback | None = None):
        self.pipe, self.run, self.partner, self.callback = pipe, run, run.request.conditions[-1], callback
        self.sources = seeds.generators(run.seeds)
        self.latent, self.states, self.guidance = begin(pipe, run, self.sources)
        self.estimate: Tensor | None = None
        self.left = run.total

    @property
    def running(self) -> bool:
        return self.left > 0

    def advance(self, steps: int) -> int:
        """Goes on by so many steps, or as many as are left; how many they were."""
        steps = min(steps, self.left)
        for _ in range(steps):
            state = next(self.states)
            self.left -= 1
            self.latent, self.estimate = state.latent, state.pred_x0 if self.left else state.latent
            if self.callback is not None:
                told = {"latents": state.latent, "pred_x0": state.pred_x0}
                self.callback(self.pipe, state.index, state.timestep, told)
        return steps

    def hear(self, other: Stream) -> None:
        """From now on the estimate of the other stream guides this one."""
        if self.running and self.partner.weight and other.estimate is not None:
            self.guidance.exchange(-1, encoded(self.pipe, self.partner.modality, other.said()))

    def said(self) -> list[Any]:
        """The present estimate as raw values; of texts the likeliest words, since nothing is drawn."""
        assert self.estimate is not None
        return self.pipe.bank.codecs[self.run.request.data].decode(self.estimate, None, **self.run.request.decoding)

    def finish(self) -> Output:
        return finish(self.pipe, self.run, self.latent, self.sources, self.guidance)
