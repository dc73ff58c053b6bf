"""The `itemnest` program: a verb is one library call and the printing of what it returns.

It parses before it imports what a verb needs. It does not know the verbs that build a store:
those join by the entry point group `itemnest.commands`, each entry a function
`register(subparsers) -> None` whose parsers set `run`, a function from the namespace to an exit
status. Exit status: 0, 1 for an error (one sentence on stderr), 2 for a wrong command line.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import ItemnestError

if TYPE_CHECKING:
    from store.itemstore import ItemStore
    from store.releases import Release

COMMANDS = "itemnest.commands"
OURS = {"encoders", "matryoshka", "alignment", "store", "assets"}
SETTINGS = Path("itemnest.toml")
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended
INTERRUPTED = 130
SHOWN = ["release", "kind", "channel", "created_at"]
ELSEWHERE = {
    "init": "write an itemnest.toml",
    "materialize": "catalogue in, release out",
    "add": "add items from a file",
    "remove": "delete items that were added",
    "ui": "serve the Dagster UI",
    "demo": "a generated shop, end to end",
}
"""What the extra `assets` adds; until it is installed each says so."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A command: what it is for, which options it takes, what it does."""

    help: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        arguments = parser(entry_points(group=COMMANDS)).parse_args(argv)
    except SystemExit as stop:  # argparse has printed help, the version or what is wrong
        return stop.code if isinstance(stop.code, int) else 0
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OURS:
            raise
        return _complain(f"{error.name} is not installed: pip install 'itemnest[assets]'")
    except (ItemnestError, ValueError, OSError) as error:
        return _complain(_sentence(error))


def parser(joined: Iterable[EntryPoint]) -> argparse.ArgumentParser:
    """Return the parser of our verbs and of those that other packages register."""
    program = argparse.ArgumentParser(
        prog="itemnest", description="Item vectors of a catalogue: read, search, query, release."
    )
    program.add_argument("--version", action="version", version=f"itemnest {_version()}")
    verbs = program.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, verb in VERBS.items():
        command = verbs.add_parser(name, help=verb.help, description=verb.help)
        command.set_defaults(run=verb.run)
        verb.options(command)
        command.add_argument("--store", help="folder or address (default: see `itemnest --help`)")
        command.add_argument("--json", action="store_true", help="JSON lines even on a terminal")
    for entry in joined:
        try:
            entry.load()(verbs)
        except ModuleNotFoundError:  # its package is there without what it needs
            continue
    for name in ELSEWHERE.keys() - verbs.choices.keys():
        _stand_in(verbs, name)
    program.epilog = (
        "The store is --store, else $ITEMNEST_STORE, else `store` in ./itemnest.toml, "
        "else data/store."
    )
    return program


def _stand_in(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    # No prefix character: whatever follows the verb is swallowed, options too.
    absent = verbs.add_parser(
        name, help=f"{ELSEWHERE[name]} (needs itemnest[assets])", prefix_chars="\0", add_help=False
    )
    absent.add_argument("rest", nargs="*")
    message = f"`itemnest {name}` is not installed: pip install 'itemnest[assets]'"
    absent.set_defaults(run=lambda _: _complain(message))


def _version() -> str:
    try:
        return version("itemnest")
    except PackageNotFoundError:
        return "(not installed)"


def _complain(sentence: str) -> int:
    print(f"itemnest: {sentence}", file=sys.stderr)
    return 1


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def store_address(given: str | None) -> str:
    """Return where the store is: as given, else by environment, settings file or default."""
    address = given or os.environ.get("ITEMNEST_STORE")
    if address is None and SETTINGS.is_file():
        import tomllib

        address = tomllib.loads(SETTINGS.read_text(encoding="utf-8")).get("store")
    return address or "data/store"


def _open(arguments: argparse.Namespace) -> "ItemStore":
    from store.itemstore import ItemStore

    release = getattr(arguments, "release", None)
    return ItemStore.open(store_address(arguments.store), release=release)


def _show(
    arguments: argparse.Namespace,
    rows: Iterable[Mapping[str, object]],
    columns: list[str] | None = None,
) -> None:
    from store.show import show

    show(rows, as_json=arguments.json or not sys.stdout.isatty(), columns=columns)


def _release_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--release", metavar="NAME", help="default: the visible one")


def _vector_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dim", type=int, help="a published granularity (default: the largest)")
    command.add_argument("--view", help="default: the release's own choice")
    _release_option(command)


def _role_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--role",
        choices=("target", "context"),
        default="target",
        help="the item as candidate or as history",
    )


