"""A tiny source of drawings, so that builds can be tested without the network."""

from __future__ import annotations

from versatile_diffusion.recipes.emoji.data.build import RenderSource
from versatile_diffusion.recipes.emoji.data.concepts import Concept
from versatile_diffusion.recipes.emoji.data.drawings import Drawing
from versatile_diffusion.recipes.emoji.data.sources import STYLES

STYLE_IDS = ("noto", "twemoji", "openmoji", "openmoji-black", "fluent-flat", "fxemoji")
CHOSEN = tuple(style for style in STYLES if style.id in STYLE_IDS)


def svg(index: int, style: int) -> bytes:
    colour = f"rgb({40 + 37 * index % 200},{60 * style % 220},{90 + 11 * index % 150})"
    shape = f'<circle cx="16" cy="16" r="{6 + (index + style) % 9}" fill="{colour}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32" viewBox="0 0 32 32">{shape}</svg>'.encode()


def tiny_source(concepts: int = 20) -> RenderSource:
    """Concepts in two groups, drawn in six styles; one drawing is blank, one concept has two drawings in a style."""
    table = tuple(
        Concept(
            f"1f{index:03x}",
            index,
            f"thing {index}",
            (f"word{index}", "object", "test"),
            group,
            "things",
            f"f{index // 2}",
        )
        for index in range(concepts)
        for group in (("objects", "symbols")[index % 4 // 2],)
    )
    drawings = {
        style.id: [Drawing(concept.key, 1, "svg", svg(concept.index, place)) for concept in table]
        for place, style in enumerate(CHOSEN)
    }
    blank = b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32" viewBox="0 0 32 32"/>'
    drawings["fxemoji"][0] = Drawing(table[0].key, 1, "svg", blank)
    drawings["noto"].append(Drawing(table[1].key, 2, "svg", svg(77, 5)))
    return RenderSource(table, CHOSEN, {name: sorted(row) for name, row in drawings.items()})
