"""Commands on the main side, run as a user runs them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from proxy.settings import Settings
from proxy.storage.database.schema import main_schema, upgrade
from proxy.storage.database.upload_repository import NewUpload, open_upload_repository
from tests.support.server import make_settings

PATH = "/temp_images/profiles/456-profile-1-1.jpg"


def smartserve(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("smartserve")), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "/usr/bin", **variables},
    )


def test_a_token_is_signed_with_the_secret_that_is_kept(tmp_path: Path) -> None:
    done = smartserve("token", "--user", "456", "--ttl", "2h", "--data-dir", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    secret = (tmp_path / "keys" / "jwt_secret").read_text().strip()
    claims = jwt.decode(done.stdout.strip(), secret, algorithms=["HS256"])
    assert claims["sub"] == "456"
    assert claims["exp"] - claims["iat"] == 7200
    assert secret not in done.stdout


def test_a_token_has_what_the_settings_ask_for(tmp_path: Path) -> None:
    secret = "s" * 32
    done = smartserve(
        *("token", "--user", "7", "--data-dir", str(tmp_path)),
        SMARTSERVE_USERS__JWT_SECRET=secret,
        SMARTSERVE_USERS__JWT_ISSUER="me",
        SMARTSERVE_USERS__JWT_AUDIENCE="pictures",
    )
    claims = jwt.decode(done.stdout.strip(), secret, algorithms=["HS256"], audience="pictures")
    assert claims["iss"] == "me"
    assert not (tmp_path / "keys").exists()


def test_a_public_key_signs_nothing(tmp_path: Path) -> None:
    done = smartserve(
        *("token", "--user", "7", "--data-dir", str(tmp_path)),
        SMARTSERVE_USERS__JWT_PUBLIC_KEY_FILE="public.pem",
    )
    assert done.returncode == 2
    assert "cannot sign tokens" in done.stderr


@pytest.mark.parametrize("wrong", [("--user", "0"), ("--user", "7", "--ttl", "soon")])
def test_a_token_for_nobody_or_for_no_time_is_refused(tmp_path: Path, wrong: list[str]) -> None:
    assert smartserve("token", *wrong, "--data-dir", str(tmp_path)).returncode == 2


def test_a_secret_that_is_short_is_refused_and_not_told(tmp_path: Path) -> None:
    done = smartserve(
        *("token", "--user", "7", "--data-dir", str(tmp_path)),
        SMARTSERVE_USERS__JWT_SECRET="short-secret",
    )
    assert done.returncode == 2
    assert "32 bytes" in done.stderr
    assert "short-secret" not in done.stderr


async def _processed(settings: Settings) -> None:
    url, section = settings.main_url, settings.database
    await upgrade(url, section, schema=main_schema(own=True))
    async with open_upload_repository(url, section, own=True) as main:
        (pending_id,) = await main.insert(
            456, [NewUpload("profile_image", PATH, None, "image/jpeg")]
        )
        await main.mark_processed(pending_id, "789")


def test_addresses_are_replaced_with_a_report(tmp_path: Path) -> None:
    asyncio.run(_processed(make_settings(tmp_path)))
    base = {"SMARTSERVE_MAIN__SMART_MEDIA_BASE_URL": "https://api.example.org/api/images"}
    here = ("--data-dir", str(tmp_path))
    dry = smartserve("replace-urls", "--dry-run", *here, **base)
    assert dry.returncode == 0, dry.stderr
    assert "1 uploads would be complete" in dry.stdout
    assert "user_profiles.profile_image_path\t1 would be changed" in dry.stdout
    told = [json.loads(smartserve("replace-urls", "--json", *here, **base).stdout) for _ in "12"]
    assert [one["completed"] for one in told] == [1, 0]
    assert told[0]["changed"]["user_profiles.profile_image_path"] == 1
    assert told[0]["base_url"] == "https://api.example.org/api/images"


def test_the_status_of_a_main_side_of_ones_own_needs_no_server(tmp_path: Path) -> None:
    told = json.loads(smartserve("status", "--json", "--data-dir", str(tmp_path)).stdout)
    assert told["main_api"] == {"pending": 0, "processed": 0, "complete": 0, "failed": 0}
    assert "at the main API: pending" in smartserve("status", "--data-dir", str(tmp_path)).stdout
