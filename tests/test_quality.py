"""The quality benchmark: its stages, its rows, its limits, and all of it on the small shop."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from alignment.choose import NOVELTY, RECENCIES
from alignment.consumer import Ranks, trial
from alignment.floors import Ranked
from alignment.interactions import from_log, leave_last_out
from alignment.statistics import Paired
from benchmarks.figures import Report
from benchmarks.lab import averaged
from benchmarks.limits import report_beauty, report_gains, report_nights
from benchmarks.nights import night_after_night
from benchmarks.quality import PARTS, SHOPS, had, main, save, stored
from benchmarks.stages import Reading, Stages, digest, packed, readings, sources, unpacked
from benchmarks.terms import DIALS, HEADS, NEW, SCHEDULES
from store.tables import Tables


@pytest.fixture(scope="module")
def folder(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store is the small shop's, for stages of its own."""
    folder = tmp_path_factory.mktemp("quality")
    (folder / "store").symlink_to(shop / "store", target_is_directory=True)
    (folder / "catalogue").mkdir()
    ids = Tables(shop / "store").read("items", columns=["item_id"])["item_id"]
    table = pa.table({"item_id": ids, "asin": ids})  # ids that say the order of the catalogue
    pq.write_table(table, folder / "catalogue" / "items.parquet")
    settings = (shop / "itemnest.toml").read_text()
    assert "dims = [32, 64, 128, 256]" in settings
    (folder / "itemnest.toml").write_text(settings.replace("[32, 64, 128, 256]", "[8, 16]"))
    return folder


def run(folder: Path, *parts: str, seeds: int = 2, processes: int = 2) -> list[dict[str, object]]:
    options = ["--folder", folder, "--seeds", seeds, "--processes", processes, "--parts", *parts]
    main([str(folder / "catalogue"), *map(str, options)])
    return stored(folder / "quality.jsonl")


