"""The commands that write a store: what they print, and where."""

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.checks import Verdict
from assets.lake import Lake
from assets.report import verdict, warning
from assets.run import Outcome, failed_checks
from assets.settings import Settings, write_default
from assets.summary import print_run
from store.cli import main
from store.tables import Tables
from tests.assets.small import item, write


def test_a_tower_that_is_not_on_this_machine_says_what_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    write(tmp_path, [item(n) for n in range(3)])
    settings_file = tmp_path / "itemnest.toml"
    settings_file.write_text('store = "store"\n[encoders]\ntext = "multilingual-e5-small"\n')
    assert main(["materialize", "--json", "--settings", str(settings_file)]) == 1
    assert "`hf download intfloat/multilingual-e5-small` fetches it" in capsys.readouterr().err


def test_what_libraries_print_is_not_among_the_lines_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def noisy(settings_file: Path, **more: Any) -> Outcome:
        sys.stdout.write("(raylet) a worker died\n")
        return Outcome(Settings(), settings_file, "run", True, 1.0, 1, {"items": {"rows": 3}})

    monkeypatch.setattr("assets.run.materialize", noisy)
    settings_file = write_default(tmp_path / "itemnest.toml")
    assert main(["materialize", "--json", "--settings", str(settings_file)]) == 0
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert lines[0] == {"asset": "items", "rows": 3}
    assert lines[-1]["succeeded"]
    assert "(raylet)" in printed.err


def test_a_check_that_blocks_is_a_failure_and_one_that_does_not_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(Settings(), Tables(tmp_path))

    @dg.asset(
        check_specs=[
            dg.AssetCheckSpec("gate", asset="measured", blocking=True),
            dg.AssetCheckSpec("hint", asset="measured"),
        ]
    )
    def measured() -> dg.MaterializeResult:
        found = Verdict(False, "too low", {})
        return dg.MaterializeResult(
            check_results=[verdict(lake, "gate", found), warning("hint", found)]
        )

    result = dg.materialize([measured], raise_on_error=False)
    assert not result.success
    (failure,) = failed_checks(result, blocking=True)
    assert failure.startswith("gate: too low; if this is meant: itemnest materialize --accept gate")
    (hint,) = failed_checks(result, blocking=False)
    assert hint == "hint: too low"
    capsys.readouterr()
    outcome = Outcome(Settings(), Path("itemnest.toml"), "run", True, 1.0, 1, warnings=[hint])
    print_run(outcome, as_json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["warnings"] == [hint]
    assert printed.err == "itemnest: warning: hint: too low\n"
