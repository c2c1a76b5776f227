"""Reading a built set into memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from versatile_diffusion.printable import shown
from versatile_diffusion.recipes.emoji.data.captions import typed_captions
from versatile_diffusion.recipes.emoji.data.editions import may_mirror
from versatile_diffusion.recipes.emoji.data.manifest import COMMAND, Manifest
from versatile_diffusion.recipes.emoji.data.render import decode
from versatile_diffusion.recipes.emoji.data.shards import EmojiSample, read_shard
from versatile_diffusion.recipes.emoji.data.split import SPLITS


@dataclass(frozen=True)
class EmojiSet:
    """A split of the set. The first block of fields is per image, the second per concept or style (tables indexed by
    `concepts` and `styles`, the same in every split)."""

    split: str
    keys: list[str]
    pictures: np.ndarray  # uint8 (N, size, size, 3)
    captions: list[list[str]]
    labels: list[str]
    colours: list[tuple[str, ...]]
    concepts: np.ndarray  # int64 (N,)
    styles: np.ndarray  # int64 (N,)
    no_sibling: np.ndarray  # bool (N,): pair-test images without a drawing of the same outlines in training

    concept_names: list[str]
    concept_keys: list[str]
    concept_parts: list[str]  # train, concept-val or concept-test
    keywords: list[list[str]]
    groups: list[str]
    subgroups: list[str]
    style_names: list[str]
    style_phrases: list[list[str]]
    drawings: list[str]  # per style: id of its outlines
    alone: list[tuple[str, str]]  # style and concept of the pairs that are `no_sibling`

    def __len__(self) -> int:
        return len(self.keys)

    def plain_captions(self, row: int) -> list[str]:
        """Return the captions "label, style" of an image, one per phrase of its style."""
        return [f"{self.labels[row]}, {phrase}" for phrase in self.style_phrases[self.styles[row]]]

    def typed_captions(self, row: int) -> list[str]:
        """Return captions of an image as typed by users."""
        return typed_captions(self.labels[row], self.style_phrases[self.styles[row]], self.colours[row])

    def vocabulary(self) -> dict[str, list[str]]:
        """Return the names of the concepts with images, each with its keywords."""
        return {self.concept_names[concept]: self.keywords[concept] for concept in sorted(set(self.concepts.tolist()))}

    def may_mirror(self, row: int) -> bool:
        """Return whether the image may be mirrored."""
        return may_mirror(self.labels[row], self.groups[self.concepts[row]])

    @classmethod
    def load(cls, folder: str | Path, split: str = "train") -> EmojiSet:
        """Load a split of a set built by `versatile data emoji --out FOLDER`."""
        if split not in SPLITS:
            raise ValueError(f"split {shown(split)}; allowed: {', '.join(SPLITS)}")
        folder = Path(folder)
        manifest = Manifest.read(folder)
        if away := [name for name in manifest.shards[split] if Path(name).name != name]:
            raise ValueError(f"{folder}: its manifest lists {shown(away[0])}, which is outside this folder")
        missing = [name for name in manifest.shards[split] if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{folder} lacks {', '.join(missing)}; build it again with: {COMMAND.format(folder=folder)}"
            )
        samples = [sample for name in manifest.shards[split] for sample in read_shard(folder / name)]
        expected = sum(manifest.counts[split].values())
        if len(samples) != expected:
            raise ValueError(
                f"{folder}: {split} has {len(samples)} images, but the manifest has {expected}; build it again with: "
                f"{COMMAND.format(folder=folder)}"
            )
        return cls._of(samples, manifest, split)

    @classmethod
    def _of(cls, samples: list[EmojiSample], manifest: Manifest, split: str) -> EmojiSet:
        size = manifest.recipe["size"]
        place = {row["id"]: index for index, row in enumerate(manifest.styles)}
        alone = {(style, concept) for style, concept in manifest.no_sibling}
        pictures = np.empty((len(samples), size, size, 3), dtype=np.uint8)
        for index, sample in enumerate(samples):
            pictures[index] = decode(sample.webp)
        return cls(
            split=split,
            keys=[sample.key for sample in samples],
            pictures=pictures,
            captions=[sample.captions for sample in samples],
            labels=[sample.label for sample in samples],
            colours=[tuple(sample.colours) for sample in samples],
            concepts=np.array([sample.concept_index for sample in samples], dtype=np.int64),
            styles=np.array([place[sample.style] for sample in samples], dtype=np.int64),
            no_sibling=np.array([(sample.style, sample.concept) in alone for sample in samples], dtype=bool),
            concept_names=[row["label"] for row in manifest.concepts],
            concept_keys=[row["key"] for row in manifest.concepts],
            concept_parts=[row["part"] for row in manifest.concepts],
            keywords=[row["keywords"] for row in manifest.concepts],
            groups=[row["group"] for row in manifest.concepts],
            subgroups=[row["subgroup"] for row in manifest.concepts],
            style_names=[row["id"] for row in manifest.styles],
            style_phrases=[row["phrases"] for row in manifest.styles],
            drawings=[row["drawing"] for row in manifest.styles],
            alone=sorted(alone),
        )
