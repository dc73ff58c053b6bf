"""The folder that a store is built from: its itemnest.toml and its Dagster instance beside it.

The instance is kept in `.dagster`, quiet (no telemetry, no pop-ups) and with one run at a time. It
knows where Dagster finds things, not what runs there.
"""

import os
import sys
from pathlib import Path

from assets.settings import FILE_VARIABLE

INSTANCE = """\
# Written by Itemnest. No telemetry, no pop-ups; runs of one store wait for each other.
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 1
"""
CODE_LOCATION = """\
load_from:
  - python_module:
      module_name: assets.definitions
      location_name: itemnest
"""


def prepare(settings_file: Path) -> Path:
    """Make the Dagster instance beside the settings file, point this process at both, return it."""
    home = settings_file.resolve().parent / ".dagster"
    home.mkdir(parents=True, exist_ok=True)
    for name, text in (("dagster.yaml", INSTANCE), ("workspace.yaml", CODE_LOCATION)):
        if not (home / name).exists():
            (home / name).write_text(text)
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
    os.environ[FILE_VARIABLE] = str(settings_file.resolve())
    return home


def ui_command(home: Path, *, host: str, port: int) -> list[str]:
    """Return the command that serves the UI and runs the daemon (which ticks the schedules)."""
    dg = Path(sys.executable).with_name("dg")
    return [
        *(str(dg), "dev", "--workspace", str(home / "workspace.yaml")),
        *("--host", host, "--port", str(port), "--log-level", "warning"),
    ]
