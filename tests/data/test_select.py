"""Selecting metadata: boundary values, missing ones, the ledger's sums, layouts, resuming, several places to run on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pl = pytest.importorskip("polars")

import laion  # noqa: E402

from versatile_diffusion.data.ledger import Tally  # noqa: E402
from versatile_diffusion.data.places import in_turn, spread_over  # noqa: E402
from versatile_diffusion.data.rules import Columns, Selection  # noqa: E402
from versatile_diffusion.data.select import LEDGER, SelectPlan, counting_expression, select, tables  # noqa: E402

GOOD = {"URL": "https://a.org/1.jpg", "TEXT": "a cat", "WIDTH": 512, "HEIGHT": 512, "similarity": 0.35}
GOOD |= {"LANGUAGE": "en", "hash": 1, "pwatermark": 0.1, "punsafe": 0.1}
TYPES = {"WIDTH": pl.Int32, "HEIGHT": pl.Int32, "hash": pl.Int64, "pwatermark": pl.Float32, "punsafe": pl.Float32}


def table(*changes: dict[str, Any], **types: Any) -> pl.DataFrame:
    """Rows that are good but for what is changed."""
    return pl.DataFrame([{**GOOD, **change} for change in changes], schema_overrides={**TYPES, **types}, strict=False)


def kept(rows: pl.DataFrame, selection: Selection | None = None, **options: Any) -> list[int]:
    """The numbers of the rows that are kept."""
    selection = selection or Selection()
    where = Columns.find(rows.schema, selection.needs, options.get("layout"), options.get("columns", {}), "it")
    return rows.with_row_index().filter(counting_expression(selection, where)[0]).get_column("index").to_list()


def run(inputs: Path | str, out: Path, selection: Selection | None = None, **options: Any) -> Tally:
    return select(tables([str(inputs)]), SelectPlan(selection or Selection(), out, **options))


@pytest.mark.parametrize("kind", [pl.Float32, pl.Float64])
@pytest.mark.parametrize(("column", "above"), [("similarity", True), ("punsafe", False), ("pwatermark", False)])
def test_scores_at_the_threshold_are_out_on_both_precisions(column: str, above: bool, kind: Any) -> None:
    number = np.float32 if kind == pl.Float32 else np.float64
    edge = number(0.3)
    low, high = (float(np.nextafter(edge, number(end))) for end in (0, 1))
    rows = table({column: low}, {column: float(edge)}, {column: high}, **{column: kind})
    assert kept(rows) == ([2] if above else [0])


@pytest.mark.parametrize(
    ("width", "height", "inside"),
    [(600, 1000, True), (599, 1000, False), (3, 5, True), (16667, 10000, True), (16668, 10000, False), (5, 3, True)],
)
def test_aspect_includes_its_ends(width: int, height: int, inside: bool) -> None:
    assert kept(table({"WIDTH": width, "HEIGHT": height}), Selection(min_area=None)) == [0] * inside


@pytest.mark.parametrize(("width", "height", "inside"), [(192, 256, False), (193, 256, True), (256, 192, False)])
def test_area_at_the_threshold_is_out(width: int, height: int, inside: bool) -> None:
    assert 192 * 256 == 256**2 * 0.75
    assert kept(table({"WIDTH": width, "HEIGHT": height})) == [0] * inside


def test_a_product_of_sides_does_not_run_over() -> None:
    assert kept(table({"WIDTH": 60_000, "HEIGHT": 60_000})) == [0]


@pytest.mark.parametrize("lost", [None, math.nan])
@pytest.mark.parametrize("column", ["similarity", "punsafe", "pwatermark"])
def test_missing_values_follow_the_policy_and_are_counted(column: str, lost: float | None, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table({column: lost}, {}).write_parquet(tmp_path / "in" / "a.parquet")
    rejected = run(tmp_path / "in", tmp_path / "reject")
    assert rejected.kept == 1
    name = {"punsafe": "unsafe", "pwatermark": "watermark"}.get(column, column)
    assert rejected.reasons[name].missing == rejected.reasons[name].rejected == 1
    held = run(tmp_path / "in", tmp_path / "keep", Selection(missing="keep"))
    assert held.kept == 2
    assert (held.reasons[name].missing, held.reasons[name].rejected) == (1, 0)


def test_no_height_is_no_aspect() -> None:
    assert kept(table({"HEIGHT": 0}, {"WIDTH": 0, "HEIGHT": 0}, {"WIDTH": None}, {})) == [3]


def test_the_ledger_agrees_with_rows_counted_one_by_one(tmp_path: Path) -> None:
    folder = laion.write(tmp_path / "in", 3, 2000)
    total = run(folder, tmp_path / "out")
    told = json.loads((tmp_path / "out" / LEDGER).read_text())
    reasons = {name: [0, 0, 0] for name in told["rules"]}
    good = 0
    for row in pl.read_parquet(folder / "*.parquet").iter_rows(named=True):
        sides = row["WIDTH"], row["HEIGHT"]
        known = None not in sides
        passes = {
            "similarity": row["similarity"] is not None and row["similarity"] > 0.3,
            "unsafe": row["punsafe"] is not None and np.float32(row["punsafe"]) < np.float32(0.3),
            "watermark": row["pwatermark"] is not None and np.float32(row["pwatermark"]) < np.float32(0.3),
            "aspect": known and 0.6 <= sides[0] / sides[1] <= 1.6667,
            "area": known and sides[0] * sides[1] > 49152,
        }
        against = [name for name in reasons if not passes[name]]
        good += not against
        for place, name in enumerate(against):
            reasons[name][0] += 1
            reasons[name][1] += len(against) == 1
            reasons[name][2] += place == 0
    assert (total.read, total.kept) == (6000, good)
    assert {n: [r.rejected, r.alone, r.first] for n, r in total.reasons.items()} == reasons
    assert total.kept + sum(first for _, _, first in reasons.values()) == total.read
    assert sum(file["read"] for file in told["files"].values()) == told["total"]["read"] == 6000
    assert sum(total.histograms["similarity"]) == total.read - total.reasons["similarity"].missing


def test_what_is_kept_is_written_in_order_with_all_columns(tmp_path: Path) -> None:
    folder = laion.write(tmp_path / "in" / "sub", 2, 300).parent
    run(folder, tmp_path / "out")
    for name in ("sub/part-00000.parquet", "sub/part-00001.parquet"):
        given, written = pl.read_parquet(folder / name), pl.read_parquet(tmp_path / "out" / name)
        assert written.equals(given[kept(given)])


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (
            "coyo-700m",
            ("url", "text", "width", "height", "clip_similarity_vitb32", "nsfw_score_opennsfw2", "watermark_score"),
        ),
        ("img2dataset", ("url", "caption", "original_width", "original_height", "similarity", "punsafe", "pwatermark")),
        ("laion-2b-en", ("url", "Text", "width", "HEIGHT", "Similarity", "punsafe", "pwatermark")),
    ],
)
def test_layouts_are_recognised_and_written_as_url_and_text(
    layout: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    columns = ("URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "punsafe", "pwatermark")
    rows = table({}, {"similarity": 0.1}).select(columns).rename(dict(zip(columns, names, strict=True)))
    (tmp_path / "in").mkdir()
    rows.write_parquet(tmp_path / "in" / "a.parquet")
    assert run(tmp_path / "in", tmp_path / "out").kept == 1
    entry = json.loads((tmp_path / "out" / "ledger" / "a.parquet.json").read_text())
    assert entry["layout"] == layout
    assert pl.read_parquet(tmp_path / "out" / "a.parquet").columns[:2] == ["URL", "TEXT"]


def test_a_column_that_is_not_there_is_named_and_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table({}).rename({"punsafe": "nsfw"}).write_parquet(tmp_path / "in" / "a.parquet")
    with pytest.raises(ValueError, match=r"no column for unsafe.*--column unsafe=NAME"):
        run(tmp_path / "in", tmp_path / "out")
    assert run(tmp_path / "in", tmp_path / "named", columns={"unsafe": "nsfw"}).kept == 1
    assert run(tmp_path / "in", tmp_path / "without", Selection(max_unsafe=None)).kept == 1


def test_further_filters() -> None:
    rows = table(
        {},
        {"LANGUAGE": "de"},
        {"TEXT": " a "},
        {"URL": "https://cdn.shop.net:8080/x.jpg"},
        {"URL": "http://me@SHOP.net"},
        {"URL": "https://notshop.net/?u=shop.net"},
    )
    selection = Selection(languages=("EN",), caption_length=(2, 20), blocked_domains=("shop.net",))
    assert kept(rows, selection) == [0, 5]


@pytest.mark.parametrize(("unique", "column"), [("hash", "hash"), ("url", "URL")])
def test_only_the_first_of_duplicates_stays(
    unique: str, column: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("versatile_diffusion.data.duplicates.BUCKET", 7)
    folder = tmp_path / "in"
    folder.mkdir()
    key = (lambda k: k) if unique == "hash" else (lambda k: f"https://a.org/{k}")
    first = [{column: key(k % 5), "TEXT": f"first {k}"} for k in range(12)]
    second = [{column: key(k % 9), "TEXT": f"second {k}"} for k in range(12)]
    second += [
        {column: key(100), "similarity": 0.1},
        {column: key(100), "TEXT": "it"},
        {column: None, "TEXT": "no key"},
    ] * 2
    table(*first).write_parquet(folder / "a.parquet")
    table(*second).write_parquet(folder / "b.parquet")
    total = run(folder, tmp_path / "out", Selection(unique=unique))
    rows = pl.read_parquet(tmp_path / "out" / "*.parquet").get_column("TEXT").to_list()
    assert rows == [f"first {k}" for k in range(5)] + [f"second {k}" for k in range(5, 9)] + ["it", "no key", "no key"]
    assert total.kept == len(rows)
    assert total.read == total.kept + total.duplicates + sum(r.first for r in total.reasons.values())
    assert run(folder, tmp_path / "out", Selection(unique=unique)).kept == total.kept


def test_a_finished_file_is_not_read_again(tmp_path: Path) -> None:
    folder = laion.write(tmp_path / "in", 3, 200)
    plan = SelectPlan(Selection(), tmp_path / "out")
    worked: list[str] = []

    def each(work: Any, inputs: Any) -> Any:
        worked.extend(table.name for table in inputs)
        return in_turn(work, inputs)

    before = select(tables([str(folder)]), plan, each)
    laion.rows(300, 9).write_parquet(folder / "part-00001.parquet")
    after = select(tables([str(folder)]), plan, each)
    assert worked == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "part-00001.parquet"]
    assert (before.read, after.read) == (600, 700)


def test_another_selection_takes_another_folder(tmp_path: Path) -> None:
    folder = laion.write(tmp_path / "in", 1, 50)
    run(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="another selection"):
        run(folder, tmp_path / "out", Selection(min_similarity=0.28))


def test_kill_9_leaves_nothing_half_written_and_nothing_is_done_twice(tmp_path: Path) -> None:
    folder, out = laion.write(tmp_path / "in", 6, 3000), tmp_path / "out"
    program = (
        "import os, signal, sys\n"
        "from versatile_diffusion.data import select as s\n"
        "from versatile_diffusion.data.rules import Selection\n"
        "from pathlib import Path\n"
        "def progress(done, of):\n"
        "    if done == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "s.select(s.tables([sys.argv[1]]), s.SelectPlan(Selection(), Path(sys.argv[2])), progress=progress)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(folder), str(out)], env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(times) == 3
    total = run(folder, out)
    assert run(folder, tmp_path / "unbroken").to_json() == total.to_json()
    for path in sorted((tmp_path / "unbroken").glob("*.parquet")):
        assert path.read_bytes() == (out / path.name).read_bytes()
        assert times.get(path.name, (out / path.name).stat().st_mtime_ns) == (out / path.name).stat().st_mtime_ns


def test_a_folder_a_pattern_a_file_and_a_url_are_the_same(tmp_path: Path) -> None:
    import fsspec

    folder = laion.write(tmp_path / "in", 2, 200)
    fsspec.filesystem("memory").put(str(folder), "/laion", recursive=True)
    told = [
        run(given, tmp_path / str(k)).to_json()
        for k, given in enumerate((folder, f"{folder}/part-*.parquet", folder.as_uri(), "memory://laion"))
    ]
    assert told[0] == told[1] == told[2] == told[3]
    assert run(folder / "part-00000.parquet", tmp_path / "one").read == 200


def test_nothing_there_damaged_files_and_names_that_meet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no parquet files"):
        tables([str(tmp_path)])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as parquet"):
        run(tmp_path / "in", tmp_path / "out")
    for name in "xy":
        laion.write(tmp_path / name, 1, 5)
    with pytest.raises(ValueError, match="would both be written to"):
        tables([str(tmp_path / "x"), str(tmp_path / "y")])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_similarity": math.nan}, "finite"),
        ({"aspect": (2.0, 1.0)}, "ascending"),
        ({"missing": "drop"}, "reject"),
        ({"unique": "text"}, "hash"),
    ],
)
def test_what_cannot_be_selected_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Selection(**options)


@pytest.mark.campaign
def test_ray_gives_the_same_files(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    folder = laion.write(tmp_path / "in", 4, 500)
    here = run(folder, tmp_path / "here")
    try:
        there = select(tables([str(folder)]), SelectPlan(Selection(), tmp_path / "there"), spread_over("local"))
    finally:
        ray.shutdown()
    assert here.to_json() == there.to_json()
    for path in (tmp_path / "here").glob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()
