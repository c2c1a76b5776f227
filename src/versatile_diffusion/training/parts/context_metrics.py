"""Retrieval metrics of the context encoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from versatile_diffusion.modalities.encoders.dual import DualEmbedding, DualImageEncoder, DualTextEncoder
from versatile_diffusion.numeric import unit
from versatile_diffusion.sheets import in_rows
from versatile_diffusion.training.parts.context_data import ContextData, RetrievalSplit

QUERIES = (
    "dog", "puppy", "ocean animal", "red fruit", "sad", "happy face", "winter", "a blue car", "music", "flower",
    "kangaroo", "weapon",
)  # fmt: skip


def recall(scores: Float[Tensor, "q n"], relevant: Tensor, k: int) -> float:
    """Recall@k in per cent: share of queries with a relevant item among the first `k`."""
    first = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return 100 * float(relevant.gather(1, first).any(dim=1).float().mean())


def measure(
    image: DualImageEncoder, text: DualTextEncoder, rows: Float[Tensor, "k c"], data: ContextData
) -> dict[str, float]:
    """Recall in per cent, both ways, with labels; style accuracy with phrases; recall with the table instead of
    labels."""
    result: dict[str, float] = {}
    phrases = torch.stack([text.embed(list(phrases)).style.mean(dim=0) for phrases in data.style_phrases])
    for split, held in data.held_out.items():
        pictures = _embed(image, held.pictures)
        labels = _embed_texts(text, held.names)
        result |= _both_ways(pictures.concept, labels, held, split)
        style = (pictures.style @ unit(phrases, dim=1).T).argmax(dim=1).cpu() == held.styles
        result[f"{split}/style"] = 100 * float(style.float().mean())
        if split.startswith("pair"):
            hit = (pictures.concept @ rows.T).argmax(dim=1).cpu() == held.concepts
            result[f"{split}/table_r1"] = 100 * float(hit.float().mean())
        if held.no_sibling.any():
            alone = held.no_sibling
            part = RetrievalSplit(
                held.pictures[alone], held.concepts[alone], held.styles[alone], held.no_sibling[alone], held.names
            )
            result |= _both_ways(pictures.concept[alone.to(labels.device)], labels, part, f"{split}/no_sibling")
    return result


def _both_ways(pictures: Tensor, labels: Tensor, held: RetrievalSplit, name: str) -> dict[str, float]:
    """Recall of images to all labels, and of the labels that occur to images."""
    scores = (pictures @ labels.T).cpu()
    fits = F.one_hot(held.concepts, len(held.names)).bool()
    occur = fits.any(dim=0)
    return {f"{name}/i2t_r{k}": recall(scores, fits, k) for k in (1, 5)} | {
        f"{name}/t2i_r{k}": recall(scores.T[occur], fits.T[occur], k) for k in (1, 5)
    }


def _embed(image: DualImageEncoder, pictures: UInt8[Tensor, "n h w 3"]) -> DualEmbedding:
    parts = [
        image(rearrange(part.to(image.device), "b h w c -> b c h w").float() / 255).embedding
        for part in torch.split(pictures, 128)
    ]
    return DualEmbedding(torch.cat([p.concept for p in parts]), torch.cat([p.style for p in parts]))


def _embed_texts(text: DualTextEncoder, texts: Sequence[str]) -> Float[Tensor, "n c"]:
    return torch.cat([text.embed(texts[start : start + 256]).concept for start in range(0, len(texts), 256)])


def search_sheet(image: DualImageEncoder, text: DualTextEncoder, data: ContextData, columns: int = 12) -> Image.Image:
    """A sheet with one row per query of `QUERIES`, in order: the closest images of pair-test."""
    pictures = data.held_out["pair-test"].pictures
    scores = _embed_texts(text, QUERIES) @ _embed(image, pictures).concept.T
    nearest: Int[Tensor, "q k"] = scores.topk(min(columns, len(pictures)), dim=1).indices.cpu()
    found = pictures[nearest].numpy()
    return in_rows(*([Image.fromarray(image) for image in row] for row in found), columns=found.shape[1])
