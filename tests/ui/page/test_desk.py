"""The queue: fair, in batches, with limits, and stopped when asked to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.flow import Condition
from versatile_diffusion.serving import Engine
from versatile_diffusion.serving.jobs import Generation
from versatile_diffusion.ui.page.desk import Desk, one_sentence
from versatile_diffusion.ui.queue.jobs import Ask, BusyError, StudioJob, StudioLimits

WAIT = 600  # seconds, on the slowest machine


def ask(text: str = "a cat", *, steps: int = 2, **more: Any) -> Ask:
    return Ask("image", (Condition("text", text),), {"num_inference_steps": steps, "seed": 5, **more})


class Gate:
    """A run that waits until it is let through, so that others queue up behind it."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, pipe: VersatileDiffusionPipeline, *, callback_on_step_end: Any, **arguments: Any) -> Any:
        self.entered.set()
        assert self.open.wait(WAIT)
        return pipe.text_to_image("a dog", callback_on_step_end=callback_on_step_end, **arguments)

    def ask(self) -> Ask:
        return Ask("image", (Condition("text", "a dog"),), {"num_inference_steps": 1, "seed": 0}, self)


@pytest.fixture
def desk(tiny_pipeline: VersatileDiffusionPipeline) -> Iterator[Desk]:
    desk = Desk(tiny_pipeline, StudioLimits(waiting=6, each=3, batch=4))
    yield desk
    desk.close()


def finished(job: StudioJob) -> StudioJob:
    end = time.monotonic() + WAIT
    while not job.over:
        assert time.monotonic() < end, f"still {job.state}"
        time.sleep(0.01)
    return job


def test_a_request_is_done(desk: Desk) -> None:
    job = finished(desk.submit("ada", "text-to-image", [ask(num_outputs=3)]))
    assert (job.state, len(job.outputs), len(job.outputs[0])) == ("done", 1, 3)
    assert job.seconds > 0


def test_a_stop_counts_before_there_is_anything_to_stop(desk: Desk) -> None:
    assert not desk.halted("ada", "edit", begun=7)
    desk.halt("ada", "edit", at=8)
    assert desk.halted("ada", "edit", begun=7)
    assert not desk.halted("ada", "edit", begun=9)
    assert not desk.halted("ada", "blend", begun=7)
    assert not desk.halted("bob", "edit", begun=7)
    desk.leave("ada")
    assert not desk.halted("ada", "edit", begun=7)


