"""The process that uses Lance for a forked one: a JSON question on stdin, the answer on stdout."""

import json
import sys

from store.pack import Packs
from store.releases import named, visible
from store.tables import Tables


def main() -> None:
    """Answer the question on stdin."""
    asked = json.load(sys.stdin)
    tables = Tables(asked["uri"], asked["storage_options"])
    if "channel" in asked:
        row = visible(tables, asked["channel"]).to_row()
        answer = row | {"created_at": row["created_at"].isoformat()}
    else:
        Packs(tables, named(tables, asked["release"])).build(asked["file"])
        answer = {}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
