"""Evaluation protocols: which results are comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from versatile_diffusion.numeric import number, settle
from versatile_diffusion.pipeline.models import is_here
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import read_json, reading
from versatile_diffusion.sampling.schedulers import SCHEDULERS

OWN = "own"
"""Encoders of the evaluated model itself."""
DATA = "data"
"""Key of the data set's hash among those of the networks."""
NOT_RECORDED = "not recorded (by an older release)"
PLACES = ("name", "judge", "encoders", "features")
"""Fields with paths; their content is identified by hash."""


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol.

    Args:
        name: name of the protocol.
        splits: data set splits; default: those of the data set.
        count: items per split, evenly spaced.
        seed: first seed; the outputs of an item use the next `seeds` ones.
        seeds: outputs per item.
        steps, scheduler: sampling steps and sampler.
        guidance_scale: guidance scale for all tasks; None uses the model's.
        candidates: candidates per output; the best match by the model's own encoders is kept. (Independent of the
            judge, but not of `encoders` if these are the model's own.)
        temperature: sampling temperature of texts; 0 is greedy.
        side: image side in pixels; images of other sizes are fitted to it before all metrics.
        judge: folder of a `PictureJudge`; empty for none.
        encoders: encoders for similarity: `OWN`, a model, or a CLIP folder.
        features: feature networks for set distances: `"judge"`, `"encoders"`, a file, a folder or a model.
        hashes: hashes of the networks by role, and of the data set under `DATA`; recorded on loading, and checked if
            given: none may be missing.
        resamples: bootstrap resamples.

    Raises:
        ValueError: an invalid value; the message says what is allowed.
    """

    name: str
    splits: Sequence[str] = ()
    count: int = 192
    seed: int = 0
    seeds: int = 1
    steps: int = 20
    scheduler: str = "ddim"
    guidance_scale: float | None = None
    candidates: int = 1
    temperature: float = 0.0
    side: int = 64
    judge: str = ""
    encoders: str = OWN
    features: Sequence[str] = ("judge", "encoders")
    hashes: Mapping[str, str] = field(default_factory=dict, hash=False)
    resamples: int = 500

    def __post_init__(self) -> None:
        for name in ("splits", "features"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.scheduler not in SCHEDULERS:
            allowed = ", ".join(SCHEDULERS)
            raise ValueError(f"protocol {self.name}: scheduler has {shown(self.scheduler)}; allowed: {allowed}")
        names = (self.name, *self.splits, self.judge, self.encoders, *self.features)
        if odd := [name for name in names if not isinstance(name, str)]:
            raise ValueError(f"protocol {self.name}: {shown(odd[0])} is not a name")
        for name in ("count", "seeds", "steps", "candidates", "side", "resamples"):
            settle(self, **{name: number(f"protocol {self.name}: {name}", getattr(self, name), 1, whole=True)})
        settle(self, seed=number(f"protocol {self.name}: seed", self.seed, whole=True))
        for name in ("guidance_scale", "temperature"):
            if (given := getattr(self, name)) is not None:
                settle(self, **{name: number(f"protocol {self.name}: {name}", given)})

    @classmethod
    def read(cls, name: str) -> Protocol:
        """Return a protocol by name, or read it from a JSON file.

        Raises:
            ValueError: an unknown name, or unknown fields in the file.
        """
        if name in PROTOCOLS:
            return PROTOCOLS[name]
        if not Path(name).is_file():
            raise ValueError(f"no protocol {shown(name)}; give a JSON file, or one of: {', '.join(PROTOCOLS)}")
        with reading(name, "a protocol"):
            return cls.of(read_json(name))

    def check_here(self, named: Sequence[str]) -> None:
        """Raise ValueError for a network that is not local and not `named` by the user: a file must not trigger
        downloads."""
        for name in (self.judge, self.encoders, *self.features):
            if name not in ("", OWN, "judge", "encoders", *named) and not is_here(name):
                raise ValueError(
                    f"protocol {self.name} uses the network {shown(name)}, which is neither installed nor a local "
                    f"folder; to download it, name it explicitly (--judge, --encoders, --features)"
                )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Protocol:
        """Build a protocol from plain JSON values."""
        known = [f.name for f in fields(cls)]
        if strange := set(values) - set(known):
            raise ValueError(f"a protocol has no {', '.join(sorted(strange))}; its fields are {', '.join(known)}")
        return cls(**values)

    def plain(self) -> dict[str, Any]:
        """Return plain JSON values for `of`."""
        return asdict(self) | {"splits": list(self.splits), "features": list(self.features)}

    def on(self, splits: Sequence[str], parts: Sequence[str]) -> Protocol:
        """Return this protocol for a data set.

        Args:
            splits: default splits of the data set.
            parts: all splits of the data set.

        Raises:
            ValueError: a split is missing.
        """
        for split in self.splits:
            if split not in parts:
                raise ValueError(
                    f"protocol {self.name}: the data set has no split {shown(split)}; it has: {', '.join(parts)}"
                )
        return self if self.splits else replace(self, splits=tuple(splits))

    def check(self, hashes: Mapping[str, str]) -> None:
        """Check the hashes of networks and data set.

        Raises:
            ValueError: a different hash.
        """
        for role, found in hashes.items():
            if (wanted := self.hashes.get(role, found)) != found:
                kind = "data set" if role == DATA else f"{role} network"
                raise ValueError(
                    f"protocol {self.name} was written for a {kind} with hash {wanted}; this one has {found}"
                )

    def with_hashes(self, hashes: Mapping[str, str]) -> Protocol:
        """Return this protocol with the hashes of the loaded networks and data set.

        Raises:
            ValueError: different or missing hashes.
        """
        self.check(hashes)
        if missing := [role for role in self.hashes if role not in hashes]:
            raise ValueError(
                f"protocol {self.name} has the hash of {', '.join(missing)}, but only {', '.join(hashes)} are given: "
                "add what is missing (--judge, --encoders, --features), or remove its hash from the protocol"
            )
        return replace(self, hashes=dict(hashes))

    def differences(self, other: Protocol, but: Sequence[str] = ()) -> list[str]:
        """List the differences of two protocols as `field: mine, other`; names and paths are ignored, hashes are not.
        A protocol without data set hash (from older releases) differs from those with one."""
        mine, theirs = self._named_fields(), other._named_fields()
        names = [name for name in dict.fromkeys((*mine, *theirs)) if name.split()[0] not in (*PLACES, *but)]
        pairs = [(name, mine.get(name, "none"), theirs.get(name, "none")) for name in names]
        return [f"{name}: {one}, {two}" for name, one, two in pairs if one != two]

    def _named_fields(self) -> dict[str, Any]:
        """Return the fields by name, each hash separately."""
        told = self.plain()
        hashes = {DATA: NOT_RECORDED} | told.pop("hashes")
        return told | {f"hashes of {role}": found for role, found in hashes.items()}


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("quick"),
        Protocol("full", count=10_000, steps=50, resamples=1000),
        Protocol("varied", splits=("pair-test",), seeds=4),
    )
}
"""`quick`: minutes on two CPU cores. `full`: every held-out item. `varied`: four outputs per item."""
