"""``smartserve doctor``: check a running installation and print what to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy.app.doctor import open_installation
from proxy.cli import app
from proxy.cli.base import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    errors,
    printable,
    run,
    with_running_server,
)
from proxy.doctor.check import Finding, Verdict
from proxy.doctor.installation import Installation
from proxy.doctor.table import examine
from proxy.domain.errors import ConfigurationError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.settings import LogSettings, load_settings
from proxy.telemetry.logging import configure_logs

_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@app.command()
def doctor(
    media_id: Annotated[
        int | None,
        typer.Argument(min=1, max=MAX_MEDIA_ID, help="Id of an image that is not displayed."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            show_default="from server.host, server.port", help="The server's own address."
        ),
    ] = None,
    public: Annotated[
        str | None,
        typer.Option(show_default="server.public_url", help="The address of the reverse proxy."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Check a running installation: this machine, the server, and the reverse proxy.

    Prints what each check found and, if something is wrong, what to do. Changes nothing. Exits
    with 1 if a check fails. Run it as the user that the server runs as.
    """
    # Findings are the output; warnings of the libraries would repeat them.
    configure_logs(LogSettings(level="error", format="console"))
    overrides = {} if data_dir is None else {"data_dir": str(data_dir)}
    try:
        settings = load_settings(config, overrides)
    except ConfigurationError as error:
        advice = "correct each of these settings; nothing else can be checked before"
        findings = [Finding("settings", Verdict.FAIL, "; ".join(error.faults), advice)]
    else:
        installation = open_installation(
            settings,
            config,
            # Past the reverse proxy: its faults must not look like the server's.
            url=url or with_running_server(settings).local_url(),
            # An empty --public disables the checks of the proxy.
            public=settings.server.public_url if public is None else public,
            media_id=media_id,
        )
        findings = run(_examine(installation))
    counts = Counter(one.verdict for one in findings)
    if as_json:
        fields = {
            "healthy": not counts[Verdict.FAIL],
            "counts": {verdict: counts[verdict] for verdict in Verdict},
            "checks": [asdict(one) for one in findings],
        }
        print(json.dumps(fields, indent=2))
    else:
        _print(findings)
    raise SystemExit(1 if counts[Verdict.FAIL] else 0)


async def _examine(opening: AbstractAsyncContextManager[Installation]) -> list[Finding]:
    # Checks take seconds: show in a terminal that the command works.
    with errors().status("checking ..."):
        async with opening as installation:
            return await examine(installation)


def _print(findings: Sequence[Finding]) -> None:
    """Print a table to a terminal, otherwise one line with tabs for each check."""
    console = Console()
    table = Table(show_edge=False, pad_edge=False)
    for name in ("check", "", "finding, and what to do"):
        table.add_column(name, overflow="fold")
    for one in findings:
        # The heading has the expression of the alert and the steps to take.
        page = f" (deploy/OPERATING.md: {one.alert})" if one.alert else ""
        advice = f"{one.advice}{page}" if one.advice else ""
        if console.is_terminal:
            # Colours need no legend; skipped checks are dim.
            verdict = f"[{_COLOURS.get(one.verdict, 'dim')}]{one.verdict}"
            bold = f"\n[bold]{_escaped(advice)}[/bold]" if advice else ""
            table.add_row(one.check, verdict, f"{_escaped(one.seen)}{bold}")
        else:
            # Tabs and newlines separate the columns and the checks, so they are replaced in texts.
            parts = filter(None, (one.verdict, one.check, one.seen, advice))
            print("\t".join(printable(" ".join(part.split())) for part in parts))
    if console.is_terminal:
        console.print(table)
    errors().print(_summary(findings), highlight=False, soft_wrap=True)


def _escaped(text: str) -> str:
    """Return text for a table, without markup; findings may contain names of files."""
    return escape("\n".join(map(printable, text.splitlines())))


def _summary(findings: Sequence[Finding]) -> str:
    """Return the number of checks by verdict, with the names of those that warn or fail."""
    parts: list[str] = []
    # The most severe first.
    for verdict in reversed(Verdict):
        names = [one.check for one in findings if one.verdict is verdict]
        shown = names and verdict in (Verdict.FAIL, Verdict.WARN)
        parts.append(f"{len(names)} {verdict}" + (f" ({', '.join(names)})" if shown else ""))
    return ", ".join(parts)
