"""Several inputs, folders, stdin and stdout."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli import shell
from versatile_diffusion.applications import colours
from versatile_diffusion.records.png import read_record


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures, one in a folder below, and something that is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VERSATILE_DEBUG", raising=False)
    Path("photos/deep").mkdir(parents=True)
    Image.new("RGB", (20, 20), "red").save("photos/a.png")
    Image.new("RGB", (20, 20), "blue").save("photos/deep/b.jpg")
    Path("photos/notes.md").write_text("not read")
    return tmp_path / "photos"


def few(model: str) -> str:
    return f"--model {model} --steps 2 --seed 5"


def test_a_folder_is_gone_on_with(photos: Path, model: str) -> None:
    line = f"versatile image-variation photos/ --out made --count 2 {few(model)}"
    first = shell.run(line)
    names = [f"made/{stem}.image-variation-000{k}.png" for stem in ("a", "deep/b") for k in (1, 2)]
    assert (first.code, first.text.split()) == (0, names)
    alone = shell.run(f"versatile image-variation photos/deep/b.jpg --out alone --count 2 {few(model)}")
    made, same = (np.asarray(Image.open(file)) for file in (names[3], alone.text.split()[1]))
    assert np.array_equal(made, same), "an input gives the same among others as alone"
    Path(names[0]).unlink()  # as if the first call had been stopped
    before = Path(names[2]).read_bytes()
    again = shell.run(f"{line} --json")
    assert [(one["input"], one.get("kept", False)) for one in again.documents()] == [
        ("photos/a.png", False),
        ("photos/deep/b.jpg", True),
    ]
    assert "1 done" in again.err
    assert "1 already existed, 0 failed" in again.err
    assert Path(names[2]).read_bytes() == before
    newer = Path(names[2]).stat().st_mtime + 9
    os.utime("photos/deep/b.jpg", (newer, newer))
    assert "1 done" in shell.run(line).err
    assert "2 done" in shell.run(f"{line} --overwrite").err


@pytest.mark.parametrize(("other", "code"), [("", 0), ("--guidance-scale 3", 1)])
def test_what_another_run_makes_meanwhile_is_kept(
    photos: Path, model: str, monkeypatch: pytest.MonkeyPatch, other: str, code: int
) -> None:
    line = f"versatile image-variation photos/ --out made {few(model)}"
    matched, runs = colours.match_to_input, iter([f"{line} {other}"])

    def after_another_run(*arguments: Any) -> Any:
        for run in runs:
            assert shell.run(run).code == 0
            files.update({file: file.read_bytes() for file in Path("made").rglob("*.png")})
        return matched(*arguments)

    files: dict[Path, bytes] = {}
    monkeypatch.setattr(colours, "match_to_input", after_another_run)
    run = shell.run(line)
    assert (run.code, len(files)) == (code, 2)
    assert (
        "written by another process meanwhile" if code == 0 else "generated with other settings (guidance-scale)"
    ) in run.err
    assert {file: file.read_bytes() for file in Path("made").rglob("*.png")} == files


def test_what_was_made_otherwise_is_not_passed_off(photos: Path, model: str) -> None:
    line = "versatile image-variation photos/ --out made --steps 1 --seed 5"
    assert shell.run(f"{line} --model {model}").code == 0
    other = shell.run(f"{line} --model {model} --guidance-scale 3 --focus 0.2")
    assert (other.code, other.out) == (2, b"")
    assert "generated with other settings (focus, guidance-scale); use --overwrite" in other.err
    assert shell.run(f"{line} --model {model} --guidance-scale 3 --focus 0.2 --overwrite").code == 0


def test_captions_of_a_folder(photos: Path, model: str) -> None:
    line = f"versatile image-to-text photos/ {few(model)}"
    printed = shell.run(line)
    rows = dict(row.split("\t") for row in printed.text.splitlines())
    assert list(rows) == ["photos/a.png", "photos/deep/b.jpg"]
    saved = shell.run(f"{line} --out captions --json").documents()
    assert [one["texts"] for one in saved] == [[text] for text in rows.values()]
    assert Path("captions/deep/b.image-to-text.txt").read_text().strip() == rows["photos/deep/b.jpg"]
    kept = shell.run(f"{line} --out captions --json").documents()
    assert [one["kept"] for one in kept] == [True, True]
    assert [one["texts"] for one in kept] == [one["texts"] for one in saved]


def test_some_of_many_fail(photos: Path, model: str) -> None:
    (photos / "c.png").write_text("no picture")
    done = shell.run(f"versatile image-to-text photos/c.png photos/a.png missing.png {few(model)} --json")
    assert done.code == 1
    failed = {one["input"]: one.get("error", "") for one in done.documents()}
    assert "not an image" in failed["photos/c.png"]
    assert "no such" in failed["missing.png"]
    assert failed["photos/a.png"] == ""
    assert done.err.count("failed: ") == 2


def test_texts_line_by_line(photos: Path, model: str) -> None:
    texts = "a red apple\n\na dog\na dog\n"
    Path("texts.txt").write_text(texts)
    line = f"versatile text-variation - {few(model)} --json"
    through = shell.run(line, texts.encode()).documents()
    assert [one["input"] for one in through] == ["a red apple", "a dog", "a dog"]
    named = shell.run(line.replace(" - ", " texts.txt ")).documents()
    assert [one["texts"] for one in named] == [one["texts"] for one in through]
    files = shell.run(f"versatile text-to-image texts.txt {few(model)} --out made").text.split()
    assert len(set(files)) == 3
    assert "a-dog-" in files[1]
    assert shell.run(f"versatile text-variation - {few(model)}", b"a dog").text.count("\t") == 0, "one is not many"


def test_a_picture_through_pipes(photos: Path, model: str) -> None:
    made = shell.run(f"versatile text-to-image 'a dog' --out - {few(model)}")
    picture = Image.open(BytesIO(made.out))
    assert read_record(picture)["seed"] == 5
    assert not Path("-").exists()
    assert "1 generated" in made.err
    Path("dog.png").write_bytes(made.out)
    piped = shell.run(f"versatile image-to-text - {few(model)}", made.out)
    assert piped.text == shell.run(f"versatile image-to-text dog.png {few(model)}").text
    assert shell.run(f"versatile image-variation - --count 2 {few(model)}", made.out).code == 0
    for other in ("disentangle -", "disentangle - --focus 0.2", "edit - --add red", "blend --image -@0.5 --text dog"):
        assert shell.run(f"versatile {other} {few(model)}", made.out).code == 0, other
    texts = shell.run(f"versatile image-to-text dog.png --out - {few(model)}")
    assert texts.text == piped.text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("text-to-image 'a dog' --out - --count 2", "only one image to stdout"),
        ("image-variation photos/ --out -", "only one image to stdout"),
        ("text-to-image 'a dog' --out - --json", "use one of them"),
        ("image-variation - -", "read only once"),
        ("image-variation -", "stdin: not an image"),
        ("text-variation -", "stdin contains no text"),
        ("text-variation photos/", "photos/ is a folder without text files (.txt)"),
        ("text-variation gone.txt", "gone.txt: no such file"),
        ("dual-guided photos/notes.txt photos/a.png", "no such file"),
        ("disentangle photos/a.png --out -", "give a folder"),
        ("disentangle photos/", "has several inputs"),
        ("blend --image photos/", "has several inputs"),
        ("sweep text-to-image 'a' --over seed=0:2 --out -", "use a folder"),
    ],
)
def test_mistakes(photos: Path, model: str, line: str, said: str) -> None:
    done = shell.run(f"versatile {line} --model {model}")
    assert (done.code, done.out, done.err.count("\n")) == (2, b"", 1), done.err
    assert said in done.err


def test_only_the_last_input_may_be_several(photos: Path, model: str) -> None:
    Path("texts.txt").write_text("a dog\na cat\n")
    assert "only the last argument" in shell.run("versatile dual-guided texts.txt photos/a.png").err
    done = shell.run(f"versatile dual-guided 'a dog' photos/ --json {few(model)}")
    assert [one["input"] for one in done.documents()] == ["photos/a.png", "photos/deep/b.jpg"]


def test_one_bad_file_of_a_folder_fails_alone(photos: Path, model: str) -> None:
    """Texts of several encodings, one of none, one that is empty, and one too large."""
    Path("texts").mkdir()
    for name, data in {
        "a": "a red house".encode("utf-16"),
        "b": "a café\u2028by the sea".encode(),
        "c": b"\xea\xee\xf2",
        "d": b" \n",
        "e": "a gar\u00e7on".encode("cp1252"),
    }.items():
        Path("texts", f"{name}.txt").write_bytes(data)
    Path("texts/._a.txt").write_bytes(b"\0\5\x16\7")
    Path("texts/old.zip").touch()
    done = shell.run(f"versatile text-variation texts/ --json {few(model)}")
    assert done.code == 1
    made = {one["input"]: one.get("error", "") for one in done.documents()}
    assert {name for name, error in made.items() if not error} == {"a red house", "a café\u2028by the sea", "a garçon"}
    assert "texts/c.txt" in done.err
    assert "its encoding is ambiguous" in done.err
    assert "texts/d.txt contains no text" in done.err
    assert "texts/e.txt is not in UTF-8; reading it as cp1252" in done.err
    assert "skipped in texts: archives 1 (old.zip)" in done.err
    assert "3 done" in done.err
    assert "2 failed" in done.err


def test_files_of_one_stem_and_names_that_are_no_text(photos: Path, model: str) -> None:
    for name in (b"cat-2.png", b"cat.bmp", b"cat.png", b"caf\xe9.png"):
        Image.new("RGB", (20, 20), "red").save("photos/x.png")
        os.rename("photos/x.png", os.fsencode(photos) + b"/" + name)
    (photos / "round").symlink_to(photos)
    done = shell.run(f"versatile image-to-text photos/ --out photos/ {few(model)}")
    assert done.code == 0, done.err
    assert "skipped in photos: folders already visited 1 (round)" in done.err
    made = {os.fsencode(file.name) for file in photos.glob("*.image-to-text.txt")}
    stems = {name.removesuffix(b".image-to-text.txt") for name in made}
    assert stems == {b"a", b"cat", b"cat-2", b"cat-3", b"caf\xe9"}
    again = shell.run(f"versatile image-to-text photos/ --out photos/ {few(model)}")
    assert "6 already existed" in again.err
    varied = shell.run(f"versatile image-variation photos/ --out made --json {few(model)}")
    assert varied.code == 0, varied.err
    assert b"made/caf\xe9.image-variation-0001.png" in {os.fsencode(file) for file in Path("made").iterdir()}
    encoded = shell.run(f"versatile encode photos/ --out tokens --model {model}")
    assert "have the same output name" in encoded.err
    (photos / "cat.bmp").unlink()
    shell.run(f"versatile encode photos/ --out tokens --model {model}")
    assert b"tokens/caf\xe9.image-context.safetensors" in {os.fsencode(file) for file in Path("tokens").iterdir()}
