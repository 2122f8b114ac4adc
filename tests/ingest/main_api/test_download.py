"""The state of a download: where it continues, and what its target reports."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from aiohttp import ClientSession

from proxy.domain.errors import SourceUnavailable
from proxy.ingest.main_api.download import Download
from tests.ingest.fake_main_api import FakeMainApi

BODY = bytes(range(256)) * 64


async def test_a_full_storage_is_reported_with_its_cause(fake: FakeMainApi) -> None:
    image = fake.add(BODY)
    with Path("/dev/full").open("r+b", buffering=0) as full:  # noqa: ASYNC230 - a device
        download = Download(full.fileno(), max_bytes=len(BODY))
        async with ClientSession() as session, session.get(fake.base + image.image_path) as answer:
            with pytest.raises(SourceUnavailable) as raised:
                await download.receive(answer)
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.ENOSPC


async def test_before_any_byte_the_whole_file_is_requested() -> None:
    download = Download(-1, max_bytes=len(BODY))
    assert not download.headers()
    assert not download.validator


async def test_the_rest_is_requested_for_the_same_version_only(fake: FakeMainApi) -> None:
    image = fake.add(BODY)
    with TemporaryFile(buffering=0) as target:
        download = Download(target.fileno(), max_bytes=len(BODY))
        async with ClientSession() as session, session.get(fake.base + image.image_path) as answer:
            await download.receive(answer)
            assert download.headers() == {
                "Range": f"bytes={len(BODY)}-",
                "If-Range": answer.headers["ETag"],
            }
        assert os.pread(target.fileno(), 2 * len(BODY), 0) == BODY