def _get_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("ids", nargs="+", metavar="ID", help="item ids; - reads them from stdin")
    command.add_argument(
        "--missing", choices=("raise", "zero", "nan"), default="raise", help="what an unknown id is"
    )
    _role_option(command)
    _vector_options(command)


def _get(arguments: argparse.Namespace) -> int:
    ids = list(_ids(arguments.ids))
    vectors, found = _open(arguments).lookup(
        ids,
        arguments.dim,
        view=arguments.view,
        role=arguments.role,
        missing=arguments.missing,
    )
    rows = zip(ids, found.tolist(), vectors, strict=True)
    _show(arguments, ({"item_id": i, "found": f, "vector": v} for i, f, v in rows))
    return 0


def _ids(given: Iterable[str]) -> Iterator[str]:
    for item in given:
        if item == "-":
            yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
        else:
            yield item


def _search_options(command: argparse.ArgumentParser) -> None:
    query = command.add_mutually_exclusive_group(required=True)
    query.add_argument("--like", metavar="ID", help="an item")
    query.add_argument("--text", help="words (needs itemnest[assets])")
    query.add_argument("--image", type=Path, metavar="FILE", help="a picture (the same)")
    command.add_argument("-k", type=int, default=10, help="how many items (default: 10)")
    command.add_argument("--where", metavar="SQL", help='a filter over items: "price < 20"')
    command.add_argument(
        "--exclude", nargs="+", default=[], metavar="ID", help="never answer these"
    )
    _vector_options(command)


def _search(arguments: argparse.Namespace) -> int:
    image = arguments.image.read_bytes() if arguments.image else None
    found = _open(arguments).search(
        arguments.like,
        text=arguments.text,
        image=image,
        k=arguments.k,
        dim=arguments.dim,
        where=arguments.where,
        exclude=arguments.exclude,
        view=arguments.view,
    )
    _show(arguments, found.to_pylist())
    return 0


def _sql_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("query", help="one SELECT in DuckDB's dialect; `SHOW TABLES` lists tables")
    command.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="default: 30"
    )
    command.add_argument(
        "--max-rows",
        type=int,
        default=1_000_000,
        metavar="N",
        help="more rows are an error (default: 1000000)",
    )
    _release_option(command)


def _sql(arguments: argparse.Namespace) -> int:
    found = _open(arguments).sql(
        arguments.query, timeout_s=arguments.timeout, max_rows=arguments.max_rows
    )
    rows = (row for batch in found.to_batches(1000) for row in batch.to_pylist())
    _show(arguments, rows, found.column_names)
    return 0


def _no_options(command: argparse.ArgumentParser) -> None:
    pass


def _releases(arguments: argparse.Namespace) -> int:
    from store.pins import pins as pins_of
    from store.releases import history
    from store.tables import Tables

    tables = Tables(store_address(arguments.store))  # a channel of its own may be all it has
    log, pins = history(tables), pins_of(tables)
    last = {release.channel: release for release in log}
    rows = [
        {
            **_release_row(release, visible=last[release.channel] is release),
            "pinned_by": [consumer for consumer, name in pins.items() if name == release.name],
        }
        for release in log
    ]
    _show(arguments, rows, [*SHOWN, "visible", "pinned_by", "dims", "views", "space_id"])
    return 0


def _release_row(release: "Release", *, visible: bool) -> dict[str, object]:
    return {
        "release": release.name,
        "kind": release.kind,
        "channel": release.channel,
        "created_at": release.created_at,
        "visible": visible,
        "dims": list(release.dims),
        "views": list(release.views),
        "space_id": release.space_id,
        "basis_id": release.basis_id,
        "refresh_id": release.refresh_id,
        "tables": release.tables,
        "quality": release.quality,
    }


