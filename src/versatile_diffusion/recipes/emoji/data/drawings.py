"""Drawings in packages: the vector (or image) of each style and concept."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from versatile_diffusion.recipes.emoji.data.concepts import key_of_hex, match_name
from versatile_diffusion.recipes.emoji.data.sources import Style

_FONT_MARGIN = 1.15  # side of the square around a glyph, in em


@dataclass(frozen=True, order=True)
class Drawing:
    """A drawing to render: SVG text or WebP bytes, depending on `kind`. `variant` numbers drawings of a (style,
    concept)."""

    concept: str
    variant: int
    kind: str
    source: bytes

    def key(self, style: str) -> str:
        """Return the sample key; it starts with the concept, so that sorted shards mix the styles."""
        return f"{self.concept}_{style}" + (f"_{self.variant}" if self.variant > 1 else "")


@dataclass(frozen=True)
class Wanted:
    """Requested concepts, and names that map to them."""

    keys: frozenset[str]
    names: Mapping[str, str]


def _plain_aliases(icons: Mapping[str, Any]) -> dict[str, str]:
    """Map aliases to icons, without aliases that rotate or mirror their parent, which would be different images."""
    aliases = icons.get("aliases", {})
    plain = {name: row["parent"] for name, row in aliases.items() if not set(row) & {"rotate", "hFlip", "vFlip"}}
    return {name: plain.get(parent, parent) for name, parent in plain.items()}


def wrap_iconify(icons: Mapping[str, Any], name: str) -> str:
    """Wrap an icon's body as an SVG document."""
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(f, icons.get(f, d)) for f, d in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}" color="#000">{icon["body"]}</svg>'
    )


def iconify_names(files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the (icon name, concept key) pairs stated by an icon set, aliases last."""
    keys = {name: key_of_hex(code) for code, name in sorted(json.loads(files["chars.json"]).items())}
    yield from keys.items()
    for alias, parent in sorted(_plain_aliases(json.loads(files["icons.json"])).items()):
        if parent in keys and "skin-tone" not in alias:
            yield alias, keys[parent]


def _by_chars(icons: Mapping[str, Any], files: Mapping[str, bytes], wanted: Wanted) -> dict[tuple[str, int], str]:
    parents = _plain_aliases(icons)
    found: dict[tuple[str, int], str] = {}
    for code, name in sorted(json.loads(files["chars.json"]).items()):
        key, icon = key_of_hex(code), parents.get(name, name)
        if key in wanted.keys and icon in icons["icons"]:
            found.setdefault((key, 1), icon)
    return found


def _by_names(icons: Mapping[str, Any], _files: Mapping[str, bytes], wanted: Wanted) -> dict[tuple[str, int], str]:
    """Match icons before aliases, so that a concept's own icon takes precedence."""
    parents = _plain_aliases(icons)
    found: dict[tuple[str, int], str] = {}
    for name in [*sorted(icons["icons"]), *sorted(parents)]:
        match = match_name(name, wanted.names)
        if match is not None and match[0] in wanted.keys and parents.get(name, name) in icons["icons"]:
            found.setdefault(match, parents.get(name, name))
    return found


_ICONIFY_MAPPINGS = {"chars": _by_chars, "names": _by_names}


def _iconify(style: Style, files: Mapping[str, bytes], wanted: Wanted) -> Iterator[Drawing]:
    icons = json.loads(files["icons.json"])
    for (key, variant), name in _ICONIFY_MAPPINGS[style.source](icons, files, wanted).items():
        yield Drawing(key, variant, "svg", wrap_iconify(icons, name).encode())


def _by_file_name(kind: str) -> Callable[[Style, Mapping[str, bytes], Wanted], Iterator[Drawing]]:
    suffix = f".{kind}"

    def read(style: Style, files: Mapping[str, bytes], wanted: Wanted) -> Iterator[Drawing]:
        seen = set()
        for path in sorted(files):
            folder, _, name = path.rpartition("/")
            if folder != style.source or not name.endswith(suffix):
                continue
            try:
                key = key_of_hex(name.removesuffix(suffix))
            except ValueError:
                continue  # not named by code points
            if key in wanted.keys and key not in seen:
                seen.add(key)
                yield Drawing(key, 1, kind, files[path])

    return read


def _font(style: Style, files: Mapping[str, bytes], wanted: Wanted) -> Iterator[Drawing]:
    """Yield outlines of single code points; sequences need shaping and are skipped."""
    from fontTools.pens.boundsPen import BoundsPen
    from fontTools.pens.svgPathPen import SVGPathPen
    from fontTools.ttLib import TTFont

    font = TTFont(io.BytesIO(files[style.source]))
    glyphs, em = font.getGlyphSet(), font["head"].unitsPerEm
    for point, name in sorted(font.getBestCmap().items()):
        if f"{point:x}" not in wanted.keys:
            continue
        path, bounds = SVGPathPen(glyphs), BoundsPen(glyphs)
        glyphs[name].draw(path)
        glyphs[name].draw(bounds)
        if bounds.bounds is None:
            continue
        left, low, right, high = bounds.bounds
        side = max(_FONT_MARGIN * em, right - left, high - low)
        x, y = (left + right - side) / 2, (-(low + high) - side) / 2  # y grows downwards in SVG
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{side:g}" height="{side:g}" '
            f'viewBox="{x:g} {y:g} {side:g} {side:g}"><path transform="scale(1 -1)" d="{path.getCommands()}"/></svg>'
        )
        yield Drawing(f"{point:x}", 1, "svg", svg.encode())


FORMS: dict[str, Callable[[Style, Mapping[str, bytes], Wanted], Iterator[Drawing]]] = {
    "iconify": _iconify,
    "openmoji": _by_file_name("svg"),
    "webp": _by_file_name("webp"),
    "font": _font,
}

MEMBERS: dict[str, Callable[[Style], tuple[str, ...]]] = {
    "iconify": lambda style: ("icons.json", "chars.json"),
    "openmoji": lambda style: (style.source + "/",),
    "webp": lambda style: (style.source + "/",),
    "font": lambda style: (style.source,),
}


def collect(style: Style, files: Mapping[str, bytes], wanted: Wanted) -> list[Drawing]:
    """Return the sorted drawings of a style for the requested concepts."""
    return sorted(FORMS[style.form](style, files, wanted))
