"""Figures as JSON lines, one each, and the machine that they were taken on.

It knows how a figure is printed and when a limit is missed. It does not know what is measured.
"""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


class Report:
    """Prints figures as they come; `missed` names those whose limit does not hold.

    limited: whether the limits are meant for what is measured; else none is printed.
    items: how many items every figure is of, where that is one number.
    """

    def __init__(self, *, limited: bool, items: int | None = None) -> None:
        self.missed: list[str] = []
        self._limited = limited
        self._common = {} if items is None else {"items": items}

    def line(
        self,
        figure: str,
        value: float,
        limit: float | None = None,
        *,
        least: bool = False,
        of: Mapping[str, object] | None = None,
    ) -> None:
        """Print one figure and what it is of; `least`: the limit is the least that is allowed."""
        limit = limit if self._limited else None
        row: dict[str, object] = {"figure": figure, "value": value, "limit": limit}
        if limit is not None:
            row["met"] = value >= limit if least else value <= limit
            if not row["met"]:
                self.missed.append(figure)
        print(json.dumps({**row, **self._common, **(of or {})}), flush=True)

    def status(self) -> int:
        """Return the exit status: 1 if a limit was missed."""
        return 1 if self.missed else 0


def print_machine(*distributions: str) -> None:
    """Print the day, the machine in words, its load and the versions of these distributions."""
    machine = f"{os.cpu_count()} cores, {cpu_model()}, Python {platform.python_version()}"
    versions = {name: version(name) for name in distributions}
    day = datetime.now(UTC).date().isoformat()
    load = round(os.getloadavg()[0], 1)  # over the last minute: what others do here
    row = {"machine": machine, "date": day, "load": load, "versions": versions}
    print(json.dumps(row), flush=True)


def cpu_model() -> str:
    """Return the processor's name as Linux gives it, else its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return platform.machine()
    names = [line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()


def significant(value: float) -> float:
    """Return the value at four significant digits."""
    return float(f"{value:.4g}")
