"""The parts of the model with audio learn; the diffuser is promoted from the shipped one, which stays as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from versatile_diffusion import Context, MultiFlowUNet, VersatileDiffusionPipeline
from versatile_diffusion.modalities.audio.encoder import DualAudioEncoder
from versatile_diffusion.modalities.audio.vae import AudioVAE
from versatile_diffusion.pipeline.models import find_model
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.settings import find_settings
from versatile_diffusion.recipes.speech.codec import AudioCodecSettings, mel_distance
from versatile_diffusion.recipes.speech.data.reader import SpeechSet
from versatile_diffusion.recipes.speech.diffuser import HELD, HIGHEST, NEW, OLD, STAGES_OF_AUDIO, speech_objective
from versatile_diffusion.recipes.speech.figures import Heard, Judges, measure, page
from versatile_diffusion.recipes.speech.judge import SpeechJudge, SpeechJudgeSettings, accuracy
from versatile_diffusion.recipes.speech.levels import blur_share, louder, mask_stripes, noisy, shift_later
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.diffuser.objective import DiffuserObjective
from versatile_diffusion.training.engine.loop import Objective

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(what: Objective, module: torch.nn.Module, number: int, optimizers: list) -> dict[str, float]:
    loss, parts = what.loss(module, what.batch(number, seeded(number)))
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {name: float(part) for name, part in parts.items()} | {"loss": float(loss)}


@pytest.mark.parametrize("objective", ["audio-codec", "audio-context", "speech-judge"])
def test_every_part_learns_and_is_exported(objective: str, spoken: Path, tmp_path: Path) -> None:
    what, _ = find_settings(objective, "speech")(spoken, tmp_path / "run", CPU)
    json.dumps(what.settings())
    torch.manual_seed(0)
    module = what.build()
    with torch.no_grad():
        before = what.evaluate(module.eval())
    optimizers = what.optimizers(module.train())
    losses = [step(what, module, number, optimizers)["loss"] for number in range(6)]
    assert min(losses[3:]) < losses[0]
    with torch.no_grad():
        after = what.evaluate(module.eval())
    assert after.keys() == before.keys()
    what.sample_sheet(module, tmp_path / "sheet")
    what.export(module, tmp_path / "export")
    kind = {"audio-codec": AudioVAE, "audio-context": DualAudioEncoder, "speech-judge": SpeechJudge}[objective]
    again = kind.from_pretrained(tmp_path / "export").eval()
    same = module.encoder if objective == "audio-context" else module
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in same.state_dict().items())
    if objective == "audio-codec":
        latents = again.encode(SpeechSet.load(spoken, "pair-test").waves)
        assert 0.3 < float(latents.std()) < 3  # about unit variance


def test_augmentation_keeps_shape_and_range_and_silence(spoken: Path) -> None:
    levels = SpeechSet.load(spoken, "pair-test").levels().float()
    for change in (
        lambda x, g: shift_later(x, 8, g),
        lambda x, g: louder(x, 6.0, g),
        lambda x, g: mask_stripes(x, 8, 8, g),
        lambda x, g: noisy(x, 0.1, g),
        lambda x, g: blur_share(x, 0.5, g),
    ):
        changed = change(levels, seeded())
        assert changed.shape == levels.shape
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
        assert not torch.equal(changed, levels)
        assert torch.equal(changed, change(levels, seeded()))
    silent = torch.zeros(2, 1, 64, 96)
    assert not louder(shift_later(silent, 8, seeded()), 6.0, seeded()).any()
    moved = shift_later(levels, 8, seeded())
    assert torch.equal(moved.amax(3), levels.amax(3)) or float((moved.amax(3) - levels.amax(3)).abs().max()) < 0.9
    assert mel_distance(levels, levels).max() == 0
    assert float(mel_distance(levels + 0.01, levels).mean()) == pytest.approx(0.8, rel=0.01)


@cache
def parts_trained(sets: Path) -> Path:
    """Runs of the parts, as their first export: of random weights."""
    runs = sets / "runs"
    torch.manual_seed(0)
    AudioVAE((16, 16)).save_pretrained(runs / "audio-codec" / "export")
    DualAudioEncoder((8, 8, 16)).save_pretrained(runs / "audio-context" / "export")
    return runs


def stage_of(name: str, sets: Path, runs: Path) -> DiffuserObjective:
    return speech_objective(name, sets / "speech", runs / STAGES_OF_AUDIO[name].run, CPU)


def words_trained(sets: Path) -> Path:
    """The same with the diffuser's first stage, at its first step unless a test has trained it."""
    runs = parts_trained(sets)
    if not (runs / "diffuser-words" / "export" / "model_index.json").is_file():
        what = stage_of("speech-words", sets, runs)
        what.export(what.build().eval(), runs / "diffuser-words" / "export")
    return runs


