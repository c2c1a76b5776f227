"""Laws of the engine: what is generated among others is what is generated alone, whoever comes and goes meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny import build_tiny_pipeline

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.serving import Engine, Limits
from versatile_diffusion.serving.jobs import CancelledError, ClosedError, FullError, LateError, NoMemoryError, Progress

ROUNDING = {"rtol": 1e-4, "atol": 1e-4}
"""Float32 on a CPU after ten steps: a batch of another size may add up in another order."""
TEXT = [Condition("text", "a red apple")]


@pytest.fixture
def pipe() -> VersatileDiffusionPipeline:
    return build_tiny_pipeline()


class Gate:
    """Holds the network before a pass, so that a test decides when the engine goes on; counts items of each pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, held: bool = False):
        self.open, self.arrived, self.sizes = threading.Event(), threading.Event(), list[int]()
        self.timesteps = list[list[int]]()
        forward = MultiFlowUNet.forward

        def waited(unet: Any, latent: Any, timestep: Any, *args: Any, **options: Any) -> Any:
            self.sizes.append(len(latent))
            self.timesteps.append(torch.as_tensor(timestep).reshape(-1).tolist())
            self.arrived.set()
            assert self.open.wait(30)
            return forward(unet, latent, timestep, *args, **options)

        if not held:
            self.open.set()
        monkeypatch.setattr(MultiFlowUNet, "forward", waited)