def _promote_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("to", metavar="RELEASE", help="an earlier release, as `releases` lists it")
    command.add_argument("--channel", default="production", help="default: production")


def _promote(arguments: argparse.Namespace) -> int:
    from store.itemstore import ItemStore

    store = ItemStore.open(store_address(arguments.store), release=arguments.to)
    release = store.promote(arguments.to, arguments.channel)
    _show(arguments, [_release_row(release, visible=True)], SHOWN)
    return 0


def _pin_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("consumer", metavar="CONSUMER", help="who reads the release, any name")
    _release_option(command)


def _pin(arguments: argparse.Namespace) -> int:
    release = _open(arguments).pin(arguments.consumer)
    _show(arguments, [{"consumer": arguments.consumer, "release": release.name}])
    return 0


def _unpin_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("consumer", metavar="CONSUMER", help="as `releases` lists it")


def _unpin(arguments: argparse.Namespace) -> int:
    _open(arguments).unpin(arguments.consumer)
    return 0


def _changes_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--since", required=True, metavar="RELEASE", help="what a consumer has")
    _release_option(command)


def _changes(arguments: argparse.Namespace) -> int:
    found = _open(arguments).changes(since=arguments.since)
    kinds = {"added": found.added, "changed": found.changed, "removed": found.removed}
    rows = ({"change": kind, "item_id": item} for kind, ids in kinds.items() for item in ids)
    _show(arguments, rows, ["change", "item_id"])
    return 0


def _export_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="FOLDER", help="a new one")
    command.add_argument(
        "--format", choices=("npy", "parquet", "recbole"), default="npy", help="default: npy"
    )
    command.add_argument("--pad-row", action="store_true", help="a row of zeros first")
    command.add_argument(
        "--oov-row", action="store_true", help="the mean item last, for unknown ids"
    )
    command.add_argument("--force", action="store_true", help="replace an earlier export")
    command.add_argument(
        "--check", action="store_true", help="compare an earlier export with its release instead"
    )
    _role_option(command)
    _vector_options(command)


def _export(arguments: argparse.Namespace) -> int:
    from store.export import check, export

    if arguments.check:
        manifest = check(_open(arguments), arguments.folder)
    else:
        manifest = export(
            _open(arguments),
            arguments.folder,
            dim=arguments.dim,
            view=arguments.view,
            role=arguments.role,
            form=arguments.format,
            pad_row=arguments.pad_row,
            oov_row=arguments.oov_row,
            force=arguments.force,
        )
    _show(arguments, [manifest], ["release", "view", "role", "items", "dim", "format"])
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from store.doctor import examine
    from store.tables import Tables

    findings = list(examine(Tables(store_address(arguments.store)), release=arguments.release))
    _show(arguments, ({"check": f.check, "ok": f.ok, "detail": f.detail} for f in findings))
    wrong = [f"{f.check}: {f.detail}" for f in findings if not f.ok]
    return _complain("; ".join(wrong)) if wrong else 0


VERBS = {
    "get": Verb("print the vectors of items", _get_options, _get),
    "search": Verb(
        "find the items most like an item, a text or a picture", _search_options, _search
    ),
    "sql": Verb("run one SELECT over the tables of a release", _sql_options, _sql),
    "releases": Verb(
        "list the releases and rollbacks, the visible one last", _no_options, _releases
    ),
    "promote": Verb("have a channel show a release", _promote_options, _promote),
    "rollback": Verb("have a channel show an earlier release again", _promote_options, _promote),
    "pin": Verb("keep a release for a consumer that reads it", _pin_options, _pin),
    "unpin": Verb("let go of the release that a consumer pinned", _unpin_options, _unpin),
    "changes": Verb("list the items that changed since a release", _changes_options, _changes),
    "export": Verb("write a view's vectors, ids and a manifest to files", _export_options, _export),
    "doctor": Verb("check that a release is whole and sound", _release_option, _doctor),
}

if __name__ == "__main__":
    sys.exit(main())