def outputs(unet: MultiFlowUNet) -> dict[str, torch.Tensor]:
    """Each of the four flows, on fixed inputs."""
    found = {}
    text_width = unet.config["data_streams"]["text"]["width"]
    for data, shape in (("image", (2, 4, 16, 16)), ("text", (2, text_width))):
        for context in ("image", "text"):
            tokens = torch.randn(2, 9, 192, generator=seeded(1))
            latent, when = torch.randn(shape, generator=seeded(2)), torch.tensor([3, 801])
            with torch.no_grad():
                found[f"{context}-to-{data}"] = unet(latent, when, [Context(context, tokens)], data=data)
    return found


def test_promotion_leaves_the_four_flows_as_they_are_bit_for_bit(sets: Path) -> None:
    runs = parts_trained(sets)
    what = stage_of("speech-words", sets, runs)
    shipped = MultiFlowUNet.from_pretrained(Path(find_model("emoji")) / "unet", dtype=torch.float32).eval()
    # As in training: the order of sums depends on the memory format, and on whether weights learn.
    shipped = shipped.to(memory_format=torch.channels_last).requires_grad_(False)
    shipped.context["text"].requires_grad_(True)
    torch.manual_seed(0)
    unet = what.build()
    before, promoted = outputs(shipped), outputs(unet.eval())
    assert all(torch.equal(before[flow], promoted[flow]) for flow in before)
    state = unet.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in shipped.state_dict().items())
    assert {task.name for task in what.pipeline(unet).tasks()} == {*NEW, *OLD, "dual-guided"}
    assert all(torch.equal(a, b) for a, b in zip(*(s.state_dict().values() for s in _contexts(unet)), strict=True))

    optimizers = what.optimizers(unet.train())
    trained = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    learning = (unet.data["audio"], unet.context["audio"], unet.context["text"])
    assert trained == {id(p) for stream in learning for p in stream.parameters()}
    batch = what.batch(0, seeded())
    assert [one.task.name for one in batch] == ["text-to-audio", *HELD["text"]]
    assert int(batch[0].timestep.min()) >= HIGHEST
    small = [_first(one, 2) for one in batch]
    for piece in what.pieces(small):
        loss, parts = what.loss(unet, piece)
        assert loss.isfinite()
        assert all(float(parts[name].detach()) < 1e-9 for name in HELD["text"] if name in parts)
        loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    after = outputs(unet.eval())
    assert all(torch.equal(promoted[flow], after[flow]) for flow in before if flow.startswith("image"))
    assert not torch.equal(unet.data["audio"][0].project.weight, what.build().data["audio"][0].project.weight)

    (folder := runs / "diffuser-words" / "export").mkdir(parents=True, exist_ok=True)
    what.export(unet, folder)
    counts = {f"{group}.{m}": sum(p.numel() for p in getattr(unet, group)[m].parameters()) for group in ("data",
        "context") for m in getattr(unet, group)}  # fmt: skip
    assert sum(p.numel() for p in unet.parameters()) - sum(p.numel() for p in shipped.parameters()) == (
        counts["data.audio"] + counts["context.audio"]
    )  # parameters grow as N + M

    means = stage_of("speech-means", sets, runs)
    means.export(means.build().eval(), runs / "diffuser-means" / "export")
    rest, shapes = stage_of("speech", sets, runs), {}
    for what in (means, rest):
        batch = what.batch(0, seeded())
        shapes |= {one.task.name: tuple(one.latent.shape[1:]) for one in batch}
        assert {one.task.name for one in batch} == ({*NEW, *OLD} if what is means else {*NEW})
        lowest = {one.task.name: int(one.timestep.min()) for one in batch if one.task.flow.data == "audio"}
        assert (min(lowest.values()) >= HIGHEST) == (what is means)
    assert shapes["text-to-image"] == shapes["audio-to-image"] == (4, 16, 16)
    assert shapes["text-to-audio"] == shapes["audio-variation"] == (16, 4, 24)
    drawn = rest.train_pairs.of(TASKS["text-to-image"])
    assert drawn.count == len(EmojiSet.load(sets / "emoji", "train")) != rest.train_pairs.count


