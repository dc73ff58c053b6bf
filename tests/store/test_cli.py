import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import ItemStore, cli, schema
from store.releases import Draft, publish
from store.show import json_line, table
from store.tables import Tables

N, WIDTH, DIMS = 12, 16, [4, 8, 16]
IDS = [f"A{i}" for i in range(N)]
ROOT = Path(__file__).parents[2]


def unit(seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(N, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def publish_shop(folder: Path) -> None:
    """Publish r1, an `items` table and a view with both roles, and r2, where A0 has moved."""
    tables = Tables(folder)
    items = pa.table({"item_id": IDS, "title": [f"Item {i}" for i in range(N)]})
    price = pa.array(range(N), pa.int64())
    version = tables.replace("items", items.append_column("price", price))
    context, target = unit(1), unit(2)
    draft = Draft(
        "space",
        "basis",
        "refresh",
        "inputs",
        {},
        {"dims": DIMS, "width": WIDTH, "views": {"fused": schema.ROLES}, "default_view": "fused"},
        {"R@10": 0.5},
    )
    for _ in range(2):
        columns = {"fused_context": context, "fused_target": target}
        vectors = tables.replace("item_vectors", schema.item_vectors_table(IDS, columns))
        publish(tables, replace(draft, tables={"items": version, "item_vectors": vectors}))
        target = np.concatenate([-target[:1], target[1:]])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that no test writes to."""
    folder = tmp_path_factory.mktemp("shop")
    publish_shop(folder)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITEMNEST_STORE", str(shop))


def lines(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict]:
    assert cli.main(list(argv)) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def complaint(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 1) -> str:
    assert cli.main(list(argv)) == status
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_get_prints_what_the_library_returns(capsys, shop: Path):
    rows = lines(capsys, "get", "A3", "A1", "A3", "--dim", "8", "--role", "context")
    expected = ItemStore.open(shop).get_item_vectors(["A3", "A1", "A3"], 8, role="context")

    assert [row["item_id"] for row in rows] == ["A3", "A1", "A3"]
    np.testing.assert_array_equal(np.float32([row["vector"] for row in rows]), expected)


def test_get_reads_ids_from_stdin(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("A2\nA3\r\n\n"))

    assert [row["item_id"] for row in lines(capsys, "get", "A1", "-")] == ["A1", "A2", "A3"]


def test_get_marks_what_is_missing(capsys):
    zero = lines(capsys, "get", "A1", "no", "--dim", "4", "--missing", "zero")
    nan = lines(capsys, "get", "no", "--dim", "4", "--missing", "nan")

    assert [row["found"] for row in zero] == [True, False]
    assert zero[1]["vector"] == [0, 0, 0, 0]
    assert nan[0]["vector"] == [None] * 4


def test_search_prints_the_nearest_items(capsys, shop: Path):
    argv = ["search", "--like", "A1", "-k", "3", "--dim", "8"]
    rows = lines(capsys, *argv, "--where", "price > 4", "--exclude", "A5", "A6")
    found = ItemStore.open(shop).search("A1", k=3, dim=8, where="price > 4", exclude=["A5", "A6"])

    assert rows == found.to_pylist()


def test_sql_prints_the_rows_of_a_select(capsys):
    rows = lines(capsys, "sql", "SELECT count(*) AS n, max(price) AS top FROM items")

    assert rows == [{"n": N, "top": N - 1}]


def test_releases_lists_the_log_and_marks_the_visible_one(capsys):
    rows = lines(capsys, "releases")

    assert [(row["release"], row["kind"], row["visible"]) for row in rows] == [
        ("r1", "publish", False),
        ("r2", "publish", True),
    ]
    assert rows[0]["quality"] == {"R@10": 0.5}


def test_changes_lists_what_a_consumer_must_refresh(capsys):
    assert lines(capsys, "changes", "--since", "r1") == [{"change": "changed", "item_id": "A0"}]
    assert lines(capsys, "changes", "--since", "r2") == []


def test_an_earlier_release_can_be_read(capsys):
    old = lines(capsys, "get", "A0", "A1", "--release", "r1")
    new = lines(capsys, "get", "A0", "A1")

    assert old[0]["vector"] == [-x for x in new[0]["vector"]]
    assert old[1] == new[1]


def test_rollback_moves_what_is_visible(capsys, tmp_path: Path):
    publish_shop(tmp_path / "own")
    store = ["--store", str(tmp_path / "own")]

    assert lines(capsys, "rollback", "r1", *store)[0]["release"] == "r1"
    assert lines(capsys, "releases", *store)[-1]["kind"] == "rollback"


def test_a_pin_is_listed_beside_its_release_until_it_is_let_go_of(capsys, tmp_path: Path):
    publish_shop(tmp_path / "own")
    store = ["--store", str(tmp_path / "own")]

    pinned = lines(capsys, "pin", "ranker", "--release", "r1", *store)
    assert pinned == [{"consumer": "ranker", "release": "r1"}]
    assert [row["pinned_by"] for row in lines(capsys, "releases", *store)] == [["ranker"], []]
    assert lines(capsys, "unpin", "ranker", *store) == []
    assert [row["pinned_by"] for row in lines(capsys, "releases", *store)] == [[], []]
    assert "'ranker' pins no release" in complaint(capsys, "unpin", "ranker", *store)


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_export_writes_what_the_manifest_says(capsys, shop: Path, tmp_path: Path, form: str):
    target = tmp_path / "new" / "export"
    printed = lines(capsys, "export", str(target), "--dim", "8", "--format", form)[0]
    manifest = json.loads((target / "manifest.json").read_text())
    expected = ItemStore.open(shop).item_matrix(8)

    if form == "npy":
        ids, vectors = (
            json.loads((target / "ids.json").read_text()),
            np.load(target / "vectors.npy"),
        )
    else:
        rows = pq.read_table(target / "vectors.parquet")
        ids, vectors = rows["item_id"].to_pylist(), schema.matrix(rows["vector"])

    assert printed == manifest
    assert (manifest["release"], manifest["space_id"], manifest["dim"]) == ("r2", "space", 8)
    assert ids == expected.ids
    np.testing.assert_array_equal(vectors, expected.vectors)
    for name, told in manifest["files"].items():
        assert hashlib.sha256((target / name).read_bytes()).hexdigest() == told["sha256"]
    assert os.listdir(target.parent) == ["export"]


def test_export_replaces_an_earlier_export_only_by_force(capsys, tmp_path: Path):
    argv = ["export", str(tmp_path / "out"), "--dim"]
    lines(capsys, *argv, "4")

    assert "--force replaces it" in complaint(capsys, *argv, "8")
    assert lines(capsys, *argv, "8", "--force")[0]["dim"] == 8
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (N, 8)
    assert os.listdir(tmp_path) == ["out"]


def test_export_never_replaces_what_it_did_not_write(capsys, tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")

    assert "no earlier export" in complaint(capsys, "export", str(home), "--force")
    assert (home / "thesis.txt").read_text() == "years of work"


def test_a_failed_export_leaves_nothing(capsys, tmp_path: Path):
    complaint(capsys, "export", str(tmp_path / "out"), "--dim", "5")

    assert os.listdir(tmp_path) == []


def test_doctor_finds_a_sound_release_sound(capsys):
    lines(capsys, "get", "A1")
    rows = lines(capsys, "doctor")

    assert all(row["ok"] for row in rows)
    assert {"table items", "table item_vectors", "vectors"} <= {row["check"] for row in rows}


def test_doctor_names_a_damaged_pack(capsys, tmp_path: Path):
    publish_shop(tmp_path / "own")
    argv = ["--store", str(tmp_path / "own")]
    lines(capsys, "get", "A1", *argv)
    assert cli.main(["doctor", *argv]) == 0
    (pack,) = (tmp_path / "own" / "packs").rglob("*.f32")
    damaged = bytearray(pack.read_bytes())
    damaged[100] ^= 1
    pack.write_bytes(damaged)
    capsys.readouterr()

    assert cli.main(["doctor", *argv]) == 1
    assert f"pack {pack.name}" in capsys.readouterr().err


def test_doctor_names_a_lost_file_and_still_looks_at_the_rest(capsys, tmp_path: Path):
    publish_shop(tmp_path / "own")
    for path in (tmp_path / "own" / "items.lance" / "data").iterdir():
        path.unlink()

    assert cli.main(["doctor", "--store", str(tmp_path / "own")]) == 1
    out, err = capsys.readouterr()
    found = {row["check"]: row["ok"] for row in map(json.loads, out.splitlines())}
    assert not found["table items"]
    assert found["vectors"]
    assert "table items" in err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["get", "nope"], "'nope'"),
        (["get", "A1", "--dim", "5"], "4, 8, 16"),
        (["get", "A1", "--view", "nope"], "'fused'"),
        (["get", "A1", "--release", "r9"], "r9"),
        (["get", "A1", "--store", "nowhere"], "no release"),
        (["search", "--like", "A1", "-k", "0"], "k=0"),
        (["search", "--like", "A1", "--where", "nope = 1"], "nope"),
        (["search", "--image", "nope.png"], "nope.png: No such file"),
        (["sql", "DROP TABLE items"], "DROP"),
        (["sql", "SELECT price FROM items", "--max-rows", "2"], "2 rows"),
        (["rollback", "r9"], "r9"),
        (["changes", "--since", "r9"], "r9"),
        (["doctor", "--store", "nowhere"], "no release"),
    ],
)
def test_an_error_is_one_sentence_and_status_1(capsys, argv: list[str], told: str):
    sentence = complaint(capsys, *argv)

    assert sentence.startswith("itemnest: ")
    assert sentence.count("\n") == 1
    assert told in sentence


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nope"],
        ["get"],
        ["get", "A1", "--nope"],
        ["get", "A1", "--dim", "many"],
        ["get", "A1", "--missing", "skip"],
        ["search"],
        ["search", "--like", "A1", "--text", "red"],
        ["changes"],
        ["export", "x", "--format", "csv"],
    ],
)
def test_a_wrong_command_line_is_status_2(capsys, argv: list[str]):
    assert "usage: itemnest" in complaint(capsys, *argv, status=2)


def test_help_and_version_are_status_0(capsys):
    assert cli.main(["--help"]) == 0
    assert cli.main(["get", "--help"]) == 0
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("itemnest ")


def test_every_verb_and_every_option_says_what_it_is_for():
    program = cli.parser([])
    (verbs,) = (a for a in program._actions if isinstance(a, argparse._SubParsersAction))
    helped = {choice.dest for choice in verbs._choices_actions if choice.help}

    assert helped == set(verbs.choices) == {*cli.VERBS, *cli.ELSEWHERE}
    for name in cli.VERBS:
        for action in verbs.choices[name]._actions:
            assert action.help, f"{name} {action.dest}"


@pytest.mark.parametrize("name", sorted(cli.ELSEWHERE))
def test_a_verb_of_an_absent_package_names_what_to_install(capsys, name: str):
    arguments = cli.parser([]).parse_args([name, "--any", "option", "-x"])

    assert arguments.run(arguments) == 1
    assert "pip install 'itemnest[assets]'" in capsys.readouterr().err


def register(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verbs.add_parser("demo", help="ours").set_defaults(run=lambda _: 7)


def test_other_packages_add_verbs_by_entry_point():
    entry = EntryPoint("x", "tests.store.test_cli:register", cli.COMMANDS)
    arguments = cli.parser([entry]).parse_args(["demo"])

    assert arguments.run(arguments) == 7


def test_a_package_that_lacks_what_it_needs_takes_no_verb_away():
    entry = EntryPoint("x", "no_such_module:register", cli.COMMANDS)

    assert cli.parser([entry]).parse_args(["get", "A1"]).ids == ["A1"]


def test_the_store_is_the_option_then_the_variable_then_the_settings_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "itemnest.toml").write_text('store = "from settings"\n')
    monkeypatch.setenv("ITEMNEST_STORE", "from variable")

    assert cli.store_address("given") == "given"
    assert cli.store_address(None) == "from variable"
    monkeypatch.delenv("ITEMNEST_STORE")
    assert cli.store_address(None) == "from settings"
    (tmp_path / "itemnest.toml").unlink()
    assert cli.store_address(None) == "data/store"


def test_a_terminal_gets_a_table(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    cli.main(["search", "--like", "A1", "-k", "2"])
    heading, first, _, count = capsys.readouterr().out.splitlines()

    assert heading.split() == ["item_id", "score", "title"]
    assert len(first.split()) == 4
    assert count == "(2 rows)"
    assert cli.main(["search", "--like", "A1", "-k", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["title"]


def test_a_table_aligns_cuts_and_disarms():
    rows = [
        {"name": "\x1b[2Jred", "n": 5, "vector": np.arange(9, dtype=np.float32), "blob": b"abc"},
        {"name": "x" * 99, "n": 500, "vector": np.zeros(9, np.float32), "blob": None},
    ]
    heading, first, second, count = table(rows).splitlines()

    assert "\x1b" not in first
    assert "[0, 1, 2, 3, … 9]" in first
    assert "<3 bytes>" in first
    assert "x" * 47 + "…" in second
    assert heading.index("n  v") == first.index("5  [") == second.index("0  [")
    assert count == "(2 rows)"
    assert table([], ["a"]) == "a\n(0 rows)\n"


def test_json_lines_are_strict_json():
    row = {"x": float("nan"), "y": [float("inf"), 1], "b": b"\x00", "s": "é\n", "n": None}

    assert json_line(row) == '{"x": null, "y": [null, 1], "b": "AA==", "s": "é\\n", "n": null}'


def program(*argv: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "store.cli", *argv]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, text=True, capture_output=True, **options)


def test_the_program_prints_json_lines_into_a_pipe():
    done = program("get", "-", "--dim", "4", input="A1\nA2\n")

    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["item_id"] for line in done.stdout.splitlines()] == ["A1", "A2"]


def test_a_reader_that_stops_early_is_no_error():
    many = "\n".join(IDS * 500)
    command = f"{sys.executable} -m store.cli get - | head -n 1; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], env=environment, input=many, text=True, capture_output=True
    )

    assert (done.returncode, done.stderr) == (cli.BROKEN_PIPE, "")
    assert len(done.stdout.splitlines()) == 1


def test_parsing_imports_nothing_that_only_a_verb_needs():
    code = (
        "import sys; from store import cli; cli.main(['--help']); "
        "print(sorted({'lance', 'lancedb', 'duckdb', 'torch', 'dagster'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "[]"
