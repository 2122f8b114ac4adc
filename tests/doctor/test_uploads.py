"""Checks of the main API over real HTTP, and of the queue of uploads."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.doctor.check import Verdict
from proxy.settings import Settings
from tests.doctor.conftest import run_area
from tests.ingest.fake_main_api import KEY, FakeMainApi, fake_main_api
from tests.support.ports import free_port
from tests.support.server import make_settings


@pytest.fixture
async def api() -> AsyncIterator[FakeMainApi]:
    async with fake_main_api() as fake:
        yield fake


async def test_a_main_api_that_accepts_the_key_passes(api: FakeMainApi, data_dir: Path) -> None:
    api.add(b"an image")
    ingest = {"main_api_url": api.base, "main_api_key": KEY}
    found = (await run_area("main API", make_settings(data_dir, ingest=ingest)))["main API"]
    assert found.verdict is Verdict.OK
    assert found.seen == f"{api.base} accepts the key; 1 upload pending"
    assert dict(api.asked) == {"pending": 1}, "no upload is claimed"


async def test_a_wrong_key_fails(api: FakeMainApi, data_dir: Path) -> None:
    ingest = {"main_api_url": api.base, "main_api_key": "another-key-than-the-right-one"}
    found = (await run_area("main API", make_settings(data_dir, ingest=ingest)))["main API"]
    assert (found.verdict, "401" in found.seen) == (Verdict.FAIL, True)
    assert "MEDIA_API_KEY" in found.advice


async def test_a_missing_key_fails_and_none_is_created(api: FakeMainApi, data_dir: Path) -> None:
    settings = make_settings(data_dir, ingest={"main_api_url": api.base})
    found = (await run_area("main API", settings))["main API"]
    assert (found.verdict, "no key is set" in found.seen) == (Verdict.FAIL, True)
    assert not (data_dir / "keys").exists()


async def test_a_main_api_that_is_away_fails(data_dir: Path) -> None:
    ingest = {"main_api_url": f"http://127.0.0.1:{free_port()}", "main_api_key": KEY}
    found = (await run_area("main API", make_settings(data_dir, ingest=ingest)))["main API"]
    assert found.verdict is Verdict.FAIL
    assert "ingest.main_api_url" in found.advice


def enter(data_dir: Path, **values: Any) -> None:
    """Add an upload to the queue, of long ago unless ``created_at`` is given."""
    fields = {"main_api_id": 1, "user_id": 4, "image_path": "/temp_images/x", "state": "queued"}
    fields |= {"data_type": "profile", "final": 0, "heals": 0, "takeovers": 0}
    fields |= {"created_at": 1.0, "updated_at": 1.0, "not_before": 1.0} | values
    names, marks = ", ".join(fields), ", ".join("?" * len(fields))
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        connection.execute(
            f"INSERT INTO ingest_items ({names}) VALUES ({marks})", tuple(fields.values())
        )
        connection.commit()


@pytest.mark.parametrize(
    ("values", "verdict", "text", "advice"),
    [
        ({}, Verdict.FAIL, "1 upload unfinished for more than an hour", "smartserve status"),
        (
            {"created_at": 4e9, "lease": "x", "lease_until": 1.0},
            Verdict.WARN,
            "1 lease expired",
            "out of memory",
        ),
        ({"state": "failed", "final": 1}, Verdict.WARN, "1 upload failed", "smartserve status"),
    ],
)
async def test_uploads_that_do_not_finish_are_reported(
    values: dict[str, Any], verdict: Verdict, text: str, advice: str, data_dir: Path
) -> None:
    enter(data_dir, **values)
    found = (await run_area("main API", make_settings(data_dir)))["upload queue"]
    assert found.verdict is verdict, found
    assert text in found.seen
    assert advice in found.advice


async def test_an_empty_queue_passes(data_dir: Path) -> None:
    found = (await run_area("main API", make_settings(data_dir)))["upload queue"]
    assert (found.verdict, found.seen) == (Verdict.OK, "no uploads yet")


async def test_without_uploads_both_checks_are_skipped(data_dir: Path) -> None:
    found = await run_area("main API", make_settings(data_dir, main={"enabled": False}))
    assert {one.verdict for one in found.values()} == {Verdict.SKIPPED}


async def test_a_queue_that_cannot_be_read_fails(settings: Settings) -> None:
    found = (await run_area("main API", settings))["upload queue"]
    assert (found.verdict, "there is no file" in found.seen) == (Verdict.FAIL, True)
    assert not settings.data_path.exists()
