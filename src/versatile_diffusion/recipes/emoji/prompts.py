"""Fixed prompts for comparing training stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_TABLE = """
animals and plants
a cat | cat; cat face
a dog, 3d render | dog; dog face | fluent-3d
fox, flat vector emoji | fox | fluent-flat
an elephant | elephant
lion | lion
a penguin, cartoon sticker | penguin | streamline
an owl, black line drawing | owl | openmoji-black
a green frog | frog
a whale, noto emoji | whale | noto
octopus, glossy 3d icon | octopus | fluent-3d
a honeybee | honeybee
a snail, colour drawing with black lines | snail | openmoji
a sunflower, emojione emoji | sunflower | emojione
a cactus | cactus
food
a red apple | red apple
a banana, 3d render | banana | fluent-3d
strawberry, flat vector emoji | strawberry | fluent-flat
a slice of pizza | pizza
a hamburger, cartoon sticker | hamburger | streamline
a cup of coffee | hot beverage
doughnut, twitter style emoji | doughnut | twemoji
ice cream, soft shaded emoji | ice cream; soft ice cream | noto
a birthday cake | birthday cake
a carrot, outlined colour icon | carrot | openmoji
faces
smiling face with sunglasses, 3d emoji | smiling face with sunglasses | fluent-3d
a crying face | crying face
an angry face, flat fluent emoji | angry face; enraged face | fluent-flat
a ghost, cartoon sticker | ghost | streamline
skull, solid black icon | skull; skull and crossbones | emojione-monotone
a robot | robot
clown face, noto emoji | clown face | noto
vehicles
a red car | automobile
a bus, flat vector emoji | bus | fluent-flat
bicycle, black line drawing | bicycle | openmoji-black
an airplane, twitter style emoji | airplane | twemoji
a fire engine | fire engine
helicopter, 3d render | helicopter | fluent-3d
weather
a rainbow | rainbow
snowman, 3d render | snowman | fluent-3d
the sun | sun; sun with face
an umbrella with rain drops, noto emoji | umbrella with rain drops; umbrella; closed umbrella | noto
a snowflake, solid black icon | snowflake | emojione-monotone
objects
a red heart | red heart
an old key, high contrast emoji | old key; key | fluent-high-contrast
guitar, glossy 3d icon | guitar | fluent-3d
a light bulb | light bulb
scissors, black line drawing | scissors | openmoji-black
a golden crown, soft shaded emoji | crown | noto
"""


@dataclass(frozen=True)
class FixedPrompt:
    """A prompt and its expected content.

    Args:
        text: the prompt.
        labels: labels of matching concepts, e.g. cat or cat face.
        style: requested style; empty if none.
        group: group of prompts.
    """

    text: str
    labels: Sequence[str]
    style: str
    group: str


def _read(table: str) -> tuple[FixedPrompt, ...]:
    found, group = [], ""
    for line in table.strip().splitlines():
        text, *rest = (part.strip() for part in line.split("|"))
        if not rest:
            group = text
            continue
        labels, style = tuple(label.strip() for label in rest[0].split(";")), "".join(rest[1:])
        found.append(FixedPrompt(text, labels, style, group))
    return tuple(found)


FIXED_PROMPTS = _read(_TABLE)
"""48 prompts in six groups; about half request a style."""
