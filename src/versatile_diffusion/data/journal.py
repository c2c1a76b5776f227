"""Samples that crash the process that reads them: detected at the next start, and skipped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

STRIKES = 3
"""Number of crashes while a sample was processed alone after which it is skipped. A process killed for other reasons
rarely stops at the same sample that often."""
POISONOUS = "samples that end the process"


class Journal:
    """The samples being processed, in a file that outlives the process. A process that ends for other reasons, such as
    a lost machine, stops at the same sample twice only by chance.

    Args:
        file: path of the journal; None disables it.
    """

    def __init__(self, file: Path | None):
        self.file = file
        self.strikes: Counter[str] = Counter()
        self.suspects: set[str] = set()
        if file is not None and file.is_file():
            self._read(file)

    def _read(self, file: Path) -> None:
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            keys, self.strikes = list(told["at"]), Counter(told["strikes"])
            self.suspects = set(told["suspects"])
        except (ValueError, KeyError, TypeError):  # interrupted while it was written
            return
        if keys:
            self.strikes["\n".join(keys)] += 1
        self.suspects |= set(keys)

    def poisonous(self, key: str) -> bool:
        """Whether to skip a sample."""
        return self.strikes[key] >= STRIKES

    def too_much(self, keys: Sequence[str]) -> bool:
        """Whether these samples crash the process as a batch."""
        return self.strikes["\n".join(keys)] >= STRIKES

    @contextmanager
    def at(self, keys: Sequence[str]) -> Iterator[None]:
        """Record these samples as in progress while the block runs."""
        self._write(keys)
        yield
        self._write(())

    def _write(self, keys: Sequence[str]) -> None:
        if self.file is None:
            return
        told = {"at": list(keys), "strikes": self.strikes, "suspects": sorted(self.suspects)}
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(told), encoding="utf-8")  # no fsync: it need not survive a machine crash
        draft.replace(self.file)

    def end(self) -> None:
        """Delete the journal after a complete run."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
