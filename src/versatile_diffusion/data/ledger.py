"""What became of every row of metadata: read, kept, or rejected, and why; the counts are checked against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from versatile_diffusion.data.rules import FAILS, LACKS

BASE = 3
"""Outcomes of a rule. A row's outcomes are one number whose digits in this base are those of its rules, in order."""


@dataclass(frozen=True)
class Reason:
    """How many rows one rule rejects.

    Args:
        rejected: in all.
        alone: those that no other rule rejects.
        first: those that no earlier rule rejects.
        missing: rows without a value for it, whether or not they are rejected for that.
    """

    rejected: int = 0
    alone: int = 0
    first: int = 0
    missing: int = 0

    @property
    def among_others(self) -> int:
        """Those that another rule rejects, too."""
        return self.rejected - self.alone

    def to_json(self) -> dict[str, int]:
        return {**vars(self), "among_others": self.among_others}


@dataclass(frozen=True)
class Tally:
    """Rows by what came of the rules for them.

    Args:
        rules: their names, in order.
        missing: whether rows that lack a value are rejected or kept.
        rows: how many rows have each combination of outcomes, see `BASE`.
        duplicates: rows that pass all rules and are rejected since an earlier one is the same.
        histograms: for each rule of a number, rows in equal parts of its span, those beyond it in the outer parts.
    """

    rules: tuple[str, ...]
    missing: str
    rows: Mapping[int, int]
    duplicates: int = 0
    histograms: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def read(self) -> int:
        return sum(self.rows.values())

    @property
    def passed(self) -> int:
        """Rows that all rules let pass."""
        return sum(count for code, count in self.rows.items() if self.lets_pass(code))

    @property
    def kept(self) -> int:
        return self.passed - self.duplicates

    def lets_pass(self, code: int) -> bool:
        """Whether no rule rejects rows of this combination of outcomes."""
        return not any(self._rejects(code))

    def reasons(self) -> dict[str, Reason]:
        """By rule, in order."""
        found = {name: Reason() for name in self.rules}
        for code, count in self.rows.items():
            rejects = self._rejects(code)
            for place, (name, outcome) in enumerate(zip(self.rules, self._outcomes(code), strict=True)):
                old, mine = found[name], rejects[place]
                found[name] = Reason(
                    old.rejected + count * mine,
                    old.alone + count * (mine and sum(rejects) == 1),
                    old.first + count * (mine and not any(rejects[:place])),
                    old.missing + count * (outcome == LACKS),
                )
        return found

    def check(self) -> None:
        """The kept rows, the first reasons and the duplicates are all rows that were read."""
        first = sum(reason.first for reason in self.reasons().values())
        assert self.read == self.kept + first + self.duplicates, (self.read, self.kept, first, self.duplicates)

    def to_json(self) -> dict[str, Any]:
        self.check()
        return {
            "read": self.read,
            "kept": self.kept,
            "duplicates": self.duplicates,
            "reasons": {name: reason.to_json() for name, reason in self.reasons().items()},
            "rules": list(self.rules),
            "missing": self.missing,
            "outcomes": {str(code): count for code, count in sorted(self.rows.items())},
            "histograms": {name: list(counts) for name, counts in self.histograms.items()},
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Tally:
        rows = {int(code): count for code, count in told["outcomes"].items()}
        return cls(tuple(told["rules"]), told["missing"], rows, told["duplicates"], told["histograms"])

    @classmethod
    def total(cls, rules: tuple[str, ...], missing: str, parts: Iterable[Tally]) -> Tally:
        """Of several tables under the same rules."""
        rows: dict[int, int] = {}
        histograms: dict[str, list[int]] = {}
        duplicates = 0
        for part in parts:
            duplicates += part.duplicates
            for code, count in part.rows.items():
                rows[code] = rows.get(code, 0) + count
            for name, counts in part.histograms.items():
                old = histograms.get(name, [0] * len(counts))
                histograms[name] = [a + b for a, b in zip(old, counts, strict=True)]
        return cls(rules, missing, rows, duplicates, histograms)

    def _outcomes(self, code: int) -> list[int]:
        return [code // BASE**place % BASE for place in range(len(self.rules))]

    def _rejects(self, code: int) -> list[bool]:
        """For each rule, whether it rejects rows of this combination."""
        return [o == FAILS or (o == LACKS and self.missing == "reject") for o in self._outcomes(code)]
