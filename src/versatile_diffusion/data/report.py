"""The report of reading a data set: error handling per sample, and the error budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import OutOfMemoryError

from versatile_diffusion.data.archives import DAMAGED
from versatile_diffusion.data.captions import FIELDS, NO_CAPTION
from versatile_diffusion.data.listing import in_words
from versatile_diffusion.data.tables import FILE_NAMES, NO_PICTURE
from versatile_diffusion.plain_text import UNKNOWN, UnusableError

HINTS = {
    NO_PICTURE: f"an image is a file next to its caption, or named in a field ({', '.join(FILE_NAMES)}), "
    "or in a column `image`",
    NO_CAPTION: f"captions are lines of a .txt with the image's name, or in a field ({', '.join(FIELDS)})",
    UNKNOWN: "set the encoding of the captions with --encoding (such as cp1252), or convert them to UTF-8: "
    "iconv -f cp1252 -t UTF-8",
}
"""Hints by what a sample lacks."""
BAD_SAMPLE = "samples that cannot be read"
MOST_EXAMPLES = 20


@dataclass
class Report:
    """Counts of samples read and skipped, with reasons; too many bad samples stop the reading.

    Args:
        allowed: share of samples, and of shards, that may be bad; one bad shard and `few` bad samples are always
            accepted.
        captions: repairs to captions of good samples.
        left_out: files that are not samples, summarised by reason.
        examples: the first bad samples, with the error.
    """

    allowed: float = 0.05
    few: int = 10
    good: int = 0
    shards: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    bad_shards: Counter[str] = field(default_factory=Counter)
    last: str = ""
    captions: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.allowed <= 1:
            raise ValueError(f"the allowed share of bad samples is {self.allowed}; it must be from 0 to 1")
        self.bad, self.bad_shards, self.captions = map(Counter, (self.bad, self.bad_shards, self.captions))

    @contextmanager
    def guard(self, where: str) -> Iterator[None]:
        """Count errors of a sample so that reading continues with the next one. Errors that end a whole shard, or that
        are not caused by the sample, are raised.

        Raises:
            ValueError: too many samples are bad.
        """
        try:
            yield
        except (*DAMAGED, OutOfMemoryError):
            raise
        except Exception as error:
            kind = error.kind if isinstance(error, UnusableError) else BAD_SAMPLE
            detail = " ".join(str(error).split()) or type(error).__name__
            self.skip(kind, where if detail == kind else f"{where}: {detail}")

    def skip(self, why: str, where: str) -> None:
        """Count a bad sample.

        Raises:
            ValueError: too many samples are bad.
        """
        self.bad[why] += 1
        self.last = where
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(f"{why}: {where}")
        bad = self.bad.total()
        if bad > max(self.few, self.allowed * (bad + self.good)):
            raise ValueError(f"too many bad samples ({self.allowed:.0%} allowed): {self}{self.hint}")

    def skip_shard(self, why: str, where: str) -> None:
        """Count a shard that could not be read to its end.

        Raises:
            ValueError: too many shards are bad.
        """
        self.bad_shards[why] += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(f"{why}: {where}")
        if (bad := self.bad_shards.total()) > max(1, self.allowed * self.shards):
            raise ValueError(f"{bad} of {self.shards} shards are bad; the last is {where} ({why})")

    @property
    def hint(self) -> str:
        """The last bad sample, and a hint for the most common error; the end of an error message."""
        last = f"; the last is {self.last}" if self.last else ""
        most = [HINTS[why] for why, _ in self.bad.most_common(1) if why in HINTS]
        return "; ".join([last, *most])

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), **{name: dict(vars(self)[name]) for name in ("bad", "bad_shards", "captions")}}

    def __str__(self) -> str:
        bad = [f"{count} {why}" for why, count in (self.bad + self.bad_shards).most_common()]
        done = [f"{count} {what}" for what, count in self.captions.most_common()]
        left_out = [f"ignored: {in_words(self.left_out)}"] if self.left_out else []
        return ", ".join([f"{self.good} read", *bad, *done, *left_out])
