"""``smartserve token`` and ``replace-urls``: commands of the main API."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Annotated

import typer

from proxy.app.storage import database_prepared
from proxy.app.uploads import open_uploads
from proxy.cli.base import JsonOption, command, print_error, print_summary
from proxy.domain.errors import ConfigurationError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.ingest.uploads.url_replacement import ReplacementReport
from proxy.settings import Settings, token_key
from proxy.web.auth import issue

_TTL = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@command()
def token(
    settings: Settings,
    user: Annotated[int, typer.Option(min=1, max=MAX_MEDIA_ID, help="User id.")],
    ttl: Annotated[str, typer.Option(help="Lifetime, in s, m, h or d.")] = "1d",
) -> None:
    """Print a token that lets a user upload, for the header Authorization: Bearer TOKEN.

    Signs it with the secret of [users]; by default with the secret that the server created in
    the folder keys of the data directory.
    """
    # fullmatch: "12hours" is not silently 12 hours.
    match = _TTL.fullmatch(ttl)
    if match is None:
        raise typer.BadParameter(
            "must be a number followed by s, m, h or d, such as 12h", param_hint="--ttl"
        )
    section = settings.users
    # Tokens are signed by another system, which has the private key.
    if section.jwt_public_key_file:
        fault = "users.jwt_public_key_file: a public key cannot sign tokens; use the private key"
        raise ConfigurationError([fault])
    key = token_key(section, settings.key_directory)
    print(issue(key, section, user_id=user, ttl_s=int(match[1]) * _SECONDS[match[2]]))


@command("replace-urls")
async def replace_urls(
    settings: Settings,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would change; change nothing.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also rewrite addresses that were written with another base."),
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Replace the temporary URLs of processed uploads in the profiles.

    ``serve`` does this periodically; both may run at the same time, and again. Exits with 1 if an
    upload is marked as processed but names no image, or the database does not change its rows.
    """
    # Profiles are tables of the main API.
    if not settings.main.enabled:
        raise ConfigurationError(
            ["main.enabled is false: this server has no profiles. Set it to true"]
        )
    base = settings.images_base()
    if fault := settings.unreachable_fault(base):
        raise ConfigurationError([fault])
    async with database_prepared(settings), open_uploads(settings) as main:
        if main is None:
            raise AssertionError
        main.replacer.base_url = base
        report = await main.replacer.run(dry=dry_run, again=again)
    _print(report, base, dry=dry_run, as_json=as_json)
    for pending_id, reason in report.failed.items():
        print_error("failed", f"upload {pending_id}: {reason}")
    unreadable, failed = len(report.unreadable), len(report.failed)
    print_summary("replace-urls", completed=report.completed, unreadable=unreadable, failed=failed)
    # An unreadable one stays unprocessed until somebody corrects its row.
    return unreadable + failed


def _print(report: ReplacementReport, base: str, *, dry: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"dry_run": dry, "base_url": base, **asdict(report)}))
        return
    print(f"URLs begin with {base}")
    print(f"{report.completed} uploads {'would be ' if dry else ''}complete")
    if report.rewritten:
        print(f"{report.rewritten} uploads {'would get' if dry else 'got'} another address")
    for place, rows in report.changed.items():
        print(f"{place}\t{rows} {'would be ' if dry else ''}changed")
    for place in report.absent:
        print(f"{place}\tis not in this database")
    for pending_id in report.unreadable:
        print(f"upload {pending_id}\tis processed, but names no image")
