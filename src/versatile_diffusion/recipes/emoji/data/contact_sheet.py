"""Contact sheet with one row per concept and one column per style, for a quick check of a build."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from versatile_diffusion.recipes.emoji.data.render import decode
from versatile_diffusion.recipes.emoji.data.shards import EmojiSample
from versatile_diffusion.sheets import GAP, Layout, tile_images

ROWS = 12


def write_contact_sheet(samples: Sequence[EmojiSample], styles: Sequence[str], size: int, path: Path) -> None:
    """Draw concepts evenly spaced over the table, among those with the most styles."""
    pictures = {(sample.concept_index, sample.style): sample for sample in reversed(samples)}
    covered = Counter(index for index, _ in pictures)
    most = max(covered.values())
    full = sorted(index for index, count in covered.items() if count == most)
    rows = [full[place * len(full) // min(ROWS, len(full))] for place in range(min(ROWS, len(full)))]
    drawn = [
        Image.fromarray(decode(pictures[index, style].webp)) if (index, style) in pictures else None
        for index in rows
        for style in styles
    ]
    layout = Layout(len(styles), (size, size), GAP, left=GAP, top=GAP)
    tile_images(drawn, layout, (200, 200, 200)).save(path, "PNG")
