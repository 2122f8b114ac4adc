"""``smartserve settings``: the reference of all settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.base import app
from proxy.settings.reference import markdown, settings_file, tables


@app.command()
def settings(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="TABLE", help="Print only these tables and those below: encoders."),
    ] = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print a settings file instead of Markdown tables.")
    ] = False,
    notes: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print every setting with its default, allowed values and description."""
    # Descriptions came from a file before; the option works for one more release.
    del notes
    listed = tables()
    if unknown := [name for name in names or [] if not any(one.within(name) for one in listed)]:
        raise typer.BadParameter(f"there is no table {unknown[0]}", param_hint="TABLE")
    wanted = [one for one in listed if not names or any(map(one.within, names))]
    print((settings_file if toml else markdown)(wanted), end="")
