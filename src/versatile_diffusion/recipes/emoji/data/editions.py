"""Editions: the concepts of a set, and why others are omitted.

The first edition has all 1,652 concepts. The second has those that are recognisable at 64 pixels and drawn in many
styles: fewer concepts are learned faster (docs/log.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from versatile_diffusion.recipes.emoji.data.concepts import Concept

EDITIONS = (1, 2)
LATEST = EDITIONS[-1]
MIN_STYLES = 10

_HANDS_AND_BODY = frozenset(
    {"fingers open", "hand signs", "finger pointing", "fingers closed", "hands", "hand props", "body parts"}
)
_CLOCK = re.compile(r"o'clock$|-thirty$")

# Recognisable only by writing or a sign on them.
_WRITING = """
hundred points; ZZZ; Japanese post office; post office; bank; hotel; love hotel; convenience store; department store
yen banknote; euro banknote; pound banknote; chart increasing with yen; e-mail; mahjong red dragon; flower playing cards
2nd place medal; 3rd place medal; dvd; computer disk; foggy; fog; hole; middle finger
"""

# Rarely requested, or hard to recognise at this size.
_OBSCURE = """
ogre; goblin; anger symbol; dashing away; sweat droplets; vulcan salute; selfie; writing hand; chestnut; amphora
herb; rice cracker; curry rice; roasted sweet potato; oden; fish cake with swirl; dango; sake; custard; shaved ice
pot of food; bento box; meat on bone; map of Japan; mount fuji; camping; desert; national park; stadium
building construction; derelict house; wedding; Tokyo tower; Japanese castle; shinto shrine; kaaba; houses
hot springs; barber pole; motorway; railway track; oil drum; seat; mountain cableway; bridge at night; bus stop
construction; police car light; milky way; cyclone; wind face; umbrella on ground; cloud with lightning and rain
stopwatch; confetti ball; tanabata tree; pine decoration; Japanese dolls; carp streamer; wind chime
moon viewing ceremony; reminder ribbon; military medal; 1st place medal; martial arts uniform; goal net
cricket game; field hockey; ice hockey; ping pong; joker; slot machine; performing arts; prayer beads
woman's clothes; shopping bags; rescue worker's helmet; postal horn; bell with slash; level slider; control knobs
pager; fax machine; trackball; telephone receiver; film frames; film projector; videocassette; suspension railway
aerial tramway; admission tickets; page facing up; bookmark tabs; inbox tray; card index dividers; open file folder
file cabinet; page with curl; bookmark; label; outbox tray; ballot box with ballot; file folder; spiral notepad
card file box; clamp; chains; link; alembic; satellite antenna; couch and lamp; coffin; funeral urn; moai
triangular ruler; optical disk; money with wings; credit card; studio microphone; baby bottle; rugby football
ticket; balance scale; cricket
"""

# Kept concept: concepts that differ from it only in details lost at 64 pixels.
_ALIKE = """
grinning face: grinning face with big eyes; grinning face with smiling eyes; beaming face with smiling eyes
grinning face: grinning squinting face; grinning face with sweat
smiling face: slightly smiling face; smiling face with smiling eyes; smiling face with open hands; relieved face
kissing face: kissing face with closed eyes; kissing face with smiling eyes
face with tongue: face savoring food; winking face with tongue; squinting face with tongue; drooling face
neutral face: expressionless face; smirking face; unamused face; pensive face; sleepy face
nauseated face: sneezing face
frowning face: slightly frowning face; worried face; confused face; disappointed face; persevering face
frowning face: frowning face with open mouth; anguished face; downcast face with sweat
face with open mouth: hushed face; astonished face; fearful face; anxious face with sweat
crying face: sad but relieved face
weary face: confounded face; tired face
smiling face with horns: angry face with horns
grinning cat: grinning cat with smiling eyes; cat with tears of joy; cat with wry smile; kissing cat; weary cat
grinning cat: pouting cat
sparkling heart: growing heart; beating heart; revolving hearts; two hearts; heart decoration; heart exclamation
red heart: heart suit
speech balloon: eye in speech bubble; left speech bubble; right anger bubble
raised hand: raised back of hand; hand with fingers splayed
backhand index pointing up: backhand index pointing left; backhand index pointing right; backhand index pointing down
backhand index pointing up: index pointing up
raised fist: oncoming fist; left-facing fist; right-facing fist
raising hands: open hands
camel: two-hump camel
cow: ox
mouse: rat
baby chick: front-facing baby chick
whale: spouting whale
blossom: white flower; rosette
four leaf clover: shamrock
fallen leaf: leaf fluttering in wind
burrito: stuffed flatbread
cooking: shallow pan of food
globe showing Europe-Africa: globe showing Americas; globe showing Asia-Australia
snow-capped mountain: mountain
house: house with garden
church: synagogue
cityscape: cityscape at dusk
train: railway car; high-speed train; light rail; station; monorail; mountain railway; metro
tram: tram car; trolleybus
bus: oncoming bus; minibus
police car: oncoming police car
taxi: oncoming taxi
automobile: oncoming automobile; sport utility vehicle
delivery truck: articulated lorry
vertical traffic light: horizontal traffic light
ship: passenger ship; ferry; motor boat
airplane: small airplane; airplane departure; airplane arrival
hourglass done: hourglass not done
alarm clock: timer clock
first quarter moon: waxing crescent moon; waxing gibbous moon; waning gibbous moon; last quarter moon
full moon: new moon
crescent moon: waning crescent moon; first quarter moon face; last quarter moon face
full moon face: new moon face
star: glowing star
sun behind cloud: sun behind small cloud; sun behind large cloud
snowman: snowman without snow
fireworks: sparkler
purse: clutch bag
speaker high volume: muted speaker; speaker low volume; speaker medium volume
musical note: musical notes
mobile phone: mobile phone with arrow
camera: camera with flash
magnifying glass tilted left: magnifying glass tilted right
closed book: orange book; notebook; ledger; notebook with decorative cover
newspaper: rolled-up newspaper
envelope: incoming envelope; envelope with arrow
closed mailbox with raised flag: closed mailbox with lowered flag; open mailbox with raised flag
closed mailbox with raised flag: open mailbox with lowered flag
fountain pen: pen; black nib
calendar: tear-off calendar; spiral calendar; card index
pushpin: round pushpin
paperclip: linked paperclips
locked: locked with pen; locked with key
pick: hammer and pick
"""


def _names(text: str) -> frozenset[str]:
    """Parse the names of a table; of a line with a colon only those after it."""
    rows = (line.rpartition(":")[2].split(";") for line in text.splitlines())
    return frozenset(name.strip() for row in rows for name in row if name.strip())


WRITTEN, OBSCURE, ALIKE = _names(_WRITING), _names(_OBSCURE), _names(_ALIKE)

_LETTERED = """
ambulance; backhand index pointing up; bus stop; calendar; 1st place medal; clapper board; computer mouse; credit card
crescent moon; dollar banknote; first quarter moon; fire engine; game die; guitar; hospital; keyboard; label; memo
magnifying glass tilted left; military medal; money bag; money with wings; musical keyboard; musical note
musical score; newspaper; police car; pool 8 ball; radio; school; slot machine; stop sign; taxi; telephone; ticket
tear-off calendar; violin; watch; alarm clock; mantelpiece clock; stopwatch; map of Japan; world map
globe showing Europe-Africa; keyboard; thermometer; scroll; admission tickets; chart increasing; chart decreasing
bar chart; joker; video game; fuel pump; baggage claim; globe with meridians; straight ruler; hot pepper; pager
fax machine; mobile phone; printer; construction; movie camera; speech balloon; cigarette; vertical traffic light
"""
_SIDED = re.compile(r"\b(left|right|clockwise|counterclockwise|up|down)\b|^keycap|button|o'clock|-thirty")


LETTERED = _names(_LETTERED)
"""Labels of kept concepts that must not be mirrored: writing, digits, maps, moon phases."""


def may_mirror(label: str, group: str) -> bool:
    """Return whether a mirrored drawing still shows the concept."""
    return group not in ("symbols", "flags") and label not in LETTERED | WRITTEN and not _SIDED.search(label)


Test = Callable[[Concept, bool], bool]

REASONS: Mapping[str, Test] = {
    "letters, signs, symbols and flags": lambda concept, _: concept.group in ("symbols", "flags"),
    "clock faces": lambda concept, _: _CLOCK.search(concept.label) is not None,
    "variants of people": lambda concept, _: concept.group == "people-body" and concept.subgroup not in _HANDS_AND_BODY,
    f"drawn in fewer than {MIN_STYLES} styles": lambda _, enough: not enough,
    "told by writing or too little to see": lambda concept, _: concept.label in WRITTEN,
    "seldom asked for or hard to name": lambda concept, _: concept.label in OBSCURE,
    "like another one at 64 pixels": lambda concept, _: concept.label in ALIKE,
}
"""Reasons why the second edition omits a concept; the first that applies is counted."""


def check_edition(edition: int) -> None:
    """Check that the edition exists.

    Raises:
        ValueError: an unknown edition.
    """
    if edition not in EDITIONS:
        raise ValueError(f"edition is {edition}; it must be 1 (all 1,652 concepts) or 2 (the 500 most recognisable)")


def choose(
    edition: int, concepts: Iterable[Concept], drawn: Mapping[str, int], styles: int
) -> tuple[frozenset[str], dict[str, int]]:
    """Return the concept keys of an edition, and the number of omitted concepts by reason.

    Args:
        edition: one of `EDITIONS`.
        concepts: the full table.
        drawn: number of styles of each concept, by key.
        styles: total number of styles; with fewer than `MIN_STYLES`, a concept must have all.
    """
    kept, left_out = set(), Counter[str]()
    enough = min(MIN_STYLES, styles)
    if edition == 1:
        return frozenset(concept.key for concept in concepts), {}
    for concept in concepts:
        well_drawn = drawn.get(concept.key, 0) >= enough
        reason = next((why for why, holds in REASONS.items() if holds(concept, well_drawn)), "")
        left_out[reason] += 1
        kept |= set() if reason else {concept.key}
    return frozenset(kept), {why: left_out[why] for why in REASONS if left_out[why]}
