"""The commands in the pages of ``deploy/``: this version of smartserve accepts their options."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from typer.core import TyperGroup

from proxy import cli
from tests.deploy.programs import DEPLOY

_ALONE = re.compile(r"^smartserve metadata .*", re.MULTILINE)
_NESTED = re.compile(r"\$\((smartserve [^)]*)\)")


def _commands() -> list[str]:
    text = (DEPLOY / "METADATA.md").read_text()
    return [*_ALONE.findall(text), *_NESTED.findall(text)]


@pytest.mark.parametrize("line", _commands())
def test_every_command_about_metadata_is_accepted(line: str) -> None:
    cli.load()
    command = typer.main.get_command(cli.app)
    words = shlex.split(line, comments=True)[1:]
    while isinstance(command, TyperGroup):
        command = command.commands[words.pop(0)]
    # Raises UsageError. It parses the options and runs nothing.
    command.make_context("smartserve", words)
