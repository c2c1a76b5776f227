"""The page of a model, and uploads: by dry run, and by the hub's own client to a server that speaks its protocol."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants, hf_api
from PIL import Image
from tiny import build_tiny_pipeline

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.pipeline.card import About
from versatile_diffusion.pipeline.distilled import DistilledForm
from versatile_diffusion.pipeline.hub import CARD
from versatile_diffusion.records.png import read_record

ABOUT = About("apache-2.0", "ada/base", ("ada/set",), "en", ("a red apple", "a cat"))


@pytest.fixture
def pipe() -> VersatileDiffusionPipeline:
    made = build_tiny_pipeline()
    made.register_to_config(defaults={"text-to-image": {"num_inference_steps": 2}})
    return made


def test_a_dry_run_shows_the_files_and_the_page(pipe: VersatileDiffusionPipeline) -> None:
    upload = pipe.push_to_hub("ada/tiny", about=ABOUT, dry_run=True)
    assert upload.url is None
    assert {CARD, "model_index.json", "images/a-red-apple.png", "images/a-cat.png"} <= set(upload.sizes)
    assert all(size > 0 for size in upload.sizes.values())
    card = ModelCard(str(upload.card))
    data = card.data.to_dict()
    assert (data["license"], data["base_model"], data["datasets"]) == ("apache-2.0", "ada/base", ["ada/set"])
    assert (data["library_name"], data["pipeline_tag"]) == ("versatile-diffusion", "text-to-image")
    assert data["widget"][0] == {"text": "a red apple", "output": {"url": "images/a-red-apple.png"}}
    assert "image-to-text" in data["tags"]
    assert 'from_pretrained("ada/tiny")' in card.text
    assert pipe.fingerprint() in card.text


def test_the_page_has_only_what_the_model_can() -> None:
    captions = build_tiny_pipeline(data=("text",), contexts=("image",))
    upload = captions.push_to_hub("ada/captions", about=About(prompts=("a cat",)), dry_run=True)
    data = ModelCard(str(upload.card)).data.to_dict()
    assert data["pipeline_tag"] == "image-to-text"
    assert data["widget"] == [{"text": "a cat"}]
    assert not [name for name in upload.sizes if name.endswith(".png")]
    assert "text_to_image" not in str(upload.card)


def test_a_page_of_ones_own_gets_the_metadata(pipe: VersatileDiffusionPipeline) -> None:
    upload = pipe.push_to_hub("ada/tiny", about=About("mit", text="# Mine\n"), dry_run=True)
    card = ModelCard(str(upload.card))
    assert card.data.license == "mit"
    assert card.text.strip() == "# Mine"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"repo_id": "tiny"}, "OWNER/NAME"),
        ({"repo_id": "a/b@main"}, "OWNER/NAME"),
        ({"safe_serialization": False}, "safetensors"),
    ],
)
def test_what_is_refused(pipe: VersatileDiffusionPipeline, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pipe.push_to_hub(**{"repo_id": "ada/tiny", "dry_run": True, **given})


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload needs; keeps what it is sent."""

    files: dict[str, bytes]

    def answer(self, status: int, told: Any = None, **headers: str) -> None:
        body = json.dumps(told or {}).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        name = self.path.rpartition("/resolve/main/")[2]
        if name in self.files:
            return self.answer(200, ETag='"1"', X_Repo_Commit="0" * 40)
        return self.answer(404, X_Error_Code="EntryNotFound")

    do_GET = do_HEAD  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        url = f"http://{self.headers['Host']}/ada/tiny"
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if "/commit/main" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(200, {"commitUrl": f"{url}/commit/1", "commitOid": "0" * 40, "pullRequestUrl": None})
        return self.answer(200, {"url": url, "errors": [], "warnings": []})

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The files of a repository on a hub of this machine, which the hub's client talks to."""
    held: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Hub,), {"files": held}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(hf_api.api, "endpoint", url)  # the client that diffusers has
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield held
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_uploaded_loads_again(pipe: VersatileDiffusionPipeline, hub: dict[str, bytes], tmp_path: Path) -> None:
    """All files as they came to the hub, in a folder; and a page that is there stays."""
    upload = pipe.push_to_hub("ada/tiny", token="t", about=About(prompts=("a red apple",)))
    assert upload.sizes == {name: len(data) for name, data in hub.items()}
    assert str(upload.url).endswith("/ada/tiny/commit/1")
    for name, data in hub.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    again = VersatileDiffusionPipeline.from_pretrained(tmp_path)
    assert again.fingerprint() == pipe.fingerprint()
    assert read_record(Image.open(tmp_path / "images/a-red-apple.png"))["prompt"] == "a red apple"

    hub[CARD] = b"# Written by hand"
    assert pipe.push_to_hub("ada/tiny", token="t").card is None
    assert hub[CARD] == b"# Written by hand"
    assert "# Mine" in str(pipe.push_to_hub("ada/tiny", token="t", about=About(text="# Mine")).card)
    assert b"# Mine" in hub[CARD]


def test_saving_uploads_the_distilled_forms_too(
    pipe: VersatileDiffusionPipeline, hub: dict[str, bytes], tmp_path: Path
) -> None:
    pipe.add_form(DistilledForm("4", {"text-to-image": {"num_inference_steps": 4}}))
    pipe.save_pretrained(tmp_path, push_to_hub=True, repo_id="ada/tiny", token="t")
    form = tmp_path / "distilled/4/form.json"
    assert hub["distilled/4/form.json"] == form.read_bytes()