def test_turns_go_round_by_person(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    order = noting_order(desk, monkeypatch)
    gate = Gate()
    first = desk.submit("eve", "edit", [gate.ask()])
    assert gate.entered.wait(WAIT)
    sweep = desk.submit("ada", "sweep", [ask(f"a{k}", guidance_scale=float(k + 1)) for k in range(3)])
    single = desk.submit("bob", "blend", [ask("b")])
    assert (sweep.ahead, single.ahead) == (1, 2)
    gate.open.set()
    for job in (first, sweep, single):
        assert finished(job).state == "done"
    assert order[1:] == ["a0", "b", "a1", "a2"]


def test_compatible_requests_are_one_batch(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(desk.engine._passes, "on_pass", lambda size, seconds: sizes.append(size))
    gate = Gate()
    desk.submit("eve", "edit", [gate.ask()])
    assert gate.entered.wait(WAIT)
    jobs = [desk.submit(person, "text-to-image", [ask(f"a {person}")]) for person in ("ada", "bob", "cy")]
    gate.open.set()
    assert [finished(job).state for job in jobs] == ["done"] * 3
    assert sizes == [6, 6]  # each item twice, for guidance
    assert [job.outputs[0].prompts for job in jobs] == [("a ada",), ("a bob",), ("a cy",)]


def test_a_failure_in_a_batch_is_its_own(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = desk.pipe.bank.encoders["text"]
    encode = encoder.encode

    def picky(values: Any, masks: Any = None) -> Any:
        if "bad" in values:
            raise ValueError("this text is bad")
        return encode(values, masks)

    monkeypatch.setattr(encoder, "encode", picky)
    gate = Gate()
    desk.submit("eve", "edit", [gate.ask()])
    assert gate.entered.wait(WAIT)
    good, bad = desk.submit("ada", "t", [ask("good")]), desk.submit("bob", "t", [ask("bad")])
    gate.open.set()
    assert (finished(good).state, finished(bad).state) == ("done", "failed")
    assert bad.message == "This text is bad."


def test_a_fault_of_ours_is_told_by_a_number(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret inner matter")

    monkeypatch.setattr(type(desk.pipe.unet), "forward", broken)
    job = finished(desk.submit("ada", "t", [ask()]))
    assert job.state == "failed"
    assert "secret" not in job.message
    assert "secret inner matter" in caplog.text
    assert job.message.split()[-1].rstrip(".") in caplog.text


def test_stopping_ends_the_run_and_the_next_goes_on(desk: Desk) -> None:
    """The run waits in its second step until it is told to stop, so it is neither too fast nor too slow for that."""
    reached, told = threading.Event(), threading.Event()

    def held(pipe: VersatileDiffusionPipeline, *, callback_on_step_end: Any, **arguments: Any) -> Any:
        def second(pipe: VersatileDiffusionPipeline, step: int, *rest: Any) -> Any:
            if step == 1:
                reached.set()
                assert told.wait(WAIT)
            return callback_on_step_end(pipe, step, *rest)

        return pipe.text_to_image("a dog", callback_on_step_end=second, **arguments)

    job = desk.submit("ada", "t", [Ask("image", ask().conditions, {"num_inference_steps": 200, "seed": 0}, held)])
    assert reached.wait(WAIT)
    desk.stop(job)
    told.set()
    assert finished(job).state == "stopped"
    assert job.outputs == []
    assert job.step <= 2
    assert finished(desk.submit("ada", "t", [ask()])).state == "done"


def test_stopping_what_waits_takes_it_off_the_list(desk: Desk) -> None:
    gate = Gate()
    running = desk.submit("ada", "t", [gate.ask()])
    assert gate.entered.wait(WAIT)
    waiting = desk.submit("ada", "u", [ask()])
    assert [job.place for job in desk.jobs("ada", "u")] == ["u"]
    desk.stop(waiting)
    assert waiting.state == "stopped"
    desk.leave("ada")
    gate.open.set()
    assert finished(running).state == "stopped"


def test_a_full_studio_says_so(desk: Desk) -> None:
    gate = Gate()
    jobs = [desk.submit("eve", "t", [gate.ask()])]
    assert gate.entered.wait(WAIT)
    jobs += [desk.submit("ada", "t", [ask()]) for _ in range(3)]
    with pytest.raises(BusyError, match="3 of your requests are already waiting"):
        desk.submit("ada", "t", [ask()])
    jobs += [desk.submit("bob", "t", [ask()]) for _ in range(2)]
    with pytest.raises(BusyError, match="the studio is busy: 6 requests are waiting; try again in about"):
        desk.submit("cy", "t", [ask()])
    gate.open.set()
    assert {finished(job).state for job in jobs} == {"done"}


def test_previews_come_on_the_way(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("versatile_diffusion.ui.page.desk.PREVIEW_EVERY", 0.0)
    seen: list[int] = []
    told = StudioJob.told

    def noted(job: StudioJob, **news: Any) -> None:
        seen.append(len(news.get("previews", ())))
        told(job, **news)

    monkeypatch.setattr(StudioJob, "told", noted)
    finished(desk.submit("ada", "t", [ask(steps=30, num_outputs=2)]))
    assert 2 in seen


def test_closing_ends_what_waits(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    desk, gate = Desk(tiny_pipeline), Gate()
    running = desk.submit("ada", "t", [gate.ask()])
    assert gate.entered.wait(WAIT)
    waiting = desk.submit("bob", "t", [ask()])
    gate.open.set()
    desk.close()
    assert {running.state, waiting.state} <= {"stopped", "done"}
    with pytest.raises(BusyError, match="closing"):
        desk.submit("ada", "t", [ask()])


def test_too_many_runs(desk: Desk) -> None:
    with pytest.raises(ValueError, match="the request has 37 runs"):
        desk.submit("ada", "t", [ask()] * 37)


def test_one_invalid_run_rejects_the_request_before_any_of_it_runs(desk: Desk) -> None:
    with pytest.raises(ValueError, match="guidance_scale"):
        desk.submit("ada", "t", [ask(), ask(guidance_scale=-1.0)])
    assert not desk.busy
    assert desk.engine.waiting == desk.engine.running == 0


def test_one_sentence() -> None:
    assert one_sentence(ValueError("no\nsuch   thing")) == "No such thing."
    assert len(one_sentence(ValueError("x" * 999))) <= 301
    assert one_sentence(ValueError("")) == "The request failed."


def noting_order(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The value that guides each run, in the order in which they begin."""
    order: list[str] = []
    begin = desk.engine._begin

    def noted(place: Any) -> None:
        order.append(place.run.request.conditions[0].value if isinstance(place, Generation) else "")
        begin(place)

    monkeypatch.setattr(desk.engine, "_begin", noted)
    return order


def test_turns_go_round_by_client_whatever_their_pages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    order = noting_order(desk, monkeypatch)
    gate = Gate()
    jobs = [desk.submit("first", "t", [gate.ask()], "eve")]
    assert gate.entered.wait(WAIT)
    for k in range(3):  # each page has other settings, so that nothing is a batch
        jobs.append(desk.submit(f"page {k}", "t", [ask(f"a{k}", guidance_scale=float(k + 2))], "ada"))
    jobs.append(desk.submit("page", "t", [ask("b", guidance_scale=9.0)], "bob"))
    assert [job.ahead for job in jobs[1:]] == [1, 3, 4, 2]
    gate.open.set()
    for job in jobs:
        assert finished(job).state == "done"
    assert order[1:] == ["a0", "b", "a1", "a2"]


def test_pages_of_one_client_take_turns(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    order = noting_order(desk, monkeypatch)
    gate = Gate()
    jobs = [desk.submit("first", "t", [gate.ask()], "school")]
    assert gate.entered.wait(WAIT)
    sweep = [ask(f"a{k}", guidance_scale=float(k + 1)) for k in range(3)]
    jobs += [desk.submit("second", "t", sweep, "school"), desk.submit("third", "t", [ask("b")], "school")]
    gate.open.set()
    for job in jobs:
        assert finished(job).state == "done"
    assert order[1:] == ["a0", "b", "a1", "a2"]


def test_nobody_fills_the_studio_by_opening_pages(desk: Desk) -> None:
    gate = Gate()
    jobs = [desk.submit("page 0", "t", [gate.ask()], "mallory")]
    assert gate.entered.wait(WAIT)
    jobs += [desk.submit(f"page {k}", "t", [ask()], "mallory") for k in (1, 2)]
    for k in range(3, 40):
        with pytest.raises(BusyError, match="3 of your requests are already waiting"):
            desk.submit(f"page {k}", "t", [ask()], "mallory")
    jobs.append(desk.submit("honest", "t", [ask()], "bob"))
    assert jobs[-1].ahead == 1  # next, before all that wait
    gate.open.set()
    assert {finished(job).state for job in jobs} == {"done"}


def test_no_more_cells_are_looked_at_than_are_allowed(desk: Desk) -> None:
    seen: list[int] = []

    def endless() -> Iterator[Ask]:
        while True:
            seen.append(len(seen))
            yield ask()

    with pytest.raises(ValueError, match="the request has 37 runs or more; this studio allows 1 to 36"):
        desk.submit("ada", "sweep", endless())
    assert len(seen) == 37


def test_stops_of_made_up_pages_are_forgotten(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    desk = Desk(tiny_pipeline, StudioLimits(visitors=20))
    for k in range(500):
        desk.halt(f"page {k}", "t", at=k)
    desk.close()
    assert len(desk._halts) == 20
    assert desk.halted("page 499", "t", begun=1)


def test_a_service_and_the_studio_share_one_engine(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    """Requests of both share passes; the end of the studio is not that of the engine."""
    sizes: list[int] = []
    engine = Engine(tiny_pipeline, on_pass=lambda size, seconds: sizes.append(size))
    desk, gate = Desk(tiny_pipeline, engine=engine), Gate()
    first = desk.submit("eve", "edit", [gate.ask()])
    assert gate.entered.wait(WAIT)
    job = desk.submit("ada", "t", [ask()])
    other = engine.submit("image", [Condition("text", "a cat")], client="api", num_inference_steps=2, seed=5)
    gate.open.set()
    assert {finished(one).state for one in (first, job)} == {"done"}
    assert other.future.result(WAIT).images[0].tobytes() == job.outputs[0].images[0].tobytes()
    assert sizes == [4, 4], "both at once, each item twice for guidance"
    desk.close()
    assert engine.ready
    engine.close()
