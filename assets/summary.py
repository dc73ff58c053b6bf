"""What a person sees when a run ends: assets, refusals, recall, neighbours, what to type next."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from assets.run import Outcome
from store import ItemStore

NEIGHBOURS = 3
SHOWN = 5
APART = 40  # by popularity, so that the five are not the same kind


def print_run(outcome: Outcome, *, as_json: bool = False) -> None:
    """Print what every asset did and how the run ended; as JSON lines for machines."""
    if as_json:
        _print_lines(outcome)
    else:
        _print_table(outcome)
    for warning in outcome.warnings:
        print(f"itemnest: warning: {warning}", file=sys.stderr)
    for failure in outcome.failures:
        print(f"itemnest: {failure}", file=sys.stderr)
    if not outcome.succeeded:
        print(
            "itemnest: nothing was released; a release made before is still served", file=sys.stderr
        )


def _print_lines(outcome: Outcome) -> None:
    for name, metadata in outcome.assets.items():
        plain = {key: value for key, value in metadata.items() if _is_plain(value)}
        print(json.dumps({"asset": name, **plain}))
    whole = {"run": outcome.run_id, "succeeded": outcome.succeeded, "failures": outcome.failures}
    whole["warnings"] = outcome.warnings
    print(json.dumps({**whole, "seconds": outcome.seconds, "peak_bytes": outcome.peak_bytes}))


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) < 200)


def _print_table(outcome: Outcome) -> None:
    rows = [
        [name, _count(metadata), _note(metadata), f"{metadata['seconds']:.1f}"]
        for name, metadata in outcome.assets.items()
    ]
    _table(["asset", "rows", "what it did", "seconds"], rows)
    print(f"\n{outcome.seconds:.1f} s, peak memory {outcome.peak_bytes / 2**30:.2f} GiB")


def print_demo(outcome: Outcome) -> None:
    """Print the run, the recall of its release, five items with neighbours, and the next lines."""
    print_run(outcome)
    if not outcome.succeeded:
        return
    store = ItemStore.open(outcome.settings.store)
    _print_rejects(store)
    _print_quality(store.release.quality.get("rows", []), store.dims)
    _print_neighbours(store)
    _print_next(outcome, store)


def _print_rejects(store: ItemStore) -> None:
    version = store.release.tables["rejected_items"]
    rejected = store.tables.read("rejected_items", version=version)
    print(f"\nRefused, each with its row and reason in rejected_items: {len(rejected)}")
    if len(rejected):
        names = ["source", "part", "reason"]
        counted = rejected.group_by(names).aggregate([([], "count_all")])
        rows = counted.sort_by([("count_all", "descending")]).to_pylist()
        _table([*names, "n"], [[row[name] for name in (*names, "count_all")] for row in rows])


def _print_quality(rows: Sequence[Mapping[str, Any]], dims: Sequence[int]) -> None:
    for kind, title in (
        ("warm", "Recall@20, next item of every user among all items, seen items left out"),
        ("cold", "The same for a tenth of the items, held out of all training"),
    ):
        chosen = [r for r in rows if r["slice"] == kind and r["split"] == "test" and r["masked"]]
        if not chosen:
            continue
        print(f"\n{title} ({chosen[0]['users']} users)")
        names = list(dict.fromkeys(row["vectors"] for row in chosen))
        table = []
        for name in names:
            by_dim = {row["dim"]: row["R@20"] for row in chosen if row["vectors"] == name}
            whole = next((v for d, v in by_dim.items() if d not in dims), None)
            cells = [f"{by_dim[d]:.3f}" if d in by_dim else "" for d in dims]
            table.append([name, *cells, "" if whole is None else f"{whole:.3f}"])
        _table(["", *(f"{dim}-d" for dim in dims), "no dim"], table)


def _print_neighbours(store: ItemStore) -> None:
    pinned = store.release.tables
    titles = store.tables.read("items", columns=["item_id", "title"], version=pinned["items"])
    support = store.tables.read(
        "item_vectors", columns=["item_id", "support"], version=pinned["item_vectors"]
    )
    titled = titles.filter(pc.greater(pc.utf8_length(titles["title"]), 0))
    order = [("support", "descending"), ("item_id", "ascending")]
    known = titled.join(support, "item_id").sort_by(order).to_pylist()
    print("\nNeighbours in the fused view")
    for row in known[: SHOWN * APART : APART]:
        print(f"  {row['title']}")
        for near in store.search(row["item_id"], k=NEIGHBOURS).to_pylist():
            print(f"    {near['score']:.2f}  {near['title'] or near['item_id']}")


def _print_next(outcome: Outcome, store: ItemStore) -> None:
    program, where = sys.argv[0], f"--store {_near(outcome.settings.store)}"
    item = store.item_matrix(dim=min(store.dims)).ids[0]
    print("\nType next")
    print(f"  {program} get {item} --dim {min(store.dims)} {where}")
    print(f"  {program} search --like {item} -k 5 {where}")
    print(f'  {program} sql "SELECT item_id, title FROM items LIMIT 5" {where}')
    print(f"  {program} ui --settings {_near(outcome.settings_file)}")
    print(f"\n{store.release.name} is released in {_near(outcome.settings.store)}")


def _near(path: str | Path) -> str:
    """Return the path as a person in the working folder would type it."""
    inside = "://" not in str(path) and Path(path).resolve().is_relative_to(Path.cwd())
    return str(Path(path).resolve().relative_to(Path.cwd())) if inside else str(path)


def _count(metadata: Mapping[str, Any]) -> str:
    rows = metadata.get("dagster/row_count")
    return "" if rows is None else f"{rows:,}"


def _note(metadata: Mapping[str, Any]) -> str:
    return str(metadata.get("what", ""))


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        print("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
