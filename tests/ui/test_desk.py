"""The queue: fair, in batches, with limits, and stopped when asked to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.flow import Condition
from versatile_diffusion.ui.desk import Desk, one_sentence
from versatile_diffusion.ui.jobs import Ask, BusyError, Job, Limits

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
    desk = Desk(tiny_pipeline, Limits(waiting=6, each=3, batch=4))
    yield desk
    desk.close()


def finished(job: Job) -> Job:
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
    order: list[str] = []
    generate = desk.pipe.generate

    def noted(data: str, conditions: Any, **options: Any) -> Any:
        order.append(conditions[0].value)
        return generate(data, conditions, **options)

    monkeypatch.setattr(desk.pipe, "generate", noted)
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
    generate = desk.pipe.generate

    def noted(data: str, conditions: Any, **options: Any) -> Any:
        sizes.append(len(options["seed"]) if isinstance(options["seed"], list) else 1)
        return generate(data, conditions, **options)

    monkeypatch.setattr(desk.pipe, "generate", noted)
    gate = Gate()
    desk.submit("eve", "edit", [gate.ask()])
    assert gate.entered.wait(WAIT)
    jobs = [desk.submit(person, "text-to-image", [ask(f"a {person}")]) for person in ("ada", "bob", "cy")]
    gate.open.set()
    assert [finished(job).state for job in jobs] == ["done"] * 3
    assert sizes[1:] == [3]
    assert [job.outputs[0].prompts for job in jobs] == [("a ada",), ("a bob",), ("a cy",)]


def test_a_failure_in_a_batch_is_its_own(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = desk.pipe.generate

    def picky(data: str, conditions: Any, **options: Any) -> Any:
        values = conditions[0].value
        if "bad" in (values if isinstance(values, list) else [values]):
            raise ValueError("this text is bad")
        return generate(data, conditions, **options)

    monkeypatch.setattr(desk.pipe, "generate", picky)
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

    monkeypatch.setattr(desk.pipe, "generate", broken)
    job = finished(desk.submit("ada", "t", [ask()]))
    assert job.state == "failed"
    assert "secret" not in job.message
    assert "secret inner matter" in caplog.text
    assert job.message.split()[-1].rstrip(".") in caplog.text


def test_stopping_ends_the_run_and_the_next_goes_on(desk: Desk) -> None:
    job = desk.submit("ada", "t", [ask(steps=1000 // 5, num_outputs=4)])
    end = time.monotonic() + WAIT
    while job.step < 2:
        assert time.monotonic() < end
        time.sleep(0.005)
    desk.stop(job)
    assert finished(job).state == "stopped"
    assert job.outputs == []
    assert job.step < 200
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
    with pytest.raises(BusyError, match="3 of your requests wait already"):
        desk.submit("ada", "t", [ask()])
    jobs += [desk.submit("bob", "t", [ask()]) for _ in range(2)]
    with pytest.raises(BusyError, match="the studio is full: 6 requests wait; try again in about"):
        desk.submit("cy", "t", [ask()])
    gate.open.set()
    assert {finished(job).state for job in jobs} == {"done"}


def test_previews_come_on_the_way(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("versatile_diffusion.ui.desk.PREVIEW_EVERY", 0.0)
    seen: list[int] = []
    told = Job.told

    def noted(job: Job, **news: Any) -> None:
        seen.append(len(news.get("previews", ())))
        told(job, **news)

    monkeypatch.setattr(Job, "told", noted)
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
    with pytest.raises(ValueError, match="these are 37 runs"):
        desk.submit("ada", "t", [ask()] * 37)


def test_one_sentence() -> None:
    assert one_sentence(ValueError("no\nsuch   thing")) == "No such thing."
    assert len(one_sentence(ValueError("x" * 999))) <= 301
    assert one_sentence(ValueError("")) == "This did not work."
