"""The index of ``deploy/``: its links and folders exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.programs import DEPLOY

PAGES = sorted(DEPLOY.rglob("*.md"))
FOLDERS = sorted(path.name for path in DEPLOY.iterdir() if path.is_dir())
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_link_exists(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_in_the_index(folder: str) -> None:
    index = (DEPLOY / "README.md").read_text()
    assert re.search(rf"^\| \[{folder}\]\({folder}", index, re.MULTILINE)


def test_no_secret_and_no_todo_is_in_the_files() -> None:
    for file in FILES:
        if "secrets" in file.relative_to(DEPLOY).parts:
            continue
        text = file.read_text()
        assert not re.search(r"TODO|FIXME|XXX|BEGIN [A-Z ]*PRIVATE KEY", text), file
        assert not re.search(r"\b[0-9a-f]{40,}\b", text), file
