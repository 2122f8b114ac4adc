"""Commands on the main side: tokens of users, and addresses in the profiles."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from proxy.app.storage import database_prepared
from proxy.app.uploads import open_main_side
from proxy.cli.base import ConfigOption, DataDirOption, app, read_settings, run
from proxy.domain.errors import ConfigurationError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.ingest.uploads.url_replacement import ReplacementReport
from proxy.settings import Settings, token_key
from proxy.web.auth.jwt import issue

_TTL = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command()
def token(
    user: Annotated[int, typer.Option(min=1, max=MAX_MEDIA_ID, help="Number of the user.")],
    ttl: Annotated[str, typer.Option(help="How long it holds: 90s, 15m, 12h, 1d.")] = "1d",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print a token with which a user may upload: Authorization: Bearer TOKEN.

    It is signed with the secret of [users], or with the one that is kept in keys in the data
    directory.
    """
    match = _TTL.fullmatch(ttl)
    if match is None:
        raise typer.BadParameter("must be a number and s, m, h or d: 12h", param_hint="--ttl")
    settings = read_settings(config, data_dir)
    print(_signed(settings, user, int(match[1]) * _SECONDS[match[2]]))


def _signed(settings: Settings, user: int, ttl_s: int) -> str:
    section = settings.users
    if section.jwt_public_key_file:
        raise ConfigurationError(
            ["users.jwt_public_key_file: a public key signs nothing; who has the private one does"]
        )
    key = token_key(section, settings.key_directory)
    return issue(key, section, user_id=user, ttl_s=ttl_s)


@app.command("replace-urls")
def replace_urls(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be changed; change nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Put the addresses of processed uploads into the profiles, in place of temporary ones.

    `serve` does so by itself from time to time; both may at once, and again.
    """
    settings = read_settings(config, data_dir)
    if not settings.main.enabled:
        raise ConfigurationError(["main.enabled: is false, so this server has no profiles"])
    report = run(_replace(settings, dry=dry_run))
    base = settings.images_base()
    _tell(report, base, dry=dry_run, as_json=as_json)
    raise SystemExit(1 if report.unreadable else 0)


async def _replace(settings: Settings, *, dry: bool) -> ReplacementReport:
    async with database_prepared(settings), open_main_side(settings) as main:
        if main is None:
            raise AssertionError
        main.replacer.base_url = settings.images_base()
        return await main.replacer.run(dry=dry)


def _tell(report: ReplacementReport, base: str, *, dry: bool, as_json: bool) -> None:
    """With what the addresses begin with: by the settings alone, whatever port a server took."""
    if as_json:
        print(json.dumps({"dry_run": dry, "base_url": base, **report.public()}))
        return
    print(f"addresses begin with {base}")
    print(f"{report.completed} uploads {'would be ' if dry else ''}complete")
    for place, rows in report.changed.items():
        print(f"{place}\t{rows} {'would be ' if dry else ''}changed")
    for place in report.absent:
        print(f"{place}\tis not in this database")
    for pending_id in report.unreadable:
        print(f"upload {pending_id}\tis processed, and names no medium")
