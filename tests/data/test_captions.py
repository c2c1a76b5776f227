"""Captions of any encoding and kind: read right, or refused with a reason; never spoilt in silence."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from versatile_diffusion.data.captions import (
    MOST_BYTES,
    Captions,
    UnusableError,
    captions_in,
    captions_of,
    decode,
    parse,
    read_bounded,
)
from versatile_diffusion.plain_text.encodings import python_name


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("a café, naïve", "utf-8"),
        ("a café", "utf-8-sig"),
        ("a red apple", "utf-16"),
        ("красное яблоко", "utf-16"),
        ("a cat", "utf-32"),
        ("a green pear", "utf-16-le"),
        ("a green pear", "utf-16-be"),
        ("a green pear", "utf-32-be"),
        ("Ein grüner Apfel für die Größe", "cp1252"),
        ("it\u2019s a \u201cgarçon\u201d à la plage", "cp1252"),
        ("кот сидит на окне и смотрит на улицу, а за окном идёт снег и дети играют во дворе", "cp1251"),
        ("żółty kot", "cp1250"),
        ("sarı bir kedi ağaçta", "cp1254"),
        ("猫が窓のそばに座っている", "cp932"),
        ("кот", "utf-16-le"),
        ("déjà vu à l’école", "mac_roman"),
        ("une île près du château", "cp850"),
        ("a woman’s hand on the wall…", "cp1252"),
    ],
)
def test_what_editors_write_is_read(text: str, encoding: str) -> None:
    read, _ = decode(text.encode(encoding))
    assert read.lstrip("\ufeff") == text
    assert decode(text.encode(encoding), encoding)[0].lstrip("\ufeff") == text


@pytest.mark.parametrize(
    "data",
    [
        b"\xea\xee\xf2",  # three letters, of a dozen encodings
        "dokąd".encode("mac_latin2"),
        "é".encode("cp1252"),
        "kočka".encode("cp1250"),
        "a café\nun café".encode().replace("un café".encode(), "un café".encode("cp1252")),
        "a cat".encode("utf-16") + b"\0",
        bytes(range(128, 256)),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(UnusableError, match=r"UTF-8|utf-16"):
        decode(data)


WORDS = """
cp1252 mac_roman cp850: répétition crêpe poupée hérisson événement cigüeñal mañanero frío sillón irmãos bênção avião
schwäne kräftig hübscheste füllen lång båge jätte kærlighed öga röd bärnsten fløjte kål dømmekraft
abeille gâteau lâche pêcheur goût Noël drôle maïs reçu où Élan çà cathédrale
cœur œuf mûre Ärger böse Blüte Maß höflich Öl Gebäck Jäger rückwärts Überzug español cigüeña ciénaga otoño champú
cálido país razón único ¿qué? paixão mamãe órgão lençol pôr ninguém lâmina avô libertà lunedì perciò tribù è
caffè sjö grädde ålder öken fågel høne æsel måne grød tårn blå smør

cp1250 iso8859_2 cp852 mac_latin2: kočka řeřicha štěně žízeň čtyři hůl mléko síť ťapka ďábel mačka vŕba stĺp
ľan dážď ťava kôň žaba łabędź gżegżółka źrebak ćma sęk wąż pieśń śnieg łódka jaź tűzoltó őszibarack gyűrű
húsvét csípő szőlő körte zöld bőrönd

cp1251 koi8_r cp866 iso8859_5 mac_cyrillic: ворона ёлка жираф щука Юла ЭХО ыть объезд чай шмель яма кит зонт
уж енот

cp1253 iso8859_7: γάιδαρος ήλιος σκύλος Ύδρα ώρα πόρτα

cp1254 cp857: kuş ağız ışık güneş çöl İzmir şişe yağmur

cp1257: žąsis ežeras šūdas ķirbis ģitāra ņirgt õhk jäätis

cp1255: כלב שולחן ים

cp1256: كلب شمس بحر

cp874: ช้าง น้ำ ปู

cp932 euc_jp: 犬 猫が 雪だるま 薔薇 ラジオ 海

gb18030: 狗 大海 苹果树 鹦鹉 雪

big5: 貓 蘋果樹 雪

cp949: 개 바다 사과나무 눈

