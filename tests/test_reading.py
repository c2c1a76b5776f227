"""The boundary around everything that reads a file, and JSON within bounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from versatile_diffusion.reading import DEEPEST, check_shards, parse_json, read_json, reading, shards_of


class Panic(BaseException):
    """As libraries of Rust raise them."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("width"), "it lacks 'width'"),
        (TypeError("an int"), "TypeError: an int"),
        (RecursionError(), "RecursionError"),
        (MemoryError(), "out of memory"),
        (FileNotFoundError(2, "No such file", "b"), "No such file"),
        (AssertionError("a\nb" * 500), "AssertionError: a b"),
        (Panic("unwrap on None"), "Panic: unwrap on None"),
        (ValueError("another sentence"), "another sentence"),
    ],
)
def test_any_exception_is_one_sentence_with_the_path(tmp_path: Path, error: BaseException, said: str) -> None:
    with pytest.raises(ValueError, match="cannot be read as a thing") as caught, reading(tmp_path / "a.b", "a thing"):
        raise error
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.b'} cannot be read as a thing: ")
    assert said in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(tmp_path))
    assert caught.value.__cause__ is error


def test_what_names_the_path_already_goes_through(tmp_path: Path) -> None:
    inner = ValueError(f"{tmp_path / 'x' / 'y.json'} is damaged")
    with pytest.raises(ValueError, match=r"y\.json is damaged") as caught, reading(tmp_path / "x", "a thing"):
        raise inner
    assert caught.value is inner


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), ModuleNotFoundError("no peft", name="peft")])
def test_what_is_not_about_the_file_goes_through(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, reading(tmp_path, "a thing"):
        raise error
    assert caught.value is error


def test_of_a_folder_the_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"b\.json is damaged: Expecting value"), reading(tmp_path, "a model"):
        raise OSError("some other words of a library")


def nested(levels: int) -> str:
    return '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


@pytest.mark.parametrize(
    "text",
    ["", "5", "[]", "null", '"x"', "{", nested(DEEPEST + 1), nested(900), nested(60_000), b'{"a": "\xff"}', "9" * 9999],
    ids=lambda text: str(text[:9]),
)
def test_json_that_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="the record is damaged: ") as caught:
        parse_json(text, "the record")
    assert len(str(caught.value)) < 300


def test_json_that_is_read(tmp_path: Path) -> None:
    assert parse_json(nested(DEEPEST), "x") == json.loads(nested(DEEPEST))
    (tmp_path / "a.json").write_bytes('{"ä": [1, {"b": null}]}'.encode())
    assert read_json(tmp_path / "a.json") == {"ä": [1, {"b": None}]}
    with pytest.raises(ValueError, match=r"a\.json has 24 bytes; at most 9 are read"):
        read_json(tmp_path / "a.json", most=9)
    for place in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(ValueError, match="is missing"):
            read_json(place)


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/etc/passwd", "b/a.safetensors", "..", "", "c:a", "\\\\host\\share\\a", "a.index.json", 5],
)
def test_shards_lie_beside_their_index(tmp_path: Path, name: object) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": name}}))
    with pytest.raises(ValueError, match=r"index\.json (refers to .*own folder|is not a weight index)"):
        shards_of(index)
    with pytest.raises(ValueError, match=r"index\.json"):
        check_shards(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert shards_of(index) == {"a": "one.safetensors"}
