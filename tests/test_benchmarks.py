"""The benchmarks measure what they say: equal answers, planned turns, limits that can be missed."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.behaviour import generated
from benchmarks.figures import Report
from benchmarks.items import DIM, item_ids, made, made_items
from benchmarks.lookup import prove, turns
from benchmarks.plot import draw
from benchmarks.rivals import RIVALS, UNORDERED
from store import ItemStore

ITEMS = 2000


def test_every_rival_answers_as_the_store_does(tmp_path: Path):
    items = made_items(tmp_path, ITEMS)
    store = ItemStore.open(tmp_path / "store")
    rng = np.random.default_rng(1)
    calls = [rng.integers(0, ITEMS, n) for n in (1, 30, 3000)]  # repeats among them
    for rival in RIVALS:
        with rival(tmp_path, items) as gets:
            for rows in calls:
                ids = items.ids.take(rows).to_pylist()
                ours = store.get_item_vectors(ids, dim=DIM)
                for name, get in gets.items():
                    prove(name, get(ids), ours)


def test_an_answer_in_another_order_is_no_proof():
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(AssertionError, match="redis is off by 1"):
        prove("redis", vectors[::-1], vectors)
    prove(UNORDERED, vectors[::-1], vectors)


def test_ids_are_different_and_the_same_at_every_run():
    ids = item_ids(30_000)
    assert len(set(ids)) == len(ids)
    assert {len(item) for item in ids} >= {10, 14, 18}
    assert item_ids(100) == ids[:100]


def test_everyone_has_as_many_turns_as_planned():
    assert Counter(turns({"floor": 31, "ours": 31, "rival": 9, "slow": 2})) == {
        "floor": 31,
        "ours": 31,
        "rival": 9,
        "slow": 2,
    }


def test_what_was_built_halfway_is_built_anew(tmp_path: Path):
    def fail(draft: Path) -> None:
        (draft / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "part", fail)
    whole = made(tmp_path / "part", lambda draft: (draft / "whole").touch())
    assert [path.name for path in whole.iterdir()] == ["whole"]


@pytest.mark.parametrize(("value", "least", "status"), [(2, False, 0), (4, False, 1), (2, True, 1)])
def test_a_missed_limit_is_the_exit_status(
    value: float, least: bool, status: int, capsys: pytest.CaptureFixture[str]
):
    report = Report(limited=True)
    report.line("ratio", value, 3, least=least)
    assert report.status() == status
    assert json.loads(capsys.readouterr().out)["met"] is (status == 0)


def test_limits_of_another_size_are_not_printed(capsys: pytest.CaptureFixture[str]):
    report = Report(limited=False, items=10)
    report.line("ratio", 4, 3)
    row = {"figure": "ratio", "value": 4, "limit": None, "items": 10}
    assert json.loads(capsys.readouterr().out) == row
    assert report.status() == 0


def test_a_picture_is_small_and_the_same_for_the_same_lines(tmp_path: Path):
    lines = [{"machine": "2 cores", "date": "2026-11-23"}] + [
        {"figure": f"vectors per second: {name}", "value": value, "items": n, "ids": 100}
        for name, value in (("np.take", 3e6), ("itemnest", 2e6), ("lancedb", 1e4))
        for n in (10_000, 100_000)
    ]
    for name in ("a.svg", "b.svg"):
        draw(lines, tmp_path / name)
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn == (tmp_path / "b.svg").read_bytes()
    assert len(drawn) <= 200_000


def test_lines_of_no_panel_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="none of 1 lines belongs to a panel"):
        draw([{"figure": "other", "value": 1}], tmp_path / "none.svg")


def test_a_generated_log_has_about_the_events_asked_for():
    seq = generated(10_000)
    assert len(seq.items) == seq.indptr[-1] == pytest.approx(10_000, rel=0.1)
    assert (seq.n_users, seq.n_items) == (1000, 100)
    assert 0 <= seq.items.min() <= seq.items.max() < 100
