"""Concepts and the mapping of icons onto them."""

from __future__ import annotations

import io
import json

import pytest

from versatile_diffusion.recipes.emoji.data.concepts import (
    Tables,
    build_concepts,
    family_of,
    key_of_hex,
    key_of_text,
    match_name,
    name_index,
    squash,
)
from versatile_diffusion.recipes.emoji.data.drawings import Drawing, Wanted, collect, iconify_names, wrap_iconify
from versatile_diffusion.recipes.emoji.data.sources import Style

ICON = {"body": '<path d="M0 0h16v16z"/>'}


def row(hexcode: str, label: str, group: int, subgroup: int, order: int, tags=()) -> dict:
    return {
        "hexcode": hexcode,
        "label": label,
        "group": group,
        "subgroup": subgroup,
        "order": order,
        "tags": list(tags),
    }


@pytest.fixture
def tables() -> Tables:
    return Tables(
        rows=[
            row("1F346", "eggplant", 4, 43, 3, ["aubergine", "vegetable", "eggplant"]),
            row("1F468-200D-1F33E", "man farmer", 1, 25, 1),
            row("26A0-FE0F", "warning “sign”", 8, 84, 2),
            row("1F3FB", "light skin tone", 2, 32, 4),
            row("1F1EB-1F1F7", "flag: France", 9, 98, 5),
            {"hexcode": "1F1E6", "label": "regional indicator A"},
        ],
        messages={
            "subgroups": [
                {"key": k, "message": m} for k, m in (("veg", "vegetables"), ("role", "roles"), ("warn", "warnings"))
            ]
        },
        shortcodes={"1F468-200D-1F33E": "farmer_man", "1F346": ["eggplant", "violet_thing"]},
        unicode_names={"1F346": "AUBERGINE"},
        groups={
            "groups": {"1": "people-body", "2": "component", "4": "food-drink", "8": "symbols", "9": "flags"},
            "subgroups": {"25": "role", "32": "skin-tone", "43": "veg", "84": "warn", "98": "country-flag"},
        },
        keywords={"🍆": ["eggplant", "nature", ":-)", "Food_Item"]},
        aliases={"⚠️": {"name": "caution", "slug": "caution_mark"}},
        tags=[{"hexcode": "1F346", "tags": "purple, vegetable", "openmoji_tags": "aubergine"}],
    )


def test_keys_leave_out_joiners_and_selectors():
    assert key_of_hex("1F468-200D-2695-FE0F") == key_of_text("👨‍⚕️") == "1f468-2695"
    assert key_of_hex("00a9-fe0f") == "a9"


def test_concepts_leave_out_components_and_country_flags(tables):
    concepts = build_concepts(tables)
    assert [(c.key, c.index, c.label) for c in concepts] == [
        ("1f468-1f33e", 0, "man farmer"),
        ("26a0", 1, 'warning "sign"'),
        ("1f346", 2, "eggplant"),
    ]
    assert concepts[2].keywords == ("aubergine", "vegetable", "nature", "food item", "purple")
    assert concepts[0].keywords == ("man farmer",)  # never empty
    assert concepts[2].subgroup == "vegetables"


def test_families_join_the_variants_of_a_person():
    labels = ["man walking: facing right", "woman walking", "person walking", "person walking: facing right"]
    assert {family_of(label, "people-body") for label in labels} == {"walking"}
    assert family_of("kiss: woman, man", "people-body") == family_of("kiss", "people-body")
    assert family_of("man", "people-body") == family_of("girl", "people-body") == "person"
    assert family_of("woman's hat", "objects") == "woman's hat"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("eggplant", ("1f346", 1)),
        ("aubergine", ("1f346", 1)),
        ("violet-thing", ("1f346", 1)),
        ("manfarmer", ("1f468-1f33e", 1)),
        ("farmer_man-2", ("1f468-1f33e", 2)),
        ("caution-mark", ("26a0", 1)),
        ("big-purple-one", ("1f346", 1)),
        ("man-farmer-dark-skin-tone", None),
        ("flag-for-france", None),
        ("tomato", None),
    ],
)
def test_names_lead_to_concepts(tables, name, found):
    index = name_index(tables, build_concepts(tables), [("big-purple-one", "1f346"), ("eggplant", "26a0")])
    assert match_name(name, index) == found


def test_squash():
    assert squash("Piñata & Co. “A”") == "pinataandcoa"


def iconify(chars: dict) -> dict[str, bytes]:
    icons = {
        "icons": {"one": ICON, "two": ICON | {"width": 24, "left": -2}, "three-1": ICON, "three-2": ICON},
        "aliases": {"uno": {"parent": "one"}, "mirrored": {"parent": "two", "hFlip": True}},
        "height": 16,
        "width": 16,
    }
    return {"icons.json": json.dumps(icons).encode(), "chars.json": json.dumps(chars).encode()}


def test_icons_by_code_points():
    files = iconify({"1f001": "one", "1f002-fe0f": "uno", "1f003": "mirrored", "1f009": "two"})
    wanted = Wanted(frozenset({"1f001", "1f002", "1f003"}), {})
    style = Style("a", "p", "iconify", "chars", "a", ("x", "y", "z"))
    assert [d.concept for d in collect(style, files, wanted)] == ["1f001", "1f002"]
    assert ("uno", "1f001") in list(iconify_names(files))


def test_icons_by_name_with_variants():
    wanted = Wanted(frozenset({"1", "3"}), {"uno": "1", "three": "3", "mirrored": "1"})
    style = Style("a", "p", "iconify", "names", "a", ("x", "y", "z"))
    found = collect(style, iconify({}), wanted)
    assert [(d.concept, d.variant) for d in found] == [("1", 1), ("3", 1), ("3", 2)]
    assert [d.key("a") for d in found] == ["1_a", "3_a", "3_a_2"]


def test_an_icon_becomes_a_document():
    icons = json.loads(iconify({})["icons.json"])
    assert 'viewBox="-2 0 24 16"' in wrap_iconify(icons, "two")
    assert 'color="#000"' in wrap_iconify(icons, "one")


def test_files_named_by_code_points():
    style = Style("a", "p", "openmoji", "color/svg", "a", ("x", "y", "z"))
    files = {"color/svg/2764-FE0F.svg": b"<svg/>", "color/svg/readme.svg": b"", "black/svg/2764.svg": b"no"}
    assert collect(style, files, Wanted(frozenset({"2764"}), {})) == [Drawing("2764", 1, "svg", b"<svg/>")]


def test_font_outlines_are_centred():
    pytest.importorskip("resvg_py")
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    from versatile_diffusion.recipes.emoji.data.render import render

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 500), (500, 500), (500, 0)):
        pen.lineTo(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "box", "space"])
    builder.setupCharacterMap({0x2B1B: "box", 0x20: "space"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "box": pen.glyph(), "space": TTGlyphPen(None).glyph()})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in (".notdef", "box", "space")})
    builder.setupHorizontalHeader()
    builder.setupPost()
    buffer = io.BytesIO()
    builder.save(buffer)
    style = Style("a", "p", "font", "files/a.ttf", "a", ("x", "y", "z"), True)
    found = collect(style, {"files/a.ttf": buffer.getvalue()}, Wanted(frozenset({"2b1b", "20"}), {}))
    assert [d.concept for d in found] == ["2b1b"]
    ink = render(found[0], 64).min(axis=2) < 128
    rows, columns = ink.any(axis=1).nonzero()[0], ink.any(axis=0).nonzero()[0]
    assert abs(rows.mean() - 31.5) < 1
    assert abs(columns.mean() - 31.5) < 1
