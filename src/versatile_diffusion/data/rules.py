"""Filters for image-text metadata: column layouts of published data sets, and the filters of the paper.

Everything that touches rows is a polars expression, so one machine, a cluster and a single shard run the same filter.
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
"""Possible meanings of a column."""

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
"""Columns of published data sets by meaning; `img2dataset`: the JSON that this tool writes for each image."""

MISSING = ("reject", "keep")
PASSES, FAILS, LACKS = 0, 1, 2
"""Outcome of a rule for a row: the value passes, fails, or is missing (null or NaN)."""

PAPER_AREA = 256**2 * 0.75


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, including the ends if `closed`."""

    low: float = -math.inf
    high: float = math.inf
    closed: bool = False

    @property
    def ends(self) -> tuple[float, ...]:
        return tuple(end for end in (self.low, self.high) if math.isfinite(end))

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high if self.closed else self.low < value < self.high

    def holds(self, value: pl.Expr, kind: Any) -> pl.Expr:
        """Expression that tests whether a value is in the interval. The ends are cast to the type of the column: in
        float32, 0.3 is slightly more than 0.3."""
        import polars as pl

        low, high = (pl.lit(end, dtype=kind) for end in (self.low, self.high))
        return (value >= low) & (value <= high) if self.closed else (value > low) & (value < high)


@dataclass(frozen=True)
class Rule:
    """One filter.

    Args:
        name: in the ledger and on its page.
        says: description of what it keeps.
        needs: the meanings of the columns that it reads.
        value: from columns by meaning to the number to compare, or, without an `interval`, whether the row passes.
        interval: the numbers that pass.
        span: range of the histogram.
    """

    name: str
    says: str
    needs: tuple[str, ...]
    value: Callable[[Mapping[str, pl.Expr]], pl.Expr]
    interval: Interval | None = None
    span: tuple[float, float] = (0.0, 1.0)

    def passes(self, columns: Columns) -> pl.Expr:
        """True, False, or null for a missing value."""
        if self.interval is None:
            return self.value(columns.expressions())
        return self.interval.holds(self.number(columns), columns.kind(self.needs))

    def number(self, columns: Columns) -> pl.Expr:
        """The number that is compared; null if it is missing, NaN or not a number."""
        kind = columns.kind(self.needs)
        return self.value(columns.expressions()).cast(kind, strict=False).fill_nan(None)

    def outcome(self, columns: Columns) -> pl.Expr:
        """`PASSES`, `FAILS` or `LACKS`."""
        import polars as pl

        failed = (~self.passes(columns)).cast(pl.UInt8)  # 0, 1 or null
        return failed.fill_null(pl.lit(LACKS, dtype=pl.UInt8))


@dataclass(frozen=True)
class Selection:
    """Which rows to keep. The defaults are the paper's (section 4.1); None or an empty tuple disables a filter.

    Args:
        min_similarity: lower bound of the CLIP similarity of image and text, exclusive.
        max_unsafe: upper bound of the probability of unsafe content (NSFW), exclusive.
        max_watermark: upper bound of the probability of a watermark, exclusive.
        aspect: range of width / height, inclusive.
        min_area: lower bound of width * height in pixels, exclusive.
        languages: accepted language codes.
        caption_length: range of the caption's length in characters, inclusive.
        blocked_domains: hosts to exclude, with their subdomains.
        unique: `"hash"` or `"url"`: keep only the first row of each value.
        missing: policy for rows without a value that a filter needs: `"reject"` or `"keep"`.

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
                raise ValueError(f"{name} is {given}; it must be a finite number, or None to disable the filter")
        for name in ("aspect", "caption_length"):
            given = getattr(self, name)
            if given is not None and not (math.isfinite(given[1]) and 0 <= given[0] <= given[1]):
                raise ValueError(f"{name} is {given[0]:g} to {given[1]:g}; it must be an ascending range from 0 up")
        if self.missing not in MISSING:
            raise ValueError(unknown("policy for missing values", self.missing, MISSING))
        if self.unique not in (None, "hash", "url"):
            raise ValueError(unknown("column to be unique in", self.unique, ("hash", "url")))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The enabled filters, in the order that decides the first reason in the ledger."""
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
        """The meanings of all columns that are read, including URL and caption."""
        unique = (self.unique,) if self.unique else ()
        return tuple(dict.fromkeys(("url", "text", *(n for rule in self.rules for n in rule.needs), *unique)))


@dataclass(frozen=True)
class Columns:
    """The columns that a selection needs.

    Args:
        layout: its name.
        names: columns by meaning.
        single: the meanings whose columns are float32.
    """

    layout: str
    names: Mapping[str, str]
    single: frozenset[str] = frozenset()

    @classmethod
    def find(
        cls, schema: Mapping[str, Any], needs: Sequence[str], layout: str | None, given: Mapping[str, str], where: str
    ) -> Columns:
        """Find the columns in a table, case-insensitively.

        Args:
            schema: its columns and their polars types.
            needs: required meanings.
            layout: a key of `LAYOUTS`; default: the best match.
            given: columns by meaning that override the layout's.
            where: the table's name, for error messages.

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
                f"{where} has no column for {', '.join(lost)} (layout {layout}); its columns are {', '.join(schema)}; "
                f"name one with --column {lost[0]}=NAME, or disable its filter with `none`"
            )
        names = {meaning: there[wanted[meaning]] for meaning in needs}
        return cls(layout, names, frozenset(m for m, name in names.items() if str(schema[name]) == "Float32"))

    def expressions(self) -> dict[str, pl.Expr]:
        """The columns by meaning."""
        import polars as pl

        return {meaning: pl.col(name) for meaning, name in self.names.items()}

    def kind(self, needs: tuple[str, ...]) -> Any:
        """The polars type in which a rule compares these columns."""
        import polars as pl

        return pl.Float32 if self.single.issuperset(needs) else pl.Float64


def _fit(layout: Mapping[str, str], there: Mapping[str, str]) -> tuple[bool, int]:
    """Score of a layout for given columns: URL and caption first, then the number of matching columns."""
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
    """A side in pixels, as float64, so that the product of two does not overflow."""
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
