"""Samples that end the process which reads them: found on the next start, and passed over."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

STRIKES = 3
"""How often a sample must have been the only one at hand when the process ended, before it is passed over: a process
that was killed for other reasons hardly ever strikes the same one so often."""
POISONOUS = "samples that end the process"


class Journal:
    """What is being worked on at the moment, in a file that outlives the process. One that ends for other reasons, such
    as a lost machine, does not strike the same sample twice but by chance.

    Args:
        file: where; None keeps nothing.
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
        except (ValueError, KeyError, TypeError):  # it was being written just then
            return
        if keys:
            self.strikes["\n".join(keys)] += 1
        self.suspects |= set(keys)

    def poisonous(self, key: str) -> bool:
        """Whether a sample is to be passed over."""
        return self.strikes[key] >= STRIKES

    def too_much(self, keys: Sequence[str]) -> bool:
        """Whether some samples end the process together."""
        return self.strikes["\n".join(keys)] >= STRIKES

    @contextmanager
    def at(self, keys: Sequence[str]) -> Iterator[None]:
        """Notes that these samples are worked on while the block runs."""
        self._write(keys)
        yield
        self._write(())

    def _write(self, keys: Sequence[str]) -> None:
        if self.file is None:
            return
        told = {"at": list(keys), "strikes": self.strikes, "suspects": sorted(self.suspects)}
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(told), encoding="utf-8")  # no sync: it need not outlive the machine
        draft.replace(self.file)

    def end(self) -> None:
        """All is done."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
