"""``smartserve token`` and ``replace-urls``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from sqlalchemy import text

from proxy.settings import Settings
from proxy.storage.database.schema import main_schema, upgrade
from proxy.storage.database.upload_repository import NewUpload, UploadRepository
from tests.cli.conftest import Invoke
from tests.support.server import make_settings

LOOPBACK = "http://localhost:8080"
PATH = "/temp_images/profiles/456-profile-1-1.jpg"


def test_a_token_is_signed_with_the_stored_secret(tmp_path: Path, invoke: Invoke) -> None:
    done = invoke("token", "--user", "456", "--ttl", "2h", "--data-dir", tmp_path)
    assert (done.code, done.stderr) == (0, "")
    secret = (tmp_path / "keys" / "jwt_secret").read_text().strip()
    claims = jwt.decode(done.stdout.strip(), secret, algorithms=["HS256"])
    assert claims["sub"] == "456"
    assert claims["exp"] - claims["iat"] == 7200
    assert secret not in done.stdout


def test_a_token_has_the_claims_of_the_settings(tmp_path: Path, invoke: Invoke) -> None:
    secret = "s" * 32
    done = invoke(
        *("token", "--user", "7", "--data-dir", tmp_path),
        SMARTSERVE_USERS__JWT_SECRET=secret,
        SMARTSERVE_USERS__JWT_ISSUER="me",
        SMARTSERVE_USERS__JWT_AUDIENCE="images",
    )
    claims = jwt.decode(done.stdout.strip(), secret, algorithms=["HS256"], audience="images")
    assert claims["iss"] == "me"
    assert not (tmp_path / "keys").exists()


def test_a_public_key_cannot_sign_a_token(tmp_path: Path, invoke: Invoke) -> None:
    done = invoke(
        *("token", "--user", "7", "--data-dir", tmp_path),
        SMARTSERVE_USERS__JWT_PUBLIC_KEY_FILE="public.pem",
    )
    assert done.code == 2
    assert "cannot sign tokens" in done.stderr


@pytest.mark.parametrize("wrong", [("--user", "0"), ("--user", "7", "--ttl", "soon")])
def test_an_invalid_user_or_lifetime_is_a_usage_error(
    tmp_path: Path, wrong: tuple[str, ...], invoke: Invoke
) -> None:
    assert invoke("token", *wrong, "--data-dir", tmp_path).code == 2


def test_a_short_secret_is_refused_and_not_printed(tmp_path: Path, invoke: Invoke) -> None:
    done = invoke(
        *("token", "--user", "7", "--data-dir", tmp_path),
        SMARTSERVE_USERS__JWT_SECRET="short-secret",
    )
    assert done.code == 2
    assert "32 bytes" in done.stderr
    assert "short-secret" not in done.stderr


async def _processed(settings: Settings) -> None:
    """Create an upload that is processed as image 789."""
    url, section = settings.main_url, settings.database
    await upgrade(url, section, schema=main_schema(own=True))
    async with UploadRepository(url, section, own=True) as main:
        (pending_id,) = await main.insert(
            456, [NewUpload("profile_image", PATH, None, "image/jpeg")]
        )
        await main.mark_processed(pending_id, "789")


def test_urls_are_replaced_once_and_reported(tmp_path: Path, invoke: Invoke) -> None:
    asyncio.run(_processed(make_settings(tmp_path)))
    base = {"SMARTSERVE_MAIN__SMART_MEDIA_BASE_URL": "https://api.example.org/api/images"}
    dry = invoke("replace-urls", "--dry-run", "--data-dir", tmp_path, **base)
    assert dry.code == 0, dry.stderr
    assert "1 uploads would be complete" in dry.stdout
    assert "user_profiles.profile_image_path\t1 would be changed" in dry.stdout
    first, second = (
        json.loads(invoke("replace-urls", "--json", "--data-dir", tmp_path, **base).stdout)
        for _ in range(2)
    )
    assert (first["completed"], second["completed"]) == (1, 0)
    assert first["changed"]["user_profiles.profile_image_path"] == 1
    assert first["base_url"] == "https://api.example.org/api/images"


def test_addresses_that_were_written_before_are_rewritten_with_again(
    tmp_path: Path, invoke: Invoke
) -> None:
    settings = make_settings(tmp_path)
    asyncio.run(_processed(settings))

    def replace(base: str, *options: str) -> dict[str, Any]:
        variable = {"SMARTSERVE_MAIN__SMART_MEDIA_BASE_URL": base}
        done = invoke("replace-urls", "--json", *options, "--data-dir", tmp_path, **variable)
        assert done.code == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    async def profiles() -> list[str]:
        async with UploadRepository(settings.main_url, settings.database, own=True) as main:
            rows = await main.read(text("SELECT * FROM user_profiles ORDER BY user_id"))
            return [row.profile_image_path for row in rows]

    async def add_others() -> None:
        """Addresses that are none of this image and user."""
        async with UploadRepository(settings.main_url, settings.database, own=True) as main:
            await main.run(
                lambda connection: connection.execute(
                    text(
                        "INSERT INTO user_profiles (user_id, profile_image_path) VALUES"
                        " (457, 'https://old.example.org/api/images/789?size=detail'),"
                        " (458, 'https://old.example.org/api/images/1789?size=detail')"
                    )
                )
            )

    assert replace("https://old.example.org/api/images")["completed"] == 1
    asyncio.run(add_others())
    before = asyncio.run(profiles())
    new = "https://new.example.org/api/images"
    assert replace(new)["rewritten"] == 0
    assert replace(new, "--again", "--dry-run")["rewritten"] == 1
    assert asyncio.run(profiles()) == before
    assert replace(new, "--again")["rewritten"] == 1
    assert asyncio.run(profiles()) == [f"{new}/789?size=detail", *before[1:]]
    assert replace(new, "--again")["rewritten"] == 0


@pytest.mark.parametrize(
    "server",
    [{}, {"SMARTSERVE_SERVER__HOST": "0.0.0.0"}, {"SMARTSERVE_SERVER__PUBLIC_URL": LOOPBACK}],
    ids=str,
)
def test_addresses_of_this_machine_only_are_not_written_into_profiles(
    tmp_path: Path, server: dict[str, str], invoke: Invoke
) -> None:
    asyncio.run(_processed(make_settings(tmp_path)))
    done = invoke("replace-urls", "--data-dir", tmp_path, **server)
    assert done.code == 2
    assert "set server.public_url or main.smart_media_base_url" in done.stderr
    allowed = {**server, "SMARTSERVE_MAIN__ALLOW_LOOPBACK_URL": "true"}
    done = invoke("replace-urls", "--data-dir", tmp_path, **allowed)
    assert (done.code, "1 uploads complete" in done.stdout) == (0, True)


def test_a_server_without_profiles_is_a_fault_of_the_settings(
    tmp_path: Path, invoke: Invoke
) -> None:
    done = invoke("replace-urls", "--data-dir", tmp_path, SMARTSERVE_MAIN__ENABLED="false")
    assert (done.code, "main.enabled is false" in done.stderr) == (2, True)
