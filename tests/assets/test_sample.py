"""The generated shop: the same every time, imperfect on purpose, with tastes that can be found."""

import csv
import gzip
import hashlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from assets.sample import CHAINS, planted, write_sample

NEXT = {category: following for chain in CHAINS for category, following in pairwise(chain)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, items=640, users=500)
    return folder


def rows(folder: Path) -> dict[str, dict]:
    lines = (folder / "items.jsonl").read_text().splitlines()[:640]
    return {row["item_id"]: row for row in map(json.loads, lines)}


def events(folder: Path) -> list[list[str]]:
    with gzip.open(folder / "interactions.csv.gz", "rt") as file:
        return list(csv.reader(file))[1:-5]


def histories(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for user, item, *_ in events(folder):
        found.setdefault(user, []).append(item)
    return found


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_one_another_shop(tmp_path: Path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_sample(tmp_path / name, items=40, users=20, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != contents(tmp_path / "c")


def test_some_items_have_no_picture_no_text_or_no_event(folder: Path):
    shop = rows(folder)
    touched = {item for _, item, *_ in events(folder)}
    assert len(shop) == 640
    no_picture = [
        row for row in shop.values() if not row.get("image_path", "").startswith("images/P")
    ]
    no_text = [row for row in shop.values() if "title" not in row]
    assert len(no_picture) == round(0.08 * 640)
    assert len(no_text) == round(0.05 * 640)
    assert all(row["image_path"].startswith("images/P") for row in no_text)
    assert 0.03 < 1 - len(touched) / 640 < 0.12


def test_users_buy_in_order_over_a_year_and_some_items_are_popular(folder: Path):
    times = [int(time) for _, _, time, _ in events(folder)]
    lengths = [len(history) for history in histories(folder).values()]
    counts = Counter(item for _, item, *_ in events(folder))
    assert times == sorted(times)
    assert times[-1] - times[0] > 300 * 86_400
    assert min(lengths) >= 3
    assert max(lengths) <= 40
    top = sum(count for _, count in counts.most_common(64))
    assert top > 0.2 * len(times)


def test_what_comes_next_follows_the_chains_and_rarely_against_them(folder: Path):
    shop, chained, reversed_ = rows(folder), 0, 0
    category = {item: row.get("category") for item, row in shop.items()}
    for history in histories(folder).values():
        for item, following in pairwise(history):
            chained += (
                category[following] is not None and NEXT.get(category[item]) == category[following]
            )
            reversed_ += (
                category[item] is not None and NEXT.get(category[following]) == category[item]
            )
    assert chained > 20 * reversed_


def test_items_of_one_user_share_a_planted_group_far_above_chance(folder: Path):
    groups = planted(folder)
    assert groups.keys() == rows(folder).keys()
    pairs = [
        (groups[item], groups[following])
        for history in histories(folder).values()
        for item, following in pairwise(history)
    ]
    assert sum(a == b for a, b in pairs) > 0.5 * len(pairs)
    assert len(set(groups.values())) == 20


def test_the_whole_shop_is_as_large_as_the_demo_promises():
    options = write_sample.__kwdefaults__
    assert options["items"] >= 1500
    assert options["users"] >= 3000
