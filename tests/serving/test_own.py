"""Whole requests and replay: what Python, the command line and HTTP make of one record is the same."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import shell
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import load, save
from service_client import FEW, data_url, file_of, opened

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications import again, colours
from versatile_diffusion.applications.joint import joint
from versatile_diffusion.records.png import save_png
from versatile_diffusion.records.record import record_of
from versatile_diffusion.serving.api.results import digest_of

EXACT = FEW | {"seed": 3, "exact": True}


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def tensor(text: str) -> torch.Tensor:
    return next(iter(load(base64.b64decode(text)).values()))


def tensor_text(value: torch.Tensor) -> str:
    return base64.b64encode(save({"any": value.contiguous()})).decode()


def hashes(data: str, values: Any) -> list[str]:
    return [digest_of(data, value) for value in values]


def test_any_conditions(client: TestClient, pipe: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, 12, 20))
    conditions = [
        {"modality": "text", "value": "a cat", "weight": 0.4, "region": "left", "guidance_scale": 3.0, "end": 0.9},
        {"modality": "image", "value": data_url(picture), "weight": 0.6, "mask": data_url(mask), "focus": 0.3},
        {"modality": "text", "value": "the blue house", "negative": "a dog", "region": [0.5, 0, 1, 1]},
    ]
    answer = post(client, "/v1/generate", data="image", conditions=conditions, num_outputs=2, **EXACT)
    given = [
        Condition("text", "a cat", weight=0.4, region=(0, 0, 0.5, 1), guidance_scale=3.0, end=0.9),
        Condition("image", picture, weight=0.6, mask=mask, focus=0.3),
        Condition("text", "the blue house", negative="a dog", region=(0.5, 0, 1, 1)),
    ]
    expected = pipe.generate("image", given, num_outputs=2, seed=3, **FEW)
    assert len(answer["items"]) == 2
    torch.testing.assert_close(tensor(answer["latents"]), expected.latents, rtol=1e-4, atol=1e-4)
    assert answer["settings"].items() >= json.loads(json.dumps(expected.settings)).items()
    assert [item["seed"] for item in answer["items"]] == [3, 4]


def test_tokens_and_latents_go_in_and_out(client: TestClient, pipe: VersatileDiffusionPipeline) -> None:
    tokens = pipe.encode_context("a red apple", "text")
    noise = torch.randn(1, *pipe.bank.codecs["image"].latent_shape(), generator=torch.Generator().manual_seed(0))
    condition = {"modality": "text", "tokens": tensor_text(tokens)}
    body = {"data": "image", "conditions": [condition], "latents": tensor_text(noise), **FEW}
    latent = post(client, "/v1/generate", output="latent", **body)
    expected = pipe.generate("image", [Condition("text", tokens=tokens)], latents=noise, **FEW)
    torch.testing.assert_close(tensor(latent["latents"]), expected.latents, rtol=1e-4, atol=1e-4)
    assert latent["items"] == []
    context = post(client, "/v1/generate", output="context", **body)
    seen = pipe.encode_context(expected.images, "image")
    torch.testing.assert_close(tensor(context["tokens"]), seen, rtol=1e-2, atol=1e-2)
    start = {"start": tensor_text(expected.latents[0]), "fidelity": 1.0}
    kept = post(
        client, "/v1/generate", data="image", conditions=[{"modality": "text", "value": "a cat"}], **FEW, **start
    )
    torch.testing.assert_close(tensor(kept["latents"]), expected.latents, rtol=1e-4, atol=1e-4)


def test_replay_is_the_same_in_python_on_the_command_line_and_by_http(
    client: TestClient, pipe: VersatileDiffusionPipeline, picture: Image.Image, tmp_path: Path
) -> None:
    """One image of a batch that HTTP made: its file replays on the command line, its record in Python and by HTTP."""
    model = tmp_path / "tiny"
    pipe.save_pretrained(model)
    picture.save(tmp_path / "given.png")
    condition = {"modality": "image", "value": base64.b64encode(file_of(picture)).decode()}
    made = post(client, "/v1/generate", data="image", conditions=[condition], num_outputs=3, **EXACT)
    item, digest = made["items"][1], made["items"][1]["sha256"]
    assert digest == digest_of("image", opened(item["value"]))
    settings = made["settings"] | {"index": 1}

    again_ = post(client, "/v1/replay", settings=settings, inputs=[data_url(picture)])
    assert [one["sha256"] for one in again_["items"]] == [digest]
    output = pipe.replay(settings, lambda record: picture)
    assert hashes("image", output.images) == [digest]

    record = settings | {"seed": item["seed"], "prompt": item["prompt"]}
    record["conditions"][0]["values"][0]["file"] = "given.png"
    file = tmp_path / "made.png"
    save_png(opened(item["value"]), file, record)
    done = shell.run(f"versatile replay {file} --model {model} --json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["identical"] is True


def test_replay_finds_inputs_by_their_hash_and_opens_no_file(
    client: TestClient, pipe: VersatileDiffusionPipeline, picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "given.png")
    settings = pipe.image_variation(str(tmp_path / "given.png"), seed=1, **FEW).settings
    answer = client.post("/v1/replay", json={"settings": settings})
    assert answer.status_code == 400
    assert "send it in inputs" in answer.json()["error"]["message"]
    other = client.post("/v1/replay", json={"settings": settings, "inputs": [data_url(picture.rotate(90))]})
    assert other.status_code == 400
    assert len(post(client, "/v1/replay", settings=settings, inputs=[data_url(picture)])["items"]) == 1


def test_replay_of_tokens_and_texts(client: TestClient, pipe: VersatileDiffusionPipeline) -> None:
    tokens = pipe.encode_context("a red apple", "text")
    output = pipe.generate("text", [Condition("text", tokens=tokens)], num_outputs=2, seed=4, **FEW)
    made = post(client, "/v1/replay", settings=output.settings, inputs=[tensor_text(tokens)])
    assert [item["value"] for item in made["items"]] == output.texts


def test_replay_of_applications(client: TestClient, pipe: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    both = joint(pipe, [Condition("text", "a cat")], seed=2, **FEW)
    made = post(client, "/v1/replay", settings=both.picture.settings)
    assert [item["sha256"] for item in made["items"]] == hashes("image", both.picture.images)
    coloured = colours.match(pipe.image_variation(picture, seed=2, **FEW), picture, "simple")
    made = post(client, "/v1/replay", settings=coloured.settings, inputs=[data_url(picture)])
    assert [item["sha256"] for item in made["items"]] == hashes("image", coloured.images)
    assert hashes("image", again.replay(pipe, coloured.settings, lambda record: picture).images)
    greedy = both.picture.settings | {"num_inference_steps": 1000}
    answer = client.post("/v1/replay", json={"settings": greedy})
    assert answer.status_code == 400
    assert "num_inference_steps of the settings is 1000" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "other", "fingerprint": "0"}}, "the loaded model has other weights"),
        ({"num_inference_steps": 1000}, "allows up to 200"),
        ({"seeds": [0] * 1000}, "seeds"),
        ({"data": None}, "modality"),
        ({"conditions": 3}, "conditions"),
    ],
)
def test_bad_records_are_refused(
    client: TestClient, pipe: VersatileDiffusionPipeline, change: dict[str, Any], message: str
) -> None:
    settings = pipe.text_to_image("a cat", seed=1, **FEW).settings
    answer = client.post("/v1/replay", json={"settings": settings | change})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_digests_tell_values_apart(picture: Image.Image) -> None:
    assert digest_of("image", picture) == record_of(None, picture)["sha256"]
    assert digest_of("text", "a cat") != digest_of("text", "a dog")
