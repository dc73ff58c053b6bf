"""The picture and the tables of docs/quality.md show the rows they were given."""

from pathlib import Path

from benchmarks.curves import PUBLISHED, curves, draw, table


def row(vectors: str, dim: int | None, value: float, **said: object) -> dict[str, object]:
    plain = {"catalog": "shop", "consumer": "A", "masked": True, "slice": "warm"}
    return plain | {"split": "leave-last-out", "vectors": vectors, "dim": dim, "R@20": value} | said


ROWS = [
    row("fused", 32, 0.25),
    row("fused", 64, 0.5),
    row("fused", 64, 0.6, consumer="B"),
    row("fused", 64, 0.1, slice="cold"),
    row("fused", 64, 0.2, masked=False),
    row("fused", 64, 0.3, split="one moment"),
    row("fused", 64, 0.4, catalog="another"),
    row("transitions", None, 0.125),
    row("text_raw", None, 0.9),
]


def test_a_series_holds_the_warm_rows_of_its_catalogue() -> None:
    assert curves(ROWS, "shop") == {
        "fused": {32: 0.25, 64: 0.5},
        "fused in a SASRec": {64: 0.6},
        "transitions": {None: 0.125},
    }


def test_published_figures_stand_beside_the_catalogue_they_are_about() -> None:
    beauty = [row("fused", 32, 0.0, **{"R@10": 0.25, "masked": False, "catalog": "amazon_beauty"})]
    found = curves(beauty, "amazon_beauty")
    assert found["fused"] == {32: 0.25}
    assert found[PUBLISHED][256] == 0.072


def test_a_level_series_stands_in_the_first_column() -> None:
    assert table(curves(ROWS, "shop")) == [
        {"": "fused", "32": ".2500", "64": ".5000"},
        {"": "fused in a SASRec", "32": "", "64": ".6000"},
        {"": "transitions", "32": ".1250", "64": ""},
    ]


def test_the_same_rows_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw({each: curves(ROWS, each) for each in ("shop", "another")}, tmp_path / name)
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn == (tmp_path / "b.svg").read_bytes()
    assert len(drawn) <= 200_000
