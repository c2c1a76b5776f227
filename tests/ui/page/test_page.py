"""The page without a browser: its tabs come from the table of tasks, and it keeps to itself."""

from __future__ import annotations

import json
import secrets
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

import gradio as gr
import httpx
from gradio.state_holder import SessionState

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.pipeline.request import Request
from versatile_diffusion.tasks import TASKS, Task
from versatile_diffusion.ui.forms.compare import AXES
from versatile_diffusion.ui.forms.controls import HANDLES, WIDGETS, arguments_of, condition, widgets_of
from versatile_diffusion.ui.forms.explain import explanation
from versatile_diffusion.ui.forms.tabs import setting_of, task_form
from versatile_diffusion.ui.page import stage
from versatile_diffusion.ui.page.guard import fetched_addresses, forget_sessions
from versatile_diffusion.ui.queue.jobs import Ask, StudioJob, StudioLimits
from versatile_diffusion.ui.serve import Running, logins, running, written_logins

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def tabs(page: gr.Blocks) -> list[str]:
    return [block.id for block in page.blocks.values() if isinstance(block, gr.Tab)]


def test_every_task_and_application_has_a_tab(studio: Running) -> None:
    applications = ["blend", "disentangle", "edit", "inpaint", "joint", "sweep"]
    own = ["text-to-image", "image-variation", "image-to-text", "text-variation", "dual-guided"]
    assert set(own) <= set(TASKS), "others belong to modalities that this model lacks"
    assert tabs(studio.page) == [*own, *applications, "history", "explain"]