def test_at_the_highest_noise_levels_recordings_are_learnt_as_means_of_word_and_voice(sets: Path) -> None:
    what = stage_of("speech-words", sets, parts_trained(sets))
    pairs, single = what.train_pairs, what.train_pairs.latents["audio"].rows.float()
    items, when = torch.arange(pairs.count), torch.full((pairs.count,), HIGHEST)
    means = pairs.target(TASKS["text-to-audio"], items, when, single)
    assert means.shape == single.shape
    assert torch.equal(pairs.target(TASKS["text-to-audio"], items, when - 1, single), single)
    assert pairs.target(TASKS["audio-to-image"], items, when, single) is single
    data, drawn = SpeechSet.load(sets / "speech"), {*EmojiSet.load(sets / "emoji").concept_keys}
    kept = [row for row in range(len(data)) if data.concept_keys[data.concepts[row]] in drawn][: len(single)]
    left = single - means
    assert float(left.pow(2).mean()) < float((single - single.mean(0)).pow(2).mean())
    for concept in {*data.concepts[kept].tolist()}:
        rows = [place for place, row in enumerate(kept) if data.concepts[row] == concept]
        assert float(left[rows].mean(0).abs().max()) < 5e-3  # half precision

    batch = next(one for one in what.batch(0, seeded()) if one.task.name == "text-to-audio")
    apart = (batch.latent[:, None] - means[None]).flatten(2).abs().amax(2).amin(1)
    assert float(apart.max()) < 1e-3  # every target is one of the means


def _contexts(unet: MultiFlowUNet) -> list[torch.nn.Module]:
    return [unet.context["audio"], unet.context["image"]]


def _first(batch, count: int):  # of each flow, so that the step is quick
    contexts = tuple(Context(c.stream, c.tokens[:count]) for c in batch.contexts)
    many = len(batch.latent) // len(batch.contexts[0].tokens)
    return replace(
        batch, latent=batch.latent[: many * count], noise=batch.noise[: many * count],
        timestep=batch.timestep[: many * count], contexts=contexts,
    )  # fmt: skip


def test_figures_of_every_flow(sets: Path, tmp_path: Path) -> None:
    pipe = VersatileDiffusionPipeline.from_pretrained(words_trained(sets) / "diffuser-words" / "export")
    pipe.set_progress_bar_config(disable=True)
    data = SpeechSet.load(sets / "speech", "pair-test")
    from versatile_diffusion.recipes.emoji.data.reader import EmojiSet

    items = Heard.of(data, EmojiSet.load(sets / "emoji", "train"), 2)
    judge = SpeechJudge(data.concept_keys, data.voice_names, data.concept_names).eval()
    found = measure(pipe, items, Judges(judge, None), steps=1)
    assert {"recordings", "codec", "text-to-audio", "audio-to-text", "image-to-audio", "audio-variation"} <= set(found)
    assert {"word", "voice", "mel distance (dB)"} == set(found["codec"])
    assert {"word kept", "voice changed"} == set(found["audio-variation"])
    assert "label exact" in found["audio + image to text"]
    assert {"label exact", "label"} == set(found["audio-to-text, best of 8"]) == set(found["audio-to-text"])
    assert "| codec | mel distance (dB) |" in page(found)


def test_a_judge_that_knows_the_answers_is_right(spoken: Path) -> None:
    data = SpeechSet.load(spoken, "pair-test")
    judge = SpeechJudge(data.concept_keys, data.voice_names, data.concept_names).eval()
    told = [data.concept_keys[row] for row in data.concepts], [data.voice_names[row] for row in data.voices]
    judge.heard = lambda waves: told  # type: ignore[method-assign]
    assert accuracy(judge, data) == {"word": 100.0, "voice": 100.0}
    wrong = told[0][1:] + told[0][:1], told[1]
    judge.heard = lambda waves: wrong  # type: ignore[method-assign]
    assert accuracy(judge, data)["word"] < 100
    assert SpeechJudgeSettings().splits != ("pair-test",)
    assert AudioCodecSettings().batch_size
