"""The guides name only what exists: commands, options, settings, make targets, links."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from proxy.cli import app, load
from proxy.settings import Settings
from proxy.settings.load import RENAMED
from proxy.settings.reference import tables
from tests.benchmarks.peers import IMAGOR_BINARY, IMGPROXY_BINARY
from tests.readme.blocks import blocks, headings, inline, links
from tests.support.server import ROOT

README = ROOT / "README.md"
COMMANDS = ROOT / "deploy" / "COMMANDS.md"
URLS = ROOT / "deploy" / "URLS.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
MAP = ROOT / "proxy" / "README.md"
PAGES = [
    *(README, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", CONTRIBUTING, MAP),
    ROOT / "config" / "README.md",
    *(ROOT / "proxy" / "samples").glob("*.md"),
    *(ROOT / "deploy").rglob("*.md"),
    *(page for page in (ROOT / "tests").rglob("*.md") if "node_modules" not in page.parts),
]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
SETTINGS = {one.name for table in tables() for one in table.settings} | set(RENAMED)
VARIABLES = {f"SMARTSERVE_{name.replace('.', '__').upper()}" for name in SETTINGS}
COMMAND = re.compile(r"(?:[\w./]*/)?smartserve ((?:[a-z-]+ ?)+)(.*)")
SHARED = {"--config", "--data-dir", "--help"}
"""Options that the page of commands describes once for all commands."""
SETTINGS_FILE = {"SMARTSERVE_CONFIG"}
BINARIES = {IMGPROXY_BINARY, IMAGOR_BINARY}
"""The peers that `make bench` measures if they are named."""


load()
ROOT_COMMAND = typer.main.get_command(app)


def below(command: Any) -> dict[str, Any]:
    """Return the commands of a group; a command that is no group has none."""
    commands: dict[str, Any] = getattr(command, "commands", {})
    return commands


def found(words: Iterable[str]) -> tuple[Any, int]:
    """Return the command that the words begin with, and how many words name it."""
    command, depth = ROOT_COMMAND, 0
    for word in words:
        if word not in below(command):
            break
        command, depth = below(command)[word], depth + 1
    return command, depth


def options(command: Any) -> set[str]:
    named = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    return {"--help", *(option for option in named if option.startswith("--"))}


def leaves(command: Any, *names: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command that is no group."""
    if not below(command):
        yield names
    for name, one in below(command).items():
        yield from leaves(one, *names, name)


def code_lines(page: str) -> Iterator[str]:
    """Yield all code of a page, inline and in blocks, line by line."""
    yield from inline(page)
    for block in blocks(page):
        yield from block.text.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_and_option_that_is_named_is_there(page: Path) -> None:
    for line in code_lines(page.read_text()):
        if (match := COMMAND.match(line.removeprefix("$ "))) is None:
            continue
        command, depth = found(match[1].split())
        assert depth, line
        assert not below(command), line
        unknown = set(re.findall(r"--[a-z][a-z-]*", match[2])) - options(command)
        assert unknown == set(), line


def test_the_list_of_commands_has_all_of_them_with_all_their_options() -> None:
    (listed,) = (block.text for block in blocks(COMMANDS.read_text()) if block.kind == "")
    for names in leaves(ROOT_COMMAND):
        (line,) = re.findall(rf"^smartserve {' '.join(names)}(?: .*)?$", listed, re.MULTILINE)
        named = SHARED | set(re.findall(r"--[a-z][a-z-]*", line))
        shown = [one for one in found(names)[0].params if not getattr(one, "hidden", False)]
        spellings = [{*one.opts, *one.secondary_opts} for one in shown]
        long = [one for one in spellings if any(option.startswith("--") for option in one)]
        assert [one for one in long if not one & named] == [], line


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_setting_that_is_named_is_there(page: Path) -> None:
    sections = {name.partition(".")[0] for name in SETTINGS}
    for text in inline(page.read_text()):
        named = re.match(r"([a-z_]+(?:\.(?:[a-z_]+|\*))+)(?: = .*)?$", text)
        if named and named[1].partition(".")[0] in sections:
            assert any(fnmatchcase(name, named[1]) for name in SETTINGS), text


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_variable_that_is_named_sets_something(page: Path) -> None:
    named = set(re.findall(r"SMARTSERVE_[A-Z_]+[A-Z]", page.read_text()))
    tables_of = {name.rpartition("__")[0] for name in VARIABLES}
    known = VARIABLES | tables_of | SETTINGS_FILE | BINARIES
    assert {name for name in named if name not in known} == set()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in headings(target.read_text()), link


def test_every_make_target_that_is_named_exists() -> None:
    pages = README.read_text() + CONTRIBUTING.read_text()
    named = {text.split()[1] for text in code_lines(pages) if text.startswith("make ")}
    assert {"run", "test", "test-all", "lint", "bench"} <= named
    for target in named:
        dry_run = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert dry_run.returncode == 0, dry_run.stderr


@pytest.mark.parametrize("page", [README, URLS], ids=["README", "URLS"])
def test_the_named_sizes_are_those_of_the_settings(page: Path) -> None:
    text = page.read_text()
    for name, size in Settings().sizes.items():
        box = f"{size.width}x{size.height}" if size.height else f"{size.width} wide"
        cover = " cover" if size.fit == "cover" else ""
        assert f"`{name}` {box}{cover}" in text


def test_the_screenshot_is_wide_and_small() -> None:
    (screenshot,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README.read_text())
    assert (ROOT / screenshot).stat().st_size < 200_000
    with Image.open(ROOT / screenshot) as shown:
        assert shown.width == 1440


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(README.read_text().splitlines()) <= 200


def test_the_map_of_the_code_has_at_most_40_lines() -> None:
    assert len(MAP.read_text().splitlines()) <= 40


def test_the_map_names_paths_and_packages_that_exist() -> None:
    rows = re.findall(r"^\| .*? \| `([a-z_]+/[a-z_/.0-9]+)` \|$", MAP.read_text(), re.MULTILINE)
    assert len(rows) == 6
    assert [path for path in rows if not (ROOT / "proxy" / path).exists()] == []
    packages = re.findall(r"^\| `([a-z]+)` \|", MAP.read_text(), re.MULTILINE)
    found = {path.parent.name for path in (ROOT / "proxy").glob("*/__init__.py")}
    assert set(packages) == found