def test_a_new_task_appears_by_itself(
    tiny_pipeline: VersatileDiffusionPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from versatile_diffusion.ui.page.desk import Desk
    from versatile_diffusion.ui.page.page import Studio, build
    from versatile_diffusion.ui.page.shelf import Shelves

    task = Task("retell", Flow("text", ("image", "text")), {"text": "empty"}, help="A text from both.")
    monkeypatch.setitem(TASKS, task.name, task)
    desk = Desk(tiny_pipeline)
    page = build(Studio(desk, Shelves(tmp_path, "tiny", 9), "tiny"))
    desk.close()
    assert "retell" in tabs(page)
    form = task_form(task)
    assert (form.title, form.help, form.data) == ("Retell", "A text from both.", "text")
    assert form.accepts == (("image", "image"), ("text", "text"))


def test_a_new_modality_is_given_as_a_file(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    form = task_form(Task("sound-to-image", Flow("image", ("sound",)), help="Images from a sound."))
    with gr.Blocks(analytics_enabled=False):
        drawn = form.draw(setting_of(tiny_pipeline, StudioLimits(), None))
    assert isinstance(drawn["sound"], gr.File)
    (ask,) = form.asks({name: component.value for name, component in drawn.items()} | {"sound": "upload.wav"})
    assert (ask.conditions[0].modality, ask.conditions[0].value) == ("sound", "upload.wav")


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_controls_as_they_stand_are_what_the_model_does_anyway(
    task: Task, tiny_pipeline: VersatileDiffusionPipeline
) -> None:
    with gr.Blocks(analytics_enabled=False):
        drawn = task_form(task).draw(setting_of(tiny_pipeline, StudioLimits(), task))
    arguments = arguments_of({name: component.value for name, component in drawn.items()})
    usual = {"num_outputs": 4, "num_inference_steps": 50, "guidance_scale": task.guidance_scale}
    assert arguments.items() >= usual.items()
    assert "seed" not in arguments
    ask = Ask(task.flow.data, (condition("text", "text", {"text": "a"}),), arguments)  # type: ignore[arg-type]
    ask.check(StudioLimits(), tiny_pipeline)


def test_a_seed_that_a_browser_would_round_is_refused() -> None:
    assert WIDGETS["seed"].read(2**53) == 2**53
    with pytest.raises(ValueError, match="it must be at most 9007199254740992"):
        WIDGETS["seed"].read(2**53 + 2)


def test_controls_belong_to_flows(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    setting = setting_of(tiny_pipeline, StudioLimits(), None)
    texts, pictures = (set(widgets_of(TASKS[name].flow, setting)) for name in ("text-variation", "image-variation"))
    assert {"temperature", "style"} <= texts - pictures
    assert {"width", "height"} <= pictures - texts
    assert texts | pictures < set(WIDGETS)


def test_every_setting_of_a_request_has_a_control(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    settings = {control.argument for control in WIDGETS.values()} | {"guidance_interval"}  # of two controls
    elsewhere = {"data", "conditions", "repaint"}  # what is asked for, what guides, and what the tab Inpaint paints
    elsewhere |= {"layer_bits"}  # of records of earlier versions
    assert settings - {None, "seed"} == set(Request.__dataclass_fields__) - elsewhere
    fields = {handle.field for handle in HANDLES.values()}
    assert fields == set(Condition.__dataclass_fields__) - {"modality", "value", "tokens"}


def test_what_stands_in_two_controls_or_for_people_is_read() -> None:
    values = {"guidance_from": 0.1, "guidance_until": 0.8, "layer_plan": "0 1\n\n1 0", "denoising": 0.5, "start": None}
    assert arguments_of(values) == {"guidance_interval": (0.1, 0.8), "layer_plan": [[0, 1], [1, 0]]}
    assert arguments_of({"guidance_from": 0, "guidance_until": 1, "layer_plan": ""}) == {}
    with pytest.raises(ValueError, match="one line of integers"):
        arguments_of({"layer_plan": "0 x"})
    given = condition("text", "text", {"text": "a", "text.region": "0:0:0.5:1"})
    assert given is not None
    assert given.region == (0, 0, 0.5, 1)
    with pytest.raises(ValueError, match="left:top:right:bottom"):
        condition("text", "text", {"text": "a", "text.region": "/etc/passwd"})


def test_an_empty_input_is_no_condition() -> None:
    assert condition("text", "text", {"text": "  "}) is None
    assert condition("image", "image", {"image": None}) is None


def test_settings_to_compare_have_values_to_begin_with() -> None:
    assert all(values or name == "style" for name, (_, values) in AXES.items())


def test_what_runs_is_drawn(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    drawn = explanation(tiny_pipeline, Flow("text", ("image",)))
    assert drawn.count('<rect class="data on"') == 2 + len(tiny_pipeline.unet.plan)  # stream, decoder, layers
    assert drawn.count('<rect class="context on"') == 2
    assert drawn.count('<rect class="context off"') == 2
    assert drawn.count("<circle") == sum(block.attention is not None for block in tiny_pipeline.unet.plan)


def test_nothing_that_people_write_becomes_markup() -> None:
    job = StudioJob("ada", "t", (Ask("image", (), {}, label="<script>"),), previews=("<img src=x>",))
    for state in ("waiting", "running", "failed"):
        job.told(state=state, message="<b>bad</b>")
        assert "<script>" not in stage.of(job)
        assert "<img src=x" not in stage.of(job)
        assert "<b>bad" not in stage.of(job)


@pytest.mark.parametrize(
    "value",
    [
        {"path": "http://169.254.169.254/latest", "meta": {"_type": "gradio.FileData"}},
        [1, {"inner": [{"path": " HTTPS://example.org/a.png"}]}],
        {"path": "//example.org/a.png"},
    ],
)
def test_addresses_are_found_wherever_they_stand(value: Any) -> None:
    assert fetched_addresses(value)
    assert not fetched_addresses({"path": "/tmp/a.png", "url": None, "text": "see http://example.org"})


def run_index(studio: Running, name: str) -> tuple[int, list[str]]:
    """The event that runs a tab, and the names of its inputs."""
    for number, function in studio.page.fns.items():
        if function.name == "run" and getattr(function.outputs[0], "elem_id", "") == f"{name}-stage":
            return number, [type(block).__name__ for block in function.inputs]
    raise AssertionError(f"no event runs {name}")


def answers(studio: Running, name: str, picture: Any) -> list[dict[str, Any]]:
    """What the server says to a run of a tab with this as its picture."""
    number, kinds = run_index(studio, name)
    blocks = studio.page.fns[number].inputs
    data = [picture if kind == "Image" else getattr(b, "value", None) for kind, b in zip(kinds, blocks, strict=True)]
    session = secrets.token_hex(5)
    with httpx.Client(base_url=studio.url, timeout=600, trust_env=False) as client:
        body = {"data": data, "fn_index": number, "session_hash": session}
        client.post("gradio_api/queue/join", json=body).raise_for_status()
        with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
            lines = (line.removeprefix("data:") for line in stream.iter_lines() if line.startswith("data:"))
            found = []
            for message in map(json.loads, lines):
                found.append(message)
                if message["msg"] in ("process_completed", "close_stream", "unexpected_error"):
                    return found
    return found


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", __file__, "http://127.0.0.1:9/a.png"])
def test_no_path_or_address_from_outside_is_read(studio: Running, path: str) -> None:
    payload = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    last = answers(studio, "image-variation", payload)[-1]
    assert last["msg"] == "process_completed"
    assert last["success"] is False
    assert "root:" not in json.dumps(last)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "pyproject.toml", __file__, "/proc/self/environ", "../../../etc/passwd", "%2e%2e/etc/passwd"],
)
def test_no_file_of_the_machine_is_served(studio: Running, path: str) -> None:
    for route in ("gradio_api/file=", "file=", "static/", "assets/", "gradio_api/file/"):
        answer = httpx.get(f"{studio.url}{route}{path}", trust_env=False, timeout=600, follow_redirects=False)
        assert answer.status_code in (403, 404, 405, 422, 307), (route, answer.status_code)
        assert "root:" not in answer.text


def test_large_uploads_are_refused(studio: Running) -> None:
    content = b"0" * (26 * 1024 * 1024)
    answer = httpx.post(
        f"{studio.url}gradio_api/upload", files={"files": ("a.png", content)}, trust_env=False, timeout=600
    )
    assert answer.status_code == 413


def test_nothing_goes_out(studio: Running, connections: list[str]) -> None:
    """Every address that this process has connected to (or asked for) since before the studio was started."""
    httpx.get(studio.url, trust_env=False, timeout=600)
    assert connections
    assert [host for host in connections if host not in LOOPBACK] == []


def test_listens_on_this_machine_alone_and_leaves_nothing_behind(
    tiny_pipeline: VersatileDiffusionPipeline,
) -> None:
    with running(tiny_pipeline, "tiny", auth=["ada:secret:word"]) as started:
        assert started.url.startswith("http://127.0.0.1:")
        assert started.folder.is_dir()
        assert started.folder.stat().st_mode & 0o077 == 0
        with httpx.Client(base_url=started.url, trust_env=False, timeout=600) as client:
            assert client.get("config").status_code == 401
            assert client.post("gradio_api/queue/join", json={"data": [], "fn_index": 0}).status_code == 401
            assert client.post("login", data={"username": "ada", "password": "secret"}).status_code == 400
            assert client.post("login", data={"username": "ada", "password": "secret:word"}).status_code == 200
            assert client.get("config").status_code == 200
        assert started.page.get_config_file()["analytics_enabled"] is False
    assert not started.folder.exists()


@pytest.mark.parametrize("given", ["ada", ":secret", "ada:", " :secret"])
def test_bad_logins(given: str) -> None:
    with pytest.raises(ValueError, match="NAME:PASSWORD"):
        logins([given])
    with pytest.raises(ValueError, match="the same name"):
        logins(["ada:one", "ada:two"])
    assert logins([]) is None


def test_logins_of_a_file_and_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "logins").write_text("# who may come in\nada:p\u00e4ss: word\n\nbob:x\n", encoding="utf-8")
    monkeypatch.setenv("VERSATILE_AUTH", "cy:from elsewhere\n")
    written = [("cy", "from elsewhere"), ("ada", "p\u00e4ss: word"), ("bob", "x")]
    assert logins(written_logins(file)) == written
    assert written_logins(None) == ["cy:from elsewhere"]
    monkeypatch.delenv("VERSATILE_AUTH")
    assert written_logins(None) == []
    file.write_text("# nobody\n", encoding="utf-8")
    with pytest.raises(ValueError, match="contains no logins"):
        written_logins(file)
    with pytest.raises(ValueError, match="cannot be read"):
        written_logins(tmp_path / "missing")


def sessions_made_up(studio: Running, count: int, name: str) -> None:
    """So many sessions look at their history, and have never been here."""
    look = next(
        number for number, function in studio.page.fns.items() if function.name == "look" and not function.inputs
    )
    with httpx.Client(base_url=studio.url, timeout=600, trust_env=False) as client:
        for k in range(count):
            body = {"data": [], "fn_index": look, "session_hash": f"{name}-{k}"}
            assert client.post("gradio_api/run/predict", json=body).status_code == 200


def test_sessions_are_bounded_light_and_forgotten(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    with running(tiny_pipeline, "tiny", limits=StudioLimits(visitors=12)) as started:
        holder = started.page.app.state_holder
        sessions_made_up(started, 30, "made-up")
        assert len(holder.session_data) == 12
        assert "made-up-29" in holder
        assert "made-up-0" not in holder
        whole = SessionState(started.page)
        light = holder.session_data["made-up-29"]
        assert len(light.config_values) < len(whole.config_values) / 10
        assert light.blocks_config.blocks.keys() == whole.blocks_config.blocks.keys()
        assert started.studio.shelves._shelves == {}
        holder.time_last_used["made-up-28"] -= timedelta(hours=7)
        forget_sessions(started.page, hours=6)
        assert len(holder.session_data) == 11
        assert "made-up-28" not in holder
        answers(started, "text-to-image", None)
        for _ in range(400):  # the queue forgets an event a little after its answer
            if not started.page._queue.event_ids_to_events:
                break
            time.sleep(0.05)
        assert len(started.page._queue.event_ids_to_events) == 0
        forget_sessions(started.page, hours=0)
        assert len(holder.session_data) == len(started.page._queue.pending_event_ids_session) == 0


def test_a_text_that_is_longer_than_its_box_is_refused(studio: Running) -> None:
    number, _ = run_index(studio, "text-to-image")
    values = [getattr(block, "value", None) for block in studio.page.fns[number].inputs]
    values[0] = "a" * 501
    body = {"data": values, "fn_index": number, "session_hash": secrets.token_hex(5)}
    with httpx.Client(base_url=studio.url, timeout=600, trust_env=False) as client:
        client.post("gradio_api/queue/join", json=body).raise_for_status()
        with client.stream("GET", "gradio_api/queue/data", params={"session_hash": body["session_hash"]}) as stream:
            said = "".join(stream.iter_lines())
    assert "process_completed" in said
    assert "500 characters are allowed" in said


def test_a_client_has_its_share_whatever_its_sessions_are_called(studio: Running) -> None:
    """The address counts, not the hash, which anybody can make up."""
    seen: list[str] = []
    submit = studio.studio.desk.submit

    def noted(person: str, place: str, asks: Any, client: str | None = None) -> StudioJob:
        seen.append(str(client))
        return submit(person, place, asks, client)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio.studio.desk, "submit", noted)
        number, _ = run_index(studio, "text-to-image")
        values = ["a cat", *(getattr(block, "value", None) for block in studio.page.fns[number].inputs[1:])]
        for address in ("127.0.0.1", "127.0.0.1", "127.0.0.9"):
            session, transport = secrets.token_hex(5), httpx.HTTPTransport(local_address=address)
            body = {"data": values, "fn_index": number, "session_hash": session}
            with httpx.Client(base_url=studio.url, timeout=600, trust_env=False, transport=transport) as client:
                client.post("gradio_api/queue/join", json=body).raise_for_status()
                with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
                    assert '"success":true' in "".join(stream.iter_lines())
    assert seen == ["127.0.0.1", "127.0.0.1", "127.0.0.9"]
