"""What makes a row of image-text metadata worth fetching: named column layouts, and the filters of the paper.

Everything that touches rows is a polars expression, so that one machine, a cluster and a shard of a data set run the
same filter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from versatile_diffusion.choices import unknown

if TYPE_CHECKING:
    import polars as pl

MEANINGS = ("url", "text", "width", "height", "similarity", "unsafe", "watermark", "language", "hash")
"""What a column can mean."""

_LAION = {
    "url": "URL",
    "text": "TEXT",
    "width": "WIDTH",
    "height": "HEIGHT",
    "similarity": "similarity",
    "unsafe": "punsafe",
    "watermark": "pwatermark",
    "language": "LANGUAGE",
    "hash": "hash",
}
LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "laion-2b-en": _LAION,
    "laion-400m": {name: _LAION[name] for name in ("url", "text", "width", "height", "similarity")},
    "re-laion": {**_LAION, "language": "language"},
    "coyo-700m": {
        "url": "url",
        "text": "text",
        "width": "width",
        "height": "height",
        "similarity": "clip_similarity_vitb32",
        "unsafe": "nsfw_score_opennsfw2",
        "watermark": "watermark_score",
        "hash": "image_phash",
    },
    "datacomp": {
        "url": "url",
        "text": "text",
        "width": "original_width",
        "height": "original_height",
        "similarity": "clip_b32_similarity_score",
        "hash": "sha256",
    },
    "img2dataset": {
        **_LAION,
        "url": "url",
        "text": "caption",
        "width": "original_width",
        "height": "original_height",
    },
}
"""Columns of published data sets by meaning; `img2dataset` is what that tool writes beside each image."""

MISSING = ("reject", "keep")
PASSES, FAILS, LACKS = 0, 1, 2
"""What comes of a rule for a row: the value passes, fails, or is missing (null or NaN)."""

PAPER_AREA = 256**2 * 0.75


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`; the ends belong to it where it is `closed`."""

    low: float = -math.inf
    high: float = math.inf
    closed: bool = False

    @property
    def ends(self) -> tuple[float, ...]:
        return tuple(end for end in (self.low, self.high) if math.isfinite(end))

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high if self.closed else self.low < value < self.high

    def holds(self, value: pl.Expr, kind: Any) -> pl.Expr:
        """Whether it holds a number of a polars type. Its ends are compared in that type: in a column of 32 bits, 0.3
        is the nearest number of 32 bits, which is a little more than 0.3."""
        import polars as pl

        low, high = (pl.lit(end, dtype=kind) for end in (self.low, self.high))
        return (value >= low) & (value <= high) if self.closed else (value > low) & (value < high)


@dataclass(frozen=True)
class Rule:
    """One filter.

    Args:
        name: in the ledger and on the page.
        says: what it keeps, in words.
        needs: the meanings of the columns that it reads.
        value: of the columns by meaning, the number that is judged, or with no `interval` whether the row passes.
        interval: the numbers that pass.
        span: the range of the page's histogram.
    """

    name: str
    says: str
    needs: tuple[str, ...]
    value: Callable[[Mapping[str, pl.Expr]], pl.Expr]
    interval: Interval | None = None
    span: tuple[float, float] = (0.0, 1.0)

    def passes(self, columns: Columns) -> pl.Expr:
        """True, False, or null where a value is missing."""
        if self.interval is None:
            return self.value(columns.expressions())
        return self.interval.holds(self.number(columns), columns.kind(self.needs))

    def number(self, columns: Columns) -> pl.Expr:
        """The number that is judged; null where it is missing, NaN or no number."""
        kind = columns.kind(self.needs)
        return self.value(columns.expressions()).cast(kind, strict=False).fill_nan(None)

    def outcome(self, columns: Columns) -> pl.Expr:
        """`PASSES`, `FAILS` or `LACKS`."""
        import polars as pl

        failed = (~self.passes(columns)).cast(pl.UInt32)  # 0, 1 or null
        return failed.fill_null(pl.lit(LACKS, dtype=pl.UInt32))


