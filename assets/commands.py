"""The commands of `itemnest` that write a store: init, materialize, add, remove, ui, demo.

`store/cli.py` finds them by entry point. This module imports nothing heavy, since every start of
the program reads it: Dagster alone takes two seconds.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assets.add import Refreshed

SETTINGS = "itemnest.toml"


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this package to the `itemnest` program."""
    init = subparsers.add_parser("init", help="write an itemnest.toml with every setting explained")
    init.add_argument("catalogue", nargs="?", default="catalogue", help="the catalogue's folder")
    init.set_defaults(run=_init)

    materialize = subparsers.add_parser(
        "materialize", help="catalogue in, release out; builds only what changed"
    )
    materialize.add_argument(
        "--accept", action="append", default=[], metavar="CHECK", help="let this check fail once"
    )
    materialize.add_argument(
        "--retry", action="store_true", help="try again the items that models have refused"
    )
    materialize.set_defaults(run=_materialize)

    add = subparsers.add_parser(
        "add", help="add items of a file beside the catalogue's, in seconds and without retraining"
    )
    add.add_argument(
        "file", type=Path, help="items in the catalogue format (.jsonl, .csv, .parquet)"
    )
    add.set_defaults(run=_add)

    remove = subparsers.add_parser("remove", help="delete items that `itemnest add` added")
    remove.add_argument("ids", nargs="+", metavar="ID", help="ids of added items")
    remove.set_defaults(run=_remove)

    encoders = subparsers.add_parser(
        "encoders", help="the towers that settings may name, and which of them are on this machine"
    )
    encoders.set_defaults(run=_encoders)

    ui = subparsers.add_parser("ui", help="serve the Dagster UI and run the schedule")
    ui.add_argument("--host", default="127.0.0.1")
    ui.add_argument("--port", type=int, default=3000)
    ui.set_defaults(run=_ui)

    demo = subparsers.add_parser(
        "demo", help="a generated shop, or a catalogue of yours, end to end"
    )
    demo.add_argument("--catalog", type=Path, help="a folder in the catalogue format")
    demo.add_argument("--folder", type=Path, help="where to build (default: data/<catalogue>)")
    demo.set_defaults(run=_demo)

    for parser in (materialize, add, remove, encoders):
        parser.add_argument("--json", action="store_true", help="JSON lines even on a terminal")
    for parser in (materialize, add, remove, ui):
        parser.add_argument(
            "--settings", type=Path, default=Path(SETTINGS), help=f"default: ./{SETTINGS}"
        )


def _init(arguments: argparse.Namespace) -> int:
    from assets.settings import write_default

    path = write_default(Path(SETTINGS), catalogue=arguments.catalogue)
    print(f"wrote {path}: put items.* and interactions.* into {arguments.catalogue}/, then")
    print("  itemnest materialize")
    return 0


def _materialize(arguments: argparse.Namespace) -> int:
    from assets.run import materialize
    from assets.summary import print_run

    with redirect_stdout(sys.stderr):  # of libraries that tell what they do, Ray's dying workers
        outcome = materialize(
            _existing(arguments.settings), accept=arguments.accept, retry=arguments.retry
        )
    print_run(outcome, as_json=arguments.json or not sys.stdout.isatty())
    return 0 if outcome.succeeded else 1


def _add(arguments: argparse.Namespace) -> int:
    from assets.add import add
    from assets.settings import load

    _print_refreshed(add(load(_existing(arguments.settings)), arguments.file), arguments)
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from assets.add import remove
    from assets.settings import load

    _print_refreshed(remove(load(_existing(arguments.settings)), arguments.ids), arguments)
    return 0


def _encoders(arguments: argparse.Namespace) -> int:
    from encoders.registry import missing
    from encoders.spec import known_towers
    from store.show import show

    rows = [
        {
            "tower": name,
            "reads": ", ".join(known.reads),
            "dim": known.dim,
            "megabytes": known.megabytes,
            "licence": known.licence,
            "from": known.source if known.package is None else known.package["distribution"],
            "here": not (lacking := missing(name)),
            "missing": lacking,
        }
        for name, known in known_towers().items()
    ]
    columns = ["tower", "reads", "dim", "megabytes", "licence", "here", "from"]
    show(rows, as_json=arguments.json or not sys.stdout.isatty(), columns=columns)
    return 0


def _print_refreshed(done: "Refreshed", arguments: argparse.Namespace) -> None:
    if arguments.json or not sys.stdout.isatty():
        print(json.dumps(asdict(done)))
        return
    print(f"{done.what}; {done.release} is visible after {done.seconds:.1f} s")
    for row in done.refused:
        print(f"  {row['what']}: {row['reason']} ({row['count']})")


def _ui(arguments: argparse.Namespace) -> int:
    from assets.workspace import prepare, ui_command

    home = prepare(_existing(arguments.settings))
    print(f"Dagster UI on http://{arguments.host}:{arguments.port} (Ctrl-C stops it)", flush=True)
    # A process group of its own: the daemon and the code server must stop with the web server.
    server = subprocess.Popen(
        ui_command(home, host=arguments.host, port=arguments.port), cwd=home, start_new_session=True
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os.killpg(server.pid, signal.SIGINT))
    return server.wait()


def _demo(arguments: argparse.Namespace) -> int:
    from assets.run import materialize
    from assets.sample import write_sample
    from assets.settings import load, write_default
    from assets.summary import print_demo

    catalog: Path | None = arguments.catalog
    if catalog is not None and not catalog.is_dir():
        raise ValueError(f"{catalog} is not a folder: --catalog takes a folder with items.*")
    name = catalog.resolve().name if catalog else "demo"
    folder: Path = arguments.folder or Path("data") / name
    folder.mkdir(parents=True, exist_ok=True)
    if catalog is None:
        catalog = folder / "catalogue"
        if not (catalog / "README.txt").exists():  # written last
            print(f"writing the sample shop to {catalog} …", file=sys.stderr, flush=True)
            write_sample(catalog)
    settings_file = folder / SETTINGS
    if not settings_file.exists():
        write_default(settings_file, catalogue=str(catalog.resolve()), store="store")
    elif (built := load(settings_file).catalogue.resolve()) != catalog.resolve():
        raise ValueError(f"{folder} holds the store of {built}: name another with --folder")
    outcome = materialize(settings_file)
    print_demo(outcome)
    return 0 if outcome.succeeded else 1


def _existing(settings: Path) -> Path:
    if not settings.is_file():
        raise FileNotFoundError(
            f"no settings file {settings}: `itemnest init` writes one, --settings names another"
        )
    return settings
