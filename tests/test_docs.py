"""README and docs tell the truth: their code runs; verbs, folders, links and names exist."""

import argparse
import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from assets.rules import Reason
from encoders.images import Reason as ImageReason
from store.cli import COMMANDS, parser

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str, *, page: Path = README) -> list[str]:
    """Return the fenced code blocks of a page that name this language ("" for none)."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [code for named, code in fenced if named == language]


def section(title: str) -> str:
    """Return the part of README below a heading."""
    return README.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_block(title: str) -> str:
    return section(title).split("```")[1].strip("\n")


def readme_verbs() -> set[str]:
    """Return the verbs of README's shell block: behind `itemnest`, or behind a dot in its list."""
    lines = [line.partition("  #")[0] for line in first_block("From the shell").splitlines()]
    assert all(line.startswith("itemnest ") for line in lines), lines
    return {
        command.split()[0] for line in lines for command in line.removeprefix("itemnest").split("·")
    }


def parser_verbs() -> set[str]:
    program = parser(entry_points(group=COMMANDS))
    (verbs,) = [a for a in program._actions if isinstance(a, argparse._SubParsersAction)]
    return set(verbs.choices)


def anchors(page: Path) -> set[str]:
    """Return what a link may name behind # in a page: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_the_python_of_readme_runs_in_order(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "data" / "demo").mkdir(parents=True)
    (tmp_path / "data" / "demo" / "store").symlink_to(shop / "store", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert len(found) >= 2
    names: dict[str, object] = {}
    for number, code in enumerate(found, 1):
        exec(compile(code, f"README.md, python block {number}", "exec"), names)


def test_the_verbs_of_readme_are_those_of_the_program():
    assert readme_verbs() == parser_verbs()


def test_the_file_list_of_readme_is_what_is_there():
    listed = [line.split()[0] for line in first_block("Files").splitlines()]
    assert len(listed) == len(set(listed))
    assert all(name.endswith("/") and (ROOT / name).is_dir() for name in listed), listed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    packages |= {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {f"{name}/" for name in packages} <= set(listed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert target == ROOT or ROOT in target.parents, f"{page.name} links out of here: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("reason", [*Reason, *ImageReason], ids=str)
def test_every_reason_is_explained(reason: Reason | ImageReason):
    assert f"`{reason}`" in (ROOT / "docs" / "catalogue.md").read_text()