cp1252 mac_roman: it’s “red” dog’s cat… £5 5 — naïve façade jalapeño São-Paulo café
"""
"""Short words of many languages, and the encodings that such captions are found in."""


def test_no_short_word_is_read_wrong() -> None:
    """Where other readings are plausible, a word is refused, and the message has them; which of the rest are read at
    all is no promise."""
    outcomes: Counter[bool] = Counter()
    words = 0
    for group in WORDS.strip().split("\n\n"):
        encodings, _, listed = group.partition(":")
        words += len(listed.split())
        for word, encoding in itertools.product(listed.split(), [*encodings.split(), "utf-16-le", "utf-16-be"]):
            try:
                data = word.encode(encoding)
            except UnicodeEncodeError:
                continue
            if not _is_utf8(data):
                read = _read(data)
                assert read in (word, None), (word, encoding)
                outcomes[read is not None] += 1
    assert words >= 200
    assert outcomes[True] > 150
    assert outcomes.total() > 500


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read(data: bytes) -> str | None:
    try:
        return decode(data)[0]
    except UnusableError:
        return None


def test_the_guesses_are_told() -> None:
    with pytest.raises(UnusableError, match="its encoding is ambiguous: 'koèka' in cp1252, 'kočka' in cp1250"):
        decode("kočka".encode("cp1250"))
    assert decode("kočka".encode("cp1250"), "cp1250") == ("kočka", "cp1250")
    with pytest.raises(UnusableError, match="not a text in cp1251"):
        decode(b"\x98", "cp1251")
    with pytest.raises(ValueError, match=r"unknown encoding 'cp1259'; e\.g\. utf-8, cp1252, cp1250"):
        python_name("cp1259")
    for encoding in ("base64", "rot13", "", "\0", "utf-8\n" * 100):
        with pytest.raises(ValueError, match="unknown encoding"):
            python_name(encoding)
    assert python_name("Windows-1250") == "cp1250"


def test_only_line_feeds_part_lines() -> None:
    data = "one\u2028half\u0085more\r\ntwo\vparts\n\n\ttab\tbed\rreturn\x1c"
    assert captions_in(data.encode(), False).texts == ("one\u2028half\u0085more", "two parts", "tab bed return")


def test_control_characters_go_and_are_counted() -> None:
    captions = captions_in(b"a \x1b[31mred\x00 cat\x07\nplain", False)
    assert captions.texts == ("a [31mred cat", "plain")
    assert captions.notes == ("captions without their control characters",)
    assert captions_in("a caf\xe9".encode("cp1252"), False) == Captions(("a café",), ("captions read as cp1252",))
    with pytest.raises(UnusableError, match="without a caption"):
        captions_in(bytes(100), False)  # a file of zeros, as crashes leave


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"caption": float("nan"), "text": "a cat"}, ("a cat",)),
        ({"captions": ["a cat", 5, None, " "]}, ("a cat",)),
        ({"caption": "", "texts": ["a", "b"]}, ("a", "b")),
        ({"text": b"a caf\xc3\xa9"}, ("a café",)),
        ({"text": ("one\ntwo",)}, ("one two",)),
        ({"prompt": "a cat", "TEXT": None}, ("a cat",)),
        ({"caption_1": "b", "caption_0": "a", "caption_10": "c", "captioned": "no"}, ("a", "b", "c")),
        ({"Caption": "a", "caption 2": ["b", "c"]}, ("a", "b", "c")),
        ({"text": "caf\udce9"}, ("café",)),
    ],
)
def test_the_first_field_with_text_counts(row: dict[str, Any], texts: tuple[str, ...]) -> None:
    assert captions_of(row).texts == texts


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (float("nan"), "captions that are not text", "nan"),
        (True, "captions that are not text", "bool"),
        (7, "captions that are not text", "7"),
        ({"en": "a cat"}, "captions that are not text", "dict"),
        ([["a"], 3], "captions that are not text", "int"),
        ("a \ud83d cat", "captions in an unknown encoding", "undecodable characters"),
        ("ko\udce8ka", "captions in an unknown encoding", "koèka"),
        ("caf\ufffd", "captions in an unknown encoding", "undecodable characters"),
        ("a" * (MOST_BYTES + 1), "captions too large", "1,048,577"),
        (None, "without a caption", ""),
        ([], "without a caption", ""),
        ("  ", "without a caption", ""),
    ],
)
def test_what_is_no_caption_has_a_reason(value: Any, kind: str, told: str) -> None:
    with pytest.raises(UnusableError, match=told) as caught:
        captions_of({"text": value})
    assert caught.value.kind == kind


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "1" * 10_000, "nothing"])
def test_what_is_no_description_is_refused(text: str) -> None:
    with pytest.raises(UnusableError, match="JSON"):
        parse(text)


def test_files_are_bounded_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    os.truncate(tmp_path / "a.txt", 1 << 40)
    with pytest.raises(UnusableError, match=r"a\.txt has more than 1,048,576 bytes"):
        read_bounded(tmp_path / "a.txt")
    with pytest.raises(UnusableError, match="cannot be read"):
        read_bounded(tmp_path)
