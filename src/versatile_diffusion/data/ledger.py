"""The ledger of a selection: rows read, kept and rejected, by reason. The counts are checked against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from versatile_diffusion.data.rules import FAILS, LACKS

BASE = 3
"""Number of outcomes of a rule. The outcomes of a row are encoded as one number with a digit per rule in this base."""


@dataclass(frozen=True)
class Reason:
    """Number of rows that one rule rejects.

    Args:
        rejected: total.
        alone: rejected by no other rule.
        first: rejected by no earlier rule.
        missing: rows without a value for it, rejected or not.
    """

    rejected: int = 0
    alone: int = 0
    first: int = 0
    missing: int = 0

    @property
    def among_others(self) -> int:
        """Rejected by another rule as well."""
        return self.rejected - self.alone

    def to_json(self) -> dict[str, int]:
        return {**vars(self), "among_others": self.among_others}


@dataclass(frozen=True)
class Tally:
    """Number of rows by outcome.

    Args:
        rules: names of the rules, in order.
        missing: whether rows with a missing value are rejected or kept.
        rows: number of rows by combination of outcomes, see `BASE`.
        duplicates: rows that pass all rules but repeat an earlier row.
        histograms: for each numeric rule, number of rows per bin; values outside its span are in the outer bins.
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
        """Rows that pass all rules."""
        return sum(count for code, count in self.rows.items() if self.lets_pass(code))

    @property
    def kept(self) -> int:
        return self.passed - self.duplicates

    def lets_pass(self, code: int) -> bool:
        """Whether rows with this combination of outcomes pass."""
        return not any(self._rejects(code))

    @cached_property
    def reasons(self) -> dict[str, Reason]:
        """Rejections by rule, in order."""
        found = {name: Reason() for name in self.rules}
        for code, count in self.rows.items():
            rejects = self._rejects(code)
            for place, (name, outcome) in enumerate(zip(self.rules, _outcomes(code, len(self.rules)), strict=True)):
                old, mine = found[name], rejects[place]
                found[name] = Reason(
                    old.rejected + count * mine,
                    old.alone + count * (mine and sum(rejects) == 1),
                    old.first + count * (mine and not any(rejects[:place])),
                    old.missing + count * (outcome == LACKS),
                )
        return found

    def check(self) -> None:
        """Check that kept rows, first reasons and duplicates add up to the rows read."""
        first = sum(reason.first for reason in self.reasons.values())
        assert self.read == self.kept + first + self.duplicates, (self.read, self.kept, first, self.duplicates)

    def to_json(self) -> dict[str, Any]:
        self.check()
        return {
            "read": self.read,
            "kept": self.kept,
            "duplicates": self.duplicates,
            "reasons": {name: reason.to_json() for name, reason in self.reasons.items()},
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
        """Sum the tallies of several tables under the same rules."""
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

    def _rejects(self, code: int) -> tuple[bool, ...]:
        """For each rule, whether it rejects rows with this combination."""
        return _rejections(code, len(self.rules), self.missing == "reject")


@cache
def _outcomes(code: int, rules: int) -> tuple[int, ...]:
    """Return the outcome of each rule in a combination of outcomes, see `BASE`."""
    return tuple(code // BASE**place % BASE for place in range(rules))


@cache
def _rejections(code: int, rules: int, missing: bool) -> tuple[bool, ...]:
    return tuple(outcome == FAILS or (outcome == LACKS and missing) for outcome in _outcomes(code, rules))
