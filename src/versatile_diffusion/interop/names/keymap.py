"""Name tables between the published checkpoints (2023 layout) and ours. Every table is one-to-one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from versatile_diffusion.printable import shown


@dataclass(frozen=True)
class NameRule:
    """A rule: a published name and ours, with the same placeholders `{i}` (number) and `{leaf}` (rest of the name).

    `pointwise`: published as a 1x1 convolution [out, in, 1, 1], ours is a linear layer [out, in].
    """

    official: str
    ours: str
    pointwise: bool = False

    def to_ours(self, name: str) -> str | None:
        """Convert a published name to ours; None if the rule does not apply."""
        match = _pattern(self.official).fullmatch(name)
        return self.ours.format(**match.groupdict()) if match else None

    def to_official(self, name: str) -> str | None:
        """Convert our name to the published one; None if the rule does not apply."""
        match = _pattern(self.ours).fullmatch(name)
        return self.official.format(**match.groupdict()) if match else None


PLACEHOLDERS = {"{i}": r"(?P<i>\d+)", "{leaf}": r"(?P<leaf>weight|bias)", "{rest}": r"(?P<rest>.+)"}


@cache
def _pattern(template: str) -> re.Pattern[str]:
    text = template.replace(".", r"\.")
    for placeholder, expression in PLACEHOLDERS.items():
        text = text.replace(placeholder, expression)
    return re.compile(text)


def _rows(official: str, ours: str, table: Iterable[tuple[str, str, bool]]) -> tuple[NameRule, ...]:
    return tuple(NameRule(official + left, ours + right, pointwise) for left, right, pointwise in table)


CONV = (
    ("{leaf}", "project.{leaf}", False),
    ("in_layers.0.{leaf}", "norm1.{leaf}", False),
    ("in_layers.2.{leaf}", "conv1.{leaf}", False),
    ("emb_layers.1.{leaf}", "time.{leaf}", False),
    ("out_layers.0.{leaf}", "norm2.{leaf}", False),
    ("out_layers.3.{leaf}", "conv2.{leaf}", False),
    ("skip_connection.{leaf}", "skip.{leaf}", False),
    ("op.{leaf}", "down.{leaf}", False),
    ("conv.{leaf}", "up.{leaf}", False),
    ("0.{leaf}", "norm.{leaf}", False),
    ("2.{leaf}", "out.{leaf}", False),
)
FC = (
    ("{leaf}", "project.{leaf}", False),
    ("in_layers.0.{leaf}", "norm1.{leaf}", False),
    ("in_layers.2.{leaf}", "linear1.{leaf}", True),
    ("emb_layers.1.{leaf}", "time.{leaf}", False),
    ("out_layers.0.{leaf}", "norm2.{leaf}", False),
    ("out_layers.3.{leaf}", "linear2.{leaf}", True),
    ("skip_connection.{leaf}", "skip.{leaf}", True),
    ("0.{leaf}", "norm.{leaf}", False),
    ("2.{leaf}", "out.{leaf}", False),
)
CONTEXT = (
    ("norm.{leaf}", "norm.{leaf}", False),
    ("proj_in.{leaf}", "proj_in.{leaf}", True),
    ("proj_out.{leaf}", "proj_out.{leaf}", True),
    ("transformer_blocks.{rest}", "transformer_blocks.{rest}", False),
)

DIFFUSER: tuple[NameRule, ...] = (
    NameRule("diffuser.image.time_embed.{i}.{leaf}", "time_embed.mlp.{i}.{leaf}"),
    *_rows("diffuser.image.data_blocks.{i}.0.", "data.image.{i}.", CONV),
    *_rows("diffuser.text.data_blocks.{i}.0.", "data.text.{i}.", FC),
    *_rows("diffuser.image.context_blocks.{i}.0.", "context.image.{i}.", CONTEXT),
    *_rows("diffuser.text.context_blocks.{i}.0.", "context.text.{i}.", CONTEXT),
)


def to_ours(state: Mapping[str, Tensor], rules: Iterable[NameRule] = DIFFUSER) -> dict[str, Tensor]:
    """Convert a published state dict to our names and shapes.

    Raises:
        ValueError: an unknown name.
    """
    converted = {}
    for name, tensor in state.items():
        rule, ours = _find(name, ((rule, rule.to_ours(name)) for rule in rules))
        converted[ours] = tensor.flatten(1) if rule.pointwise and tensor.ndim == 4 else tensor
    return converted


def to_official(state: Mapping[str, Tensor], rules: Iterable[NameRule] = DIFFUSER) -> dict[str, Tensor]:
    """Convert our state dict to the published names and shapes.

    Raises:
        ValueError: an unknown name.
    """
    converted = {}
    for name, tensor in state.items():
        rule, official = _find(name, ((rule, rule.to_official(name)) for rule in rules))
        converted[official] = tensor[..., None, None] if rule.pointwise and tensor.ndim == 2 else tensor
    return converted


def find_ours(name: str, rules: Iterable[NameRule]) -> str:
    """Convert a published name to ours.

    Raises:
        ValueError: an unknown name.
    """
    return _find(name, ((rule, rule.to_ours(name)) for rule in rules))[1]


def find_official(name: str, rules: Iterable[NameRule]) -> str:
    """Convert our name to the published one.

    Raises:
        ValueError: an unknown name.
    """
    return _find(name, ((rule, rule.to_official(name)) for rule in rules))[1]


def _find(name: str, candidates: Iterable[tuple[NameRule, str | None]]) -> tuple[NameRule, str]:
    for rule, renamed in candidates:
        if renamed is not None:
            return rule, renamed
    raise ValueError(f"{shown(name)} is not a known checkpoint name")
