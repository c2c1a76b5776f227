"""Training of the picture encoder against texts that stay, on the small set of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from versatile_diffusion.modalities.encoders.dual import DualImageEncoder, DualTextEncoder
from versatile_diffusion.recipes.emoji import parts
from versatile_diffusion.training.engine.loop import LoopSettings, train
from versatile_diffusion.training.parts import context_data
from versatile_diffusion.training.parts.image_context import ImageContextObjective, ImageContextSettings

DATA = Path(__file__).parents[2] / "data" / "emoji"


@pytest.fixture(scope="module")
def objective(tmp_path_factory: pytest.TempPathFactory) -> ImageContextObjective:
    with pytest.MonkeyPatch.context() as patch:
        for module in (parts, context_data):
            patch.setattr(module, "teach", lambda texts, cache: F.normalize(torch.randn(len(texts), 384), dim=1))
        patch.setattr(parts, "teacher_words", lambda count: ["zebra", "table"])
        data = parts.context_data(DATA, tmp_path_factory.mktemp("teacher"), 24, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = DualTextEncoder(depth=1)
        image = DualImageEncoder(widths=(4, 8, 8))
    text.tokenizer = data.tokenizer
    return ImageContextObjective(image, text, data, ImageContextSettings(pictures=16), torch.device("cpu"))


def test_pictures_learn_while_texts_stay(objective: ImageContextObjective, tmp_path: Path) -> None:
    texts = {name: value.clone() for name, value in objective.text.state_dict().items()}
    outcome = train(objective, LoopSettings(steps=16, warmup=2, ema=0.5, clip=None, log_every=4), tmp_path)
    assert all(torch.equal(value, texts[name]) for name, value in objective.text.state_dict().items())
    assert {"pair-test/i2t_r1", "concept-test/t2i_r5", "pair-val/style"} <= outcome.metrics.keys()
    board = [line for line in (tmp_path / "log.jsonl").read_text().splitlines() if "global_concept" in line]
    first, last = (float(line.split('"global_concept": ')[1].split(",")[0]) for line in (board[0], board[-1]))
    assert last < 0.97 * first
    assert DualImageEncoder.from_pretrained(tmp_path / "export").config.widths == [4, 8, 8]


def test_labels_and_styles_are_the_classifier(objective: ImageContextObjective) -> None:
    module = objective.build()
    names = objective.data.held_out["pair-test"].names
    assert torch.allclose(module.labels, objective.text.embed(names).concept, atol=1e-5)
    assert torch.allclose(module.styles.norm(dim=1), torch.ones(len(module.styles)))
    concept, style = module.logits(objective.text.embed(names))
    assert torch.equal(concept.argmax(dim=1), torch.arange(len(names)))
    assert style.shape == (len(names), len(objective.data.style_names))
