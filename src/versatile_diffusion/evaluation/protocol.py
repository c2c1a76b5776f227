"""What is measured and how, so that two numbers can be compared, or are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from versatile_diffusion.data.emoji.split import SPLITS
from versatile_diffusion.sampling.schedulers import SCHEDULERS

OWN = "own"
"""In place of a name: the encoders of the model that is measured."""
DATA = "data"
"""Under this name the hash of the data set stands among those of the networks."""
NOT_RECORDED = "not recorded (by an older release)"
PLACES = ("name", "judge", "encoders", "features")
"""Fields that say where something lies; what lies there is told by its hash."""


@dataclass(frozen=True)
class Protocol:
    """A way of measuring.

    Args:
        name: for people.
        splits: parts of the data set that items are taken from.
        count: items of each split, spread evenly over it.
        seed: the first; the outputs of an item have the next `seeds` ones.
        seeds: outputs of each item.
        steps, scheduler: of sampling.
        guidance_scale: for every task; None leaves each model its own.
        candidates: so many are made for each output, and the one that the model's own encoders find to agree best with
            what it was given is kept. (Independent of the judge; not of `encoders` where these are the model's own.)
        temperature: of decoding texts; 0 takes the likeliest token.
        side: of the pictures in pixels; those of another size are fitted onto it before anything measures them.
        judge: folder of a `PictureJudge`; empty for none.
        encoders: whose text and image encoders measure agreement: `OWN`, a model, or a CLIP folder.
        features: networks for the distances between sets of pictures: `"judge"`, `"encoders"`, or a file, a folder
            or the name of a model.
        hashes: by role, those of the networks' weights, and of the data set under `DATA`; filled in when they are
            loaded, and checked where given: one of those must not be missing.
        resamples: of the bootstrap.

    Raises:
        ValueError: a value is not allowed; the message says what is.
    """

    name: str
    splits: Sequence[str] = ("pair-test", "concept-test")
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
        for name, allowed in (("splits", SPLITS), ("scheduler", SCHEDULERS)):
            given = getattr(self, name)
            for one in (given,) if isinstance(given, str) else given:
                if one not in allowed:
                    raise ValueError(f"protocol {self.name}: {name} has {one!r}; allowed: {', '.join(allowed)}")
        for name in ("count", "seeds", "steps", "candidates", "side", "resamples"):
            if not isinstance(number := getattr(self, name), int) or number < 1:
                raise ValueError(f"protocol {self.name}: {name} is {number!r}; it must be a whole number from 1 up")

    @classmethod
    def read(cls, name: str) -> Protocol:
        """A protocol by its name, or from a JSON file.

        Raises:
            ValueError: there is none, or the file has fields that a protocol has not.
        """
        if name in PROTOCOLS:
            return PROTOCOLS[name]
        if not Path(name).is_file():
            raise ValueError(f"no protocol {name!r}; give a JSON file, or one of: {', '.join(PROTOCOLS)}")
        try:
            return cls.of(json.loads(Path(name).read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is no JSON file: {error}") from error

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Protocol:
        """A protocol from plain JSON values."""
        known = [f.name for f in fields(cls)]
        if strange := set(values) - set(known):
            raise ValueError(f"a protocol has no {', '.join(sorted(strange))}; its fields are {', '.join(known)}")
        return cls(**values)

    def plain(self) -> dict[str, Any]:
        """Plain JSON values; `of` takes them."""
        return asdict(self) | {"splits": list(self.splits), "features": list(self.features)}

    def check(self, hashes: Mapping[str, str]) -> None:
        """Whether networks, or the data set, are those that it was written for.

        Raises:
            ValueError: one has another hash.
        """
        for role, found in hashes.items():
            if (wanted := self.hashes.get(role, found)) != found:
                kind = "data set" if role == DATA else f"{role} network"
                raise ValueError(
                    f"protocol {self.name} was written for a {kind} with hash {wanted}; this one has {found}"
                )

    def with_hashes(self, hashes: Mapping[str, str]) -> Protocol:
        """This protocol with all the networks and the data set that were found.

        Raises:
            ValueError: it was written for other ones, or for one more.
        """
        self.check(hashes)
        if missing := [role for role in self.hashes if role not in hashes]:
            raise ValueError(
                f"protocol {self.name} has the hash of {', '.join(missing)}, but there is only {', '.join(hashes)}: "
                "name what is missing (--judge, --encoders, --features), or take its hash out of the protocol"
            )
        return replace(self, hashes=dict(hashes))

    def differences(self, other: Protocol, but: Sequence[str] = ()) -> list[str]:
        """What two protocols do not share, as `field: mine, other`; names and places do not count, hashes do. One
        without the data set's hash, as older releases wrote it, differs from all that have it."""
        mine, theirs = self._told(), other._told()
        names = [name for name in dict.fromkeys((*mine, *theirs)) if name.split()[0] not in (*PLACES, *but)]
        pairs = [(name, mine.get(name, "none"), theirs.get(name, "none")) for name in names]
        return [f"{name}: {one}, {two}" for name, one, two in pairs if one != two]

    def _told(self) -> dict[str, Any]:
        """Fields by name, and each hash apart."""
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
"""`quick`: minutes on two CPU cores. `full`: every held-out item. `varied`: four outputs an item."""