@dataclass(frozen=True)
class Selection:
    """Which rows to keep. The defaults are the paper's (section 4.1); None or an empty tuple leaves a filter out.

    Args:
        min_similarity: CLIP similarity of image and text, above this.
        max_unsafe: probability that the image is unsafe (NSFW), below this.
        max_watermark: probability that it has a watermark, below this.
        aspect: width / height, from the first to the second, both included.
        min_area: width * height in pixels, above this.
        languages: codes that the language column may hold.
        caption_length: characters of the caption, from the first to the second, both included.
        blocked_domains: hosts whose images are left out, those of their subdomains too.
        unique: `"hash"` or `"url"`: of rows that share it, only the first is kept.
        missing: what becomes of rows that lack a value that a filter needs: `"reject"` or `"keep"`.

    Raises:
        ValueError: a number is out of range, or a name is unknown.
    """

    min_similarity: float | None = 0.3
    max_unsafe: float | None = 0.3
    max_watermark: float | None = 0.3
    aspect: tuple[float, float] | None = (0.6, 1.6667)
    min_area: float | None = PAPER_AREA
    languages: tuple[str, ...] = ()
    caption_length: tuple[int, int] | None = None
    blocked_domains: tuple[str, ...] = ()
    unique: str | None = None
    missing: str = "reject"

    def __post_init__(self) -> None:
        for name in ("min_similarity", "max_unsafe", "max_watermark", "min_area"):
            if (given := getattr(self, name)) is not None and not math.isfinite(given):
                raise ValueError(f"{name} is {given}; it must be a finite number, or None for no such filter")
        for name in ("aspect", "caption_length"):
            given = getattr(self, name)
            if given is not None and not (math.isfinite(given[1]) and 0 <= given[0] <= given[1]):
                raise ValueError(f"{name} is {given[0]:g} to {given[1]:g}; it must rise from 0 or more")
        if self.missing not in MISSING:
            raise ValueError(unknown("policy for missing values", self.missing, MISSING))
        if self.unique not in (None, "hash", "url"):
            raise ValueError(unknown("column to be unique in", self.unique, ("hash", "url")))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The filters that are on, in the order in which the ledger names the first reason."""
        built = (
            _score("similarity", "CLIP similarity above", self.min_similarity, above=True),
            _score("unsafe", "probability of unsafe content below", self.max_unsafe, above=False),
            _score("watermark", "probability of a watermark below", self.max_watermark, above=False),
            _aspect(self.aspect),
            _area(self.min_area),
            _language(self.languages),
            _caption_length(self.caption_length),
            _domain(self.blocked_domains),
        )
        return tuple(rule for rule in built if rule is not None)

    @property
    def needs(self) -> tuple[str, ...]:
        """The meanings of all columns that are read, the address and the caption among them."""
        unique = (self.unique,) if self.unique else ()
        return tuple(dict.fromkeys(("url", "text", *(n for rule in self.rules for n in rule.needs), *unique)))


@dataclass(frozen=True)
class Columns:
    """Where the columns are that a selection needs.

    Args:
        layout: its name.
        names: columns by meaning.
        single: the meanings whose numbers have 32 bits.
    """

    layout: str
    names: Mapping[str, str]
    single: frozenset[str] = frozenset()

    @classmethod
    def find(
        cls, schema: Mapping[str, Any], needs: Sequence[str], layout: str | None, given: Mapping[str, str], where: str
    ) -> Columns:
        """The columns of a table; upper and lower case are the same.

        Args:
            schema: its columns and their polars types.
            needs: the meanings that are needed.
            layout: a key of `LAYOUTS`; the one that fits best where left out.
            given: columns by meaning, in place of the layout's.
            where: the table's name, for messages.

        Raises:
            ValueError: a layout, a meaning or a column is unknown.
        """
        if layout is not None and layout not in LAYOUTS:
            raise ValueError(unknown("layout", layout, LAYOUTS))
        for meaning in given:
            if meaning not in MEANINGS:
                raise ValueError(unknown("meaning of a column", meaning, MEANINGS))
        there = {name.lower(): name for name in schema}
        layout = layout or max(LAYOUTS, key=lambda name: _fit(LAYOUTS[name], there))
        wanted = {meaning: name.lower() for meaning, name in {**LAYOUTS[layout], **given}.items()}
        lost = [meaning for meaning in needs if wanted.get(meaning) not in there]
        if lost:
            raise ValueError(
                f"{where} has no column for {', '.join(lost)}, read as {layout}; its columns are {', '.join(schema)}; "
                f"name one with --column {lost[0]}=NAME, or switch its filter off with `none`"
            )
        names = {meaning: there[wanted[meaning]] for meaning in needs}
        return cls(layout, names, frozenset(m for m, name in names.items() if str(schema[name]) == "Float32"))

    def expressions(self) -> dict[str, pl.Expr]:
        """The columns by meaning."""
        import polars as pl

        return {meaning: pl.col(name) for meaning, name in self.names.items()}

    def kind(self, needs: tuple[str, ...]) -> Any:
        """The polars type in which a rule of these columns is judged."""
        import polars as pl

        return pl.Float32 if self.single.issuperset(needs) else pl.Float64


def _fit(layout: Mapping[str, str], there: Mapping[str, str]) -> tuple[bool, int]:
    """How well a layout fits columns: its address and caption first, then how many of the others are there."""
    held = {meaning for meaning, name in layout.items() if name.lower() in there}
    return {"url", "text"} <= held, len(held)


def _score(meaning: str, says: str, limit: float | None, above: bool) -> Rule | None:
    if limit is None:
        return None
    interval = Interval(low=limit) if above else Interval(high=limit)
    return Rule(meaning, f"{says} {limit:g}", (meaning,), lambda columns: columns[meaning], interval)


def _aspect(limits: tuple[float, float] | None) -> Rule | None:
    if limits is None:
        return None
    says = f"width / height from {limits[0]:g} to {limits[1]:g}"
    return Rule("aspect", says, ("width", "height"), _ratio, Interval(*limits, closed=True), (0.0, 3.0))


def _ratio(columns: Mapping[str, pl.Expr]) -> pl.Expr:
    return _whole(columns["width"]) / _whole(columns["height"])


def _area(limit: float | None) -> Rule | None:
    if limit is None:
        return None
    span = (0.0, max(2.0 * 1024**2, 2 * limit))
    return Rule("area", f"area above {limit:g} pixels", ("width", "height"), _pixels, Interval(low=limit), span)


def _pixels(columns: Mapping[str, pl.Expr]) -> pl.Expr:
    return _whole(columns["width"]) * _whole(columns["height"])


def _whole(side: pl.Expr) -> pl.Expr:
    """A side in pixels, wide enough that a product of two does not run over."""
    import polars as pl

    return side.cast(pl.Float64, strict=False)


def _language(codes: tuple[str, ...]) -> Rule | None:
    if not codes:
        return None
    small = [code.lower() for code in codes]
    says = f"language {' or '.join(codes)}"
    return Rule("language", says, ("language",), lambda columns: columns["language"].str.to_lowercase().is_in(small))


def _caption_length(limits: tuple[int, int] | None) -> Rule | None:
    if limits is None:
        return None
    low, high = limits
    says, interval = f"caption of {low} to {high} characters", Interval(low, high, closed=True)
    span = (0.0, max(200.0, 2.0 * high))
    return Rule(
        "caption length", says, ("text",), lambda c: c["text"].str.strip_chars().str.len_chars(), interval, span
    )


def _domain(blocked: tuple[str, ...]) -> Rule | None:
    if not blocked:
        return None
    names = "|".join(sorted(re.escape(name.lower().strip(".")) for name in blocked))
    there = rf"(?i)^[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?(?:[^/:?#]*\.)?(?:{names})\.?(?:[:/?#]|$)"
    says = f"host not among {len(blocked)} blocked domains"
    return Rule("domain", says, ("url",), lambda columns: ~columns["url"].str.contains(there))
