"""Uploads: a main API over real HTTP, a real queue, keys and Tesseract."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.app.doctor import open_installation
from proxy.app.ingest import open_main_api
from proxy.doctor import Verdict
from proxy.doctor.table import UPLOADS
from proxy.doctor.uploads import look
from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.ingest_item import QueueReport
from proxy.settings import Settings
from tests.benchmarks.servers import free_port
from tests.doctor.conftest import Diagnoses, diagnoses
from tests.ingest.fake_main_api import KEY, FakeMainApi, fake_main_api
from tests.support.server import make_settings


async def told(settings: Settings) -> Diagnoses:
    """As the command joins it."""
    async with open_installation(settings, None, url="http://127.0.0.1:1", public="") as one:
        return diagnoses(UPLOADS, await look(settings, main_api=one.main_api, queue=one.queue))


@pytest.fixture
async def api() -> AsyncIterator[FakeMainApi]:
    async with fake_main_api() as fake:
        yield fake


async def test_a_main_api_that_takes_the_key(api: FakeMainApi, data_dir: Path) -> None:
    api.add(b"a picture")
    ingest = {"main_api_url": api.base, "main_api_key": KEY}
    found = (await told(make_settings(data_dir, ingest=ingest)))["main API"]
    assert found.verdict is Verdict.OK
    assert found.seen == f"{api.base} takes the key; 1 upload waits"
    assert dict(api.asked) == {"pending": 1}, "nothing is taken"


async def test_a_key_that_is_not_taken_is_told(api: FakeMainApi, data_dir: Path) -> None:
    ingest = {"main_api_url": api.base, "main_api_key": "another-key-than-the-right-one"}
    found = (await told(make_settings(data_dir, ingest=ingest)))["main API"]
    assert (found.verdict, "401" in found.seen) == (Verdict.FAIL, True)
    assert "MEDIA_API_KEY" in found.advice


async def test_without_a_key_none_is_made(api: FakeMainApi, data_dir: Path) -> None:
    found = (await told(make_settings(data_dir, ingest={"main_api_url": api.base})))["main API"]
    assert (found.verdict, "no key is set" in found.seen) == (Verdict.FAIL, True)
    assert not (data_dir / "keys").exists()


async def test_a_main_api_that_is_away_is_told(data_dir: Path) -> None:
    ingest = {"main_api_url": f"http://127.0.0.1:{free_port()}", "main_api_key": KEY}
    found = (await told(make_settings(data_dir, ingest=ingest)))["main API"]
    assert (found.verdict, "cannot be reached" in found.seen) == (Verdict.FAIL, True)
    assert "ingest.main_api_url" in found.advice


def enter(data_dir: Path, **values: Any) -> None:
    """An upload in the queue, that came two hours ago."""
    fields = {"main_api_id": 1, "user_id": 4, "image_path": "/temp_images/x", "state": "queued"}
    fields |= {"data_type": "profile", "final": 0, "heals": 0, "takeovers": 0}
    fields |= {"created_at": 1.0, "updated_at": 1.0} | values
    names, marks = ", ".join(fields), ", ".join("?" * len(fields))
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        connection.execute(
            f"INSERT INTO ingest_items ({names}) VALUES ({marks})", tuple(fields.values())
        )
        connection.commit()


@pytest.mark.parametrize(
    ("values", "verdict", "seen", "advice"),
    [
        ({}, Verdict.FAIL, "1 upload open for more than an hour", "smartserve status"),
        (
            {"created_at": 4e9, "lease": "x", "lease_until": 1.0},
            Verdict.WARN,
            "1 lease run out",
            "out of memory",
        ),
        (
            {"state": "failed", "final": 1},
            Verdict.WARN,
            "1 upload failed for good",
            "smartserve status",
        ),
    ],
)
async def test_a_queue_in_which_uploads_stand_is_told(
    values: dict[str, Any], verdict: Verdict, seen: str, advice: str, data_dir: Path
) -> None:
    enter(data_dir, **values)
    found = (await told(make_settings(data_dir)))["upload queue"]
    assert found.verdict is verdict, found
    assert seen in found.seen
    assert advice in found.advice


async def test_an_empty_queue_is_well(data_dir: Path) -> None:
    found = (await told(make_settings(data_dir)))["upload queue"]
    assert (found.verdict, found.seen) == (Verdict.OK, "no uploads yet")


async def test_where_nobody_takes_uploads_there_is_no_queue(data_dir: Path) -> None:
    found = await told(make_settings(data_dir, main={"enabled": False}))
    assert found["upload queue"].verdict is Verdict.SKIPPED
    assert found["main API"].verdict is Verdict.SKIPPED


async def test_a_queue_that_cannot_be_asked_is_told(settings: Settings) -> None:
    async def away() -> QueueReport:
        raise DatabaseUnavailable("the database cannot be asked")

    seen = await look(settings, main_api=partial(open_main_api, settings, ""), queue=away)
    found = diagnoses(UPLOADS, seen)["upload queue"]
    assert (found.verdict, found.seen) == (Verdict.FAIL, "the database cannot be asked")


async def test_providers_with_a_key_are_named_and_not_asked(data_dir: Path) -> None:
    vision = {"openai": {"key": "sk-none", "base_url": f"http://127.0.0.1:{free_port()}"}}
    found = (await told(make_settings(data_dir, vision=vision)))["vision keys"]
    assert (found.verdict, found.seen.startswith("openai: a key is set")) == (Verdict.OK, True)
    assert "sk-none" not in found.seen


async def test_a_language_that_tesseract_lacks_is_told(data_dir: Path, tmp_path: Path) -> None:
    program = tmp_path / "tesseract"
    program.write_text("#!/bin/sh\necho 'List of available languages (1):'\necho eng\n")
    program.chmod(0o755)
    text = {"program": str(program), "languages": "eng+deu"}
    found = (await told(make_settings(data_dir, vision={"text": text})))["tesseract"]
    assert (found.verdict, found.seen) == (Verdict.WARN, "tesseract has no data for deu")
    assert "apt-get install tesseract-ocr-deu" in found.advice


async def test_a_tesseract_that_is_not_there_is_no_fault(data_dir: Path) -> None:
    text = {"program": "no-such-program"}
    found = (await told(make_settings(data_dir, vision={"text": text})))["tesseract"]
    assert (found.verdict, "not installed" in found.seen) == (Verdict.SKIPPED, True)