def test_parts_that_measure_vectors_measure_the_small_shop(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    parts = ("floors", "views", "compare", "cold", "order", "modalities", "posters")
    rows = run(folder, *parts)
    assert {row["part"] for row in rows} == set(parts)
    shown = capsys.readouterr().out
    assert all(f"## {part}" in shown for part in (*parts, "limits"))
    figures = [row for row in rows if row["part"] not in ("compare", "posters")]
    wanted = {"catalog", "vectors", "consumer", "dim", "split", "masked", "slice"}
    wanted |= {"R@10", "N@10", "R@20", "se", "seeds"}
    assert all(wanted <= set(row) for row in figures)
    assert {row["slice"] for row in figures} >= {
        "warm",
        "cold",
        "within cold",
        "warm beside cold",
        "warm, all learnt",
        "last pair descends",
        "text only",
        "image only",
        "half without text",
        "half without image: targets without it",
    }
    assert all(("sd" in row) == (row["seeds"] == 2) for row in figures)


def test_a_second_run_reads_its_stages_and_says_the_same(folder: Path):
    before = [row for row in run(folder, "floors", "views") if row["part"] in ("floors", "views")]
    stages = {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()}
    after = [row for row in run(folder, "floors", "views") if row["part"] in ("floors", "views")]
    assert after == before
    assert {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()} == stages


def test_a_prefix_is_compared_with_what_was_trained_for_its_dim_alone(folder: Path):
    rows = [r for r in run(folder, "views", "independent", seeds=1) if r.get("masked", True)]
    ours, alone = (
        {(row["vectors"], row["dim"]): row["R@20"] for row in rows if row["slice"] == slice}
        for slice in ("warm", "trained for this dim alone")
    )
    assert set(alone) == {(name, dim) for name in ("fused", "aligned") for dim in (8, 16)}
    less = {
        (row["vectors"], row["dim"]): row["difference"]
        for row in rows
        if row["slice"] == "prefix less its own" and row["figure"] == "R@20"
    }
    assert less == {key: pytest.approx(ours[key] - alone[key]) for key in alone}
    assert any(less.values())


@pytest.mark.slow
def test_a_trained_consumer_measures_the_small_shop(folder: Path):
    rows = [row for row in run(folder, "consumer_b") if row["part"] == "consumer_b"]
    read = {
        (row["vectors"], row["dim"]): row
        for row in rows
        if row["slice"] == "warm" and row["masked"]
    }
    assert set(read) == {("fused", 8), ("fused", 16), ("learned_ids", None)}
    assert all(row["R@20"] > 0 and row["seeds"] == 2 for row in read.values())
    less = {
        row["dim"]: row["difference"]
        for row in rows
        if row["slice"] == "fused less learned ids" and row["masked"] and row["figure"] == "R@20"
    }
    learned = read["learned_ids", None]["R@20"]
    assert less == {d: pytest.approx(read["fused", d]["R@20"] - learned) for d in (8, 16)}


@pytest.mark.slow
def test_parts_that_ask_how_measure_the_small_shop(folder: Path):
    parts = ("terms", "reach", "one_moment", "night_after_night")
    found = run(folder, *parts, seeds=1, processes=1)
    rows = {
        part: [row for row in found if row["part"] == part] for part in {r["part"] for r in found}
    }
    tried = {
        (row["vectors"], row["slice"]): row["N@10"]
        for row in rows["terms"]
        if row["dim"] == 16 and not row["masked"]
    }
    competing = {what for _, what in tried if what.endswith(" users have competes")}
    assert len(competing) == 1
    new = {f"new items, {what}" for what in NEW}
    assert {what for vectors, what in tried if vectors == "aligned"} == {*HEADS, *competing, *new}
    fused = {what for vectors, what in tried if vectors == "fused"}
    lengths = {what for what in fused if what.endswith(" steps")}
    recencies = {what for what in fused if what.startswith("histories fade by ")}
    assert fused - lengths - recencies == {*SCHEDULES, *DIALS, *competing}
    assert len(lengths) in (2, 3)  # beside what was chosen, which may be none
    assert len(recencies) == len(RECENCIES) - 1
    listed = len(SCHEDULES) + len(DIALS) + len(HEADS) + len(NEW) + 2
    assert len(tried) == listed + len(lengths) + len(recencies)
    assert {row["split"] for row in rows["terms"]} == {"validation"}
    assert tried["fused", "no residuals"] != tried["fused", "as released"]
    assert tried["fused", "content alone"] != tried["fused", "co-visits alone"]
    assert tried["aligned", "no head"] != tried["aligned", "as trained"]
    for vectors, as_it_is in (("fused", "as released"), ("aligned", "as trained")):
        assert tried[vectors, *competing] != tried[vectors, as_it_is]
    assert {row["split"] for row in rows["reach"]} == {"validation"}
    unmasked = [row for row in rows["reach"] if row["dim"] == 16 and not row["masked"]]
    new, known = (
        [row for row in unmasked if row["slice"] == what] for what in ("new items", "known items")
    )
    for found in (new, known):
        assert [row["reach"] for row in found] == list(NOVELTY)
        assert sum(row["chosen"] for row in found) == 1
    assert new[0]["R@20"] < new[-1]["R@20"]
    assert known[0]["R@20"] > known[-1]["R@20"]
    assert new[0]["share of top 10"] < new[-1]["share of top 10"]
    assert {row["split"] for row in rows["one_moment"]} == {"one moment"}
    assert {row["vectors"] for row in rows["one_moment"]} >= {"fused", "popularity"}
    nights = [row for row in rows["night_after_night"] if row["dim"] == 16]
    assert [row["slice"] for row in nights] == [f"night {k}" for k in range(1, 6)]
    assert all(row["R@10"] > 0 and row["ratio to the night before"] > 0 for row in nights)


def test_a_stage_is_made_anew_when_the_part_that_makes_it_changes():
    named = [sources(), sources("cold"), sources("benchmarks.reach"), sources("benchmarks.alone")]
    assert len({*named, sources("cold", "benchmarks.reach")}) == 5
    for gone in ("gone", "benchmarks.gone"):
        with pytest.raises(FileNotFoundError, match="gone"):
            sources("cold", gone)


def test_nights_of_several_seeds_are_their_mean(monkeypatch: pytest.MonkeyPatch):
    """Two nights after the first, two dims, and a value that tells seed, night and dim."""
    shop = SimpleNamespace(name="shop", dims=(8, 16))
    lab = cast(Any, SimpleNamespace(shop=shop, seeds=(1, 3)))
    monkeypatch.setattr("benchmarks.nights.night_shops", lambda _: [shop] * 3)
    nights = [{"R@10": 0.1}, {"R@10": 0.2}, {"R@10": 0.3}, {"R@10": 0.4}]
    monkeypatch.setattr(
        "benchmarks.nights._nights",
        lambda _, __, seed: [{"R@10": seed * each["R@10"]} for each in nights],
    )
    rows = night_after_night(lab)
    assert [(row["slice"], row["dim"], row["seeds"]) for row in rows] == [
        ("night 1", 8, 2),
        ("night 1", 16, 2),
        ("night 2", 8, 2),
        ("night 2", 16, 2),
    ]
    assert [row["R@10"] for row in rows] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_who_takes_what_they_have_had_is_marked():
    items = [0, 1, 2, 1, 3, 2, 0, 1]
    split = leave_last_out(from_log([0] * 4 + [1] * 4, items, range(8), n_items=4, seed=0))
    assert had(trial(split, on="test")).tolist() == [True, False]


def test_a_catalogue_that_is_no_folder_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none"), "--folder", str(tmp_path / "made")])
    assert "none is no folder" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_what_a_part_wants_fitted_is_known() -> None:
    assert set(SHOPS) == set(PARTS)


def test_a_stage_that_fails_in_a_process_is_told(tmp_path: Path):
    with pytest.raises(ValueError, match="two and three"):
        Stages(tmp_path, processes=2).make("one", [(k, partial(refused, k)) for k in range(2)])
    assert not list(tmp_path.glob("*.npz"))


def refused(_: int) -> dict[str, np.ndarray]:
    raise ValueError("two and three")


def test_consumer_b_runs_in_processes_and_is_kept(tmp_path: Path):
    rng = np.random.default_rng(0)
    users, items = np.repeat(range(40), 5), rng.integers(0, 20, 200)
    split = leave_last_out(from_log(users, items, range(200), n_items=20, seed=0))
    rows = rng.standard_normal((20, 4)).astype(np.float32)
    wanted = [
        Reading("content", 4, (rows, rows), seed=0, dropout=0.2),
        Reading("learned_ids", None, None, seed=0, dropout=0.5),
    ]
    stages = Stages(tmp_path)
    first = readings(stages, wanted, split)
    assert [each.ranked.vectors for each in first] == ["content", "learned_ids"]
    assert all(len(each.ranked.ranks.masked) == 40 for each in first)
    assert len(list(tmp_path.iterdir())) == 2
    (again, *_) = readings(stages, wanted, split)
    np.testing.assert_array_equal(again.ranked.ranks.masked, first[0].ranked.ranks.masked)


def test_ranks_come_back_as_they_were_kept():
    one, two = Ranks(np.array([1.0, 2.5]), np.array([0.0, 2.5])), Ranks(np.zeros(2), np.ones(2))
    found = [Ranked("fused", 32, one), Ranked("popularity", None, two)]
    back = unpacked(packed(found))
    assert [each[:2] for each in back] == [("fused", 32), ("popularity", None)]
    np.testing.assert_array_equal(back[0].ranks.unmasked, one.unmasked)
    np.testing.assert_array_equal(back[1].ranks.masked, two.masked)


def test_a_stage_is_named_after_all_that_it_is_made_from():
    rows = np.arange(4, dtype=np.float32)
    parts = [
        rows,
        rows + 1,
        rows.reshape(2, 2),
        rows.astype(np.float64),
        [rows],
        sparse.csr_matrix(rows.reshape(2, 2)),
        Paired(1, 2, 3, 4),
        Paired(1, 2, 3, 5),
        (1, (2, 3)),
        ((1, 2), 3),
        None,
    ]
    assert len({digest(part) for part in parts}) == len(parts)
    assert digest(rows.copy(), None) == digest(rows, None)


def test_a_stage_that_failed_is_made_again(tmp_path: Path):
    def fail() -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    stages = Stages(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stages.keep("one", 1, fail)
    assert stages.keep("one", 1, lambda: {"a": np.ones(1)})["a"] == 1
    assert stages.keep("one", 1, fail)["a"] == 1


def test_figures_of_seeds_are_averaged_and_their_spread_is_told():
    row = averaged([np.array([0.0, 50.0]), np.array([0.0, 5.0])])
    assert (row["R@10"], row["seeds"]) == (0.75, 2)
    assert row["sd"] == pytest.approx(0.5 / 2**0.5)
    assert "sd" not in averaged([np.array([0.0, 50.0])])


def test_the_rows_of_a_part_replace_those_it_had(tmp_path: Path):
    path = tmp_path / "quality.jsonl"
    save(path, "a", [{"n": 1}, {"n": 2}])
    save(path, "b", [{"n": 3}])
    save(path, "a", [{"n": 4}])
    assert stored(path) == [{"n": 3, "part": "b"}, {"n": 4, "part": "a"}]


def row(dim: int | None, recall: float, **other: object) -> dict[str, object]:
    same = {"vectors": "fused", "consumer": "A", "slice": "warm", "masked": False, "part": "views"}
    same["split"] = "leave-last-out"
    return {**same, "dim": dim, "R@10": recall, "N@10": recall / 2, "R@20": recall, **other}


def test_limits_are_those_of_the_rows_that_are_there(capsys: pytest.CaptureFixture[str]):
    rows = [row(64, 0.09), row(256, 0.10), row(256, 0.04, slice="cold")]
    report = Report(limited=True)
    report_beauty(report, rows)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    met = {line["figure"]: line.get("met") for line in lines}
    assert met == {
        "consumer A, 64-d, warm: R@10": True,
        "consumer A, 256-d, warm: R@10": True,
        "consumer A, 256-d, warm: N@10": True,
        "consumer A, 256-d, cold: R@10": False,
        "warm: R@10 at 64-d, of that at 256-d": True,
    }
    assert report.status() == 1


def test_fused_is_held_against_the_best_floor_of_its_dim(capsys: pytest.CaptureFixture[str]):
    rows = [
        row(128, 0.10, masked=True, split="one moment"),
        row(128, 0.30, masked=True),
        row(None, 0.20, masked=True, vectors="popularity", part="floors"),
        row(128, 0.25, masked=True, vectors="transitions_svd", part="floors"),
        row(256, 0.90, masked=True, vectors="transitions_svd", part="floors"),
        row(128, 0.20, masked=True, consumer="B"),
        row(None, 0.25, masked=True, consumer="B", vectors="learned_ids"),
    ]
    report = Report(limited=True)
    report_gains(report, rows, 128)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["value"] for line in lines] == [0.05, 0.2, -0.05, -0.2]
    assert "best floor, transitions_svd" in lines[0]["figure"]
    assert len(report.missed) == 1


def test_the_worst_night_is_held_against_the_limits(capsys: pytest.CaptureFixture[str]):
    fields = ("ratio to the night before", "ratio to the first night", "R@10", "retrained", "se")
    figures = [(1.0, 0.99, 0.20, 0.19, 0.01), (0.96, 1.0, 0.20, 0.22, 0.01)]
    rows = [
        {"part": "night_after_night", **dict(zip(fields, each, strict=True))} for each in figures
    ]
    report = Report(limited=True)
    report_nights(report, rows)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["value"] for line in lines] == [0.96, 2.0]
    assert len(report.missed) == 2
    report_nights(report, [row(128, 0.1)])
    assert not capsys.readouterr().out