@pytest.fixture
def engines() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(*args: Any, **options: Any) -> Engine:
        made.append(Engine(*args, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def result(job: Any) -> Output:
    return job.future.result(timeout=60)


CASES: dict[str, dict[str, Any]] = {
    "long": {"num_inference_steps": 12},
    "short": {"num_inference_steps": 3, "seed": 5},
    "unipc": {"num_inference_steps": 6, "scheduler": "unipc"},
    "dpm++": {"num_inference_steps": 7, "scheduler": "dpm++", "guidance_scale": 3.0},
    "noisy": {"num_inference_steps": 5, "eta": 1.0},
    "no-guidance": {"num_inference_steps": 4, "guidance_scale": 1.0},
    "several": {"num_inference_steps": 5, "num_outputs": 3},
    "negative": {"num_inference_steps": 5, "negative_prompt": "a dog"},
    "rescaled": {"num_inference_steps": 5, "guidance_rescale": 0.7, "guidance_interval": (0.1, 0.8)},
    "best": {"num_inference_steps": 4, "candidates": 3},
}


def flows(picture: Any) -> dict[str, tuple[str, list[Condition], dict[str, Any]]]:
    """Requests of every kind: data, conditions and options."""
    image, text = Condition("image", picture), Condition("text", "two small dog", weight=0.6)
    few = {"num_inference_steps": 4}
    half = Condition("text", "a cat", region=(0, 0, 0.5, 1))
    return {
        **{name: ("image", TEXT, options) for name, options in CASES.items()},
        "caption": ("text", [image], few),
        "retold": ("text", TEXT, few | {"num_outputs": 2}),
        "dual": ("image", [text, image], few),
        "by-model": ("image", [text, image], few | {"mixing": "model"}),
        "by-layer": ("image", [text, image], few | {"mixing": "layer", "num_outputs": 2}),
        "region": ("image", [half, image], few),
        "prompts": ("image", [Condition("text", ["a cat", "the blue house", "a dog"])], few),
        "from-image": ("image", TEXT, {"num_inference_steps": 6, "start": picture, "fidelity": 0.5}),
        "painted": (
            "image",
            TEXT,
            {"num_inference_steps": 4, "start": picture.resize((16, 16)), "repaint": (0, 0, 1, 0.5)},
        ),
        "kept": ("image", TEXT, {"num_inference_steps": 4, "start": picture, "fidelity": 1.0}),
        "in-part": ("image", [Condition("text", "a cat", end=0.5), image], few),
    }


def test_together_is_as_alone(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests of every kind in one engine: each gives what `generate` gives, whatever shares its passes."""
    given = flows(picture)
    alone = {
        name: pipe.generate(data, conditions, **{"seed": 3, **options})
        for name, (data, conditions, options) in given.items()
    }
    gate = Gate(monkeypatch, held=True)
    engine = engines(pipe, Limits(places=10, waiting=100, each=100))
    jobs = {
        name: engine.submit(data, conditions, client=str(k % 3), **{"seed": 3, **options})
        for k, (name, (data, conditions, options)) in enumerate(given.items())
    }
    gate.open.set()
    for name, job in jobs.items():
        output = result(job)
        torch.testing.assert_close(output.latents, alone[name].latents, **ROUNDING, msg=lambda m, n=name: f"{n}: {m}")
        assert output.settings == alone[name].settings, name
        assert output.prompts == alone[name].prompts
        assert output.cost == alone[name].cost, name
        if output.data == "text":
            assert output.texts == alone[name].texts
    assert max(gate.sizes) >= 8, "items were generated together"
    assert any(len(set(steps)) > 1 for steps in gate.timesteps), "items at different steps shared a pass"


def test_alone_is_the_same_to_the_bit(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"num_inference_steps": 6, "seed": 4, "num_outputs": 3}
    expected = pipe.generate("image", TEXT, **options)
    gate = Gate(monkeypatch, held=True)
    engine = engines(pipe, Limits(places=8))
    others = [engine.submit("image", TEXT, client=str(k), num_inference_steps=9, seed=k) for k in range(4)]
    job = engine.submit("image", TEXT, alone=True, **options)
    gate.open.set()
    assert torch.equal(result(job).latents, expected.latents)
    assert all(len(result(other)) == 1 for other in others)


def test_who_is_there_alone_gets_the_same_to_the_bit(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine]
) -> None:
    """Items of one request are one batch where there is room for them."""
    options = {"num_inference_steps": 5, "seed": 4, "num_outputs": 4}
    expected = pipe.generate("image", TEXT, **options)
    assert torch.equal(result(engines(pipe).submit("image", TEXT, **options)).latents, expected.latents)


def test_a_short_request_does_not_wait_for_a_long_one(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, held=True)
    engine = engines(pipe, Limits(places=4))
    long = engine.submit("image", TEXT, num_inference_steps=100, client="a")
    assert gate.arrived.wait(10)
    short = engine.submit("image", TEXT, num_inference_steps=2, client="b")
    gate.open.set()
    result(short)
    assert not long.over
    result(long)


def test_batches_without_joining_have_one_number_of_steps(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, held=True)
    engine = engines(pipe, Limits(places=4), continuous=False)
    first = engine.submit("image", TEXT, num_inference_steps=3, seed=0)
    assert gate.arrived.wait(10)
    jobs = [engine.submit("image", TEXT, num_inference_steps=3 + (k == 2), seed=k, client=str(k)) for k in range(4)]
    gate.open.set()
    for job in (first, *jobs):
        result(job)
    assert all(len(set(steps)) == 1 for steps in gate.timesteps)
    assert sorted(set(gate.sizes)) == [2, 6]  # each item twice, for guidance


def test_clients_take_turns(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One item of whoever asks for little comes before most of the many that were asked for earlier."""
    gate = Gate(monkeypatch, held=True)
    engine = engines(pipe, Limits(places=1, each=30))
    order: list[str] = []
    many = [engine.submit("image", TEXT, client="many", num_inference_steps=1, num_outputs=3) for _ in range(5)]
    few = [engine.submit("image", TEXT, client=f"few {k}", num_inference_steps=1) for k in range(2)]
    for job in (*many, *few):
        job.future.add_done_callback(lambda _, client=job.client: order.append(client))
    gate.open.set()
    for job in (*many, *few):
        result(job)
    assert order[:2] == ["few 0", "few 1"]


def test_what_is_cancelled_takes_no_more_steps(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, held=True)
    engine = engines(pipe, Limits(places=2))
    running = engine.submit("image", TEXT, num_inference_steps=50)
    assert gate.arrived.wait(10)
    waiting = engine.submit("image", TEXT, num_inference_steps=50, num_outputs=16)
    running.cancel()
    waiting.cancel()
    gate.open.set()
    for job in (running, waiting):
        with pytest.raises(CancelledError):
            result(job)
    assert len(gate.sizes) == 1, "the pass that was under way was the last"
    assert len(result(engine.submit("image", TEXT, num_inference_steps=1))) == 1
    assert engine.running == engine.waiting == 0


def test_deadlines_hold_for_those_that_wait_and_run(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, held=True)
    engine = engines(pipe, Limits(places=1))
    jobs = [engine.submit("image", TEXT, num_inference_steps=5, seconds=0.05) for _ in range(2)]
    assert gate.arrived.wait(10)
    time.sleep(0.1)
    gate.open.set()
    for job in jobs:
        with pytest.raises(LateError, match="not done in time"):
            result(job)


def test_a_full_queue_says_when_to_come_back(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, held=True)
    engine = engines(pipe, Limits(places=1, waiting=3, each=2))
    few = {"num_inference_steps": 1}
    jobs = [engine.submit("image", TEXT, client="a", **few)]
    assert gate.arrived.wait(10)
    jobs.append(engine.submit("image", TEXT, client="a", **few))
    with pytest.raises(FullError, match="2 of your requests"):
        engine.submit("image", TEXT, client="a", **few)
    jobs += [engine.submit("image", TEXT, client=name, **few) for name in "bc"]
    with pytest.raises(FullError, match="3 requests wait") as full:
        engine.submit("image", TEXT, client="d", **few)
    assert full.value.after >= 1
    gate.open.set()
    for job in jobs:
        result(job)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_outputs": 17}, "allows up to 16"),
        ({"num_outputs": 4, "candidates": 5}, "is 20; this service allows up to 16"),
        ({"num_inference_steps": 201}, "num_inference_steps is 201; this service allows up to 200"),
        ({"height": 2048, "width": 16}, "height is 2048; this service allows up to 1024"),
        ({"stepz": 3}, "stepz"),
    ],
)
def test_too_much_is_refused_before_it_is_queued(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], options: dict[str, Any], message: str
) -> None:
    engine = engines(pipe)
    with pytest.raises(ValueError, match=message):
        engine.submit("image", TEXT, **options)
    with pytest.raises(ValueError, match="is 17; this service allows up to 16"):
        engine.submit("image", [Condition("text", ["a cat"] * 17)])
    assert engine.waiting == 0


class Short:
    """A network with memory for a few items at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int):
        self.failed = 0
        forward = MultiFlowUNet.forward

        def limited(unet: Any, latent: Any, *args: Any, **options: Any) -> Any:
            if len(latent) > most:
                self.failed += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(unet, latent, *args, **options)

        monkeypatch.setattr(MultiFlowUNet, "forward", limited)


def test_where_memory_is_short_the_batch_is_halved_once(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipe.generate("image", TEXT, num_inference_steps=4, num_outputs=4, seed=0)
    short = Short(monkeypatch, 4)  # two items, each twice for guidance
    engine = engines(pipe, Limits(places=4))
    output = result(engine.submit("image", TEXT, num_inference_steps=4, num_outputs=4, seed=0))
    torch.testing.assert_close(output.latents, expected.latents, **ROUNDING)
    assert short.failed == 1, "later passes are as small as there is memory for"


def test_where_half_a_batch_is_too_much_requests_fail_and_the_engine_lives(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Short(monkeypatch, 1)
    engine = engines(pipe, Limits(places=4))
    with pytest.raises(NoMemoryError, match="not enough memory"):
        result(engine.submit("image", TEXT, num_inference_steps=2, num_outputs=4))
    assert short.failed >= 2
    assert len(result(engine.submit("image", TEXT, num_inference_steps=2, guidance_scale=1.0))) == 1


def test_a_failure_of_one_is_not_that_of_others(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = MultiFlowUNet.forward

    def picky(unet: Any, latent: Any, *args: Any, **options: Any) -> Any:
        if bool((latent.abs() > 40).any()):
            raise RuntimeError("a kernel failed")
        return forward(unet, latent, *args, **options)

    monkeypatch.setattr(MultiFlowUNet, "forward", picky)
    engine = engines(pipe, Limits(places=4))
    shape = pipe.bank.codecs["image"].latent_shape()
    bad = engine.submit("image", TEXT, num_inference_steps=3, latents=torch.full((1, *shape), 50.0))
    good = engine.submit("image", TEXT, num_inference_steps=3)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        result(bad)
    assert len(result(good)) == 1


def test_other_work_runs_between_steps(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that takes many steps holds nobody up, and ends early like all else."""
    engine = engines(pipe, Limits(places=2))
    short: list[Any] = []

    def long(between: Any) -> Output:
        def step(*args: Any) -> None:
            short or short.append(engine.submit("image", TEXT, num_inference_steps=2, client="b"))
            between(*args)
            if short[0].over:
                call.cancel()

        return pipe.generate("image", TEXT, num_inference_steps=60, callback_on_step_end=step)

    call = engine.call(long, client="a")
    with pytest.raises(CancelledError):
        call.future.result(60)
    assert len(result(short[0])) == 1
    assert engine.call(lambda between: 7).future.result(60) == 7
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda between: 1 / 0).future.result(60)


def test_a_listener_hears_every_step_and_sees_previews(
    pipe: VersatileDiffusionPipeline, engines: Callable[..., Engine]
) -> None:
    heard: list[Progress] = []
    engine = engines(pipe)
    job = engine.submit("image", TEXT, num_inference_steps=6, num_outputs=2, previews=2, listener=heard.append)
    output = result(job)
    assert [news.step for news in heard if news.item == 1] == [0, 1, 2, 3, 4, 5, 6]
    shown = [(news.item, news.step, news.preview) for news in heard if news.value is not None]
    assert shown == [(0, 2, 0), (1, 2, 0), (0, 4, 1), (1, 4, 1)]
    assert next(news.value for news in heard if news.value is not None).size == output.images[0].size


def test_closing_ends_what_runs_or_gives_it_up(
    pipe: VersatileDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(pipe, Limits(places=1))
    jobs = [engine.submit("image", TEXT, num_inference_steps=3) for _ in range(3)]
    assert engine.ready
    assert engine.close(grace=60)
    assert all(len(result(job)) == 1 for job in jobs)
    assert not engine.ready
    with pytest.raises(ClosedError):
        engine.submit("image", TEXT)

    gate = Gate(monkeypatch, held=True)
    engine = Engine(pipe, Limits(places=1))
    jobs = [engine.submit("image", TEXT, num_inference_steps=100) for _ in range(2)]
    assert gate.arrived.wait(10)
    threading.Timer(0.3, gate.open.set).start()
    assert not engine.close(grace=0.1)
    for job in jobs:
        with pytest.raises(ClosedError, match="stopped before"):
            result(job)


@pytest.mark.parametrize("wrong", [{"places": 0}, {"seconds": -1.0}, {"items": 1.5}, {"waiting": True}])
def test_limits_are_numbers_above_zero(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be a number above 0"):
        Limits(**wrong)
