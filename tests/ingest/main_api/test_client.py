"""The main API over real HTTP: what it says is believed no further than it has to be."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from proxy.domain.errors import (
    MainApiForbidden,
    MainApiRefused,
    MainApiUnavailable,
    SourceTooLarge,
    UploadGone,
)
from proxy.domain.media import DataType
from proxy.domain.upload import Upload
from proxy.ingest.main_api import download
from proxy.ingest.main_api.client import HttpMainApi
from proxy.runtime.tempfiles import write_all
from tests.ingest.fake_main_api import KEY, FakeMainApi, fake_main_api

BODY = bytes(range(256)) * 4096
LIMIT = 2 * len(BODY)


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeMainApi]:
    stored = [0]

    def counting(target: int, chunk: bytes) -> None:
        write_all(target, chunk)
        stored.append(os.lseek(target, 0, os.SEEK_CUR))

    monkeypatch.setattr(download, "write_all", counting)
    async with fake_main_api() as fake:
        # A broken connection loses what its client has not read yet.
        fake.downloaded = lambda: stored[-1]
        yield fake


class Connect(Protocol):
    """Returns a client of the fake, or of another address."""

    def __call__(
        self, base: str = "", key: str = KEY, *, timeout_s: float = 60, max_bytes: int = LIMIT
    ) -> HttpMainApi: ...


@pytest.fixture
def connect(fake: FakeMainApi, tmp_path: Path) -> Connect:
    def make(
        base: str = "", key: str = KEY, *, timeout_s: float = 60, max_bytes: int = LIMIT
    ) -> HttpMainApi:
        return HttpMainApi(
            base=base or fake.base,
            key=key,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
            storage_root=tmp_path,
        )

    return make


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[HttpMainApi]:
    async with connect() as client:
        yield client


async def fetched(client: HttpMainApi, image_path: str) -> bytes:
    """Return a downloaded file."""
    async with client.download(image_path) as file:
        return os.pread(file.descriptor, LIMIT, 0)


async def test_pending_uploads_are_read_as_the_document_has_them(
    fake: FakeMainApi, client: HttpMainApi
) -> None:
    image = fake.add(BODY, kind="site")
    (found,) = (await client.pending()).uploads
    assert found == Upload(1, 4, image.image_path, "my-photo-1.jpg", "image/jpeg", DataType.SITES)


@pytest.mark.parametrize(
    "text",
    ["<html>Sign in</html>", "[]", '{"images": {}}', "{", '{"rows": []}', "\x00", "9" * 5000],
)
async def test_an_answer_that_is_no_list_is_refused(
    fake: FakeMainApi, client: HttpMainApi, text: str
) -> None:
    fake.text["pending"] = text
    with pytest.raises(MainApiRefused):
        await client.pending()


def refuse_all(fake: FakeMainApi, status: int) -> None:
    fake.status = dict.fromkeys(("pending", "complete", "cleanup", "file"), status)


@pytest.mark.parametrize("status", [404, 410])
async def test_an_upload_may_be_gone_but_not_the_list(
    fake: FakeMainApi, client: HttpMainApi, status: int
) -> None:
    refuse_all(fake, status)
    path = fake.add(BODY).image_path
    for work in (client.complete(1, {}), client.cleanup(1), fetched(client, path)):
        with pytest.raises(UploadGone):
            await work
    with pytest.raises(MainApiRefused, match="main_api_url"):
        await client.pending()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, MainApiUnavailable),
        (503, MainApiUnavailable),
        (408, MainApiUnavailable),
        (425, MainApiUnavailable),
        (429, MainApiUnavailable),
        (400, MainApiRefused),
        (401, MainApiForbidden),
        (403, MainApiForbidden),
        (302, MainApiRefused),
    ],
)
async def test_a_status_says_whether_another_attempt_may_help(
    fake: FakeMainApi, client: HttpMainApi, status: int, error: type[Exception]
) -> None:
    refuse_all(fake, status)
    fake.headers = {"Retry-After": "7", "Location": "http://127.0.0.1:1/"}
    image = fake.add(BODY)
    for work in (
        client.pending(),
        client.complete(1, {"media_id": "1"}),
        client.cleanup(1),
        fetched(client, image.image_path),
    ):
        with pytest.raises(error) as raised:
            await work
        assert type(raised.value) is error
        if isinstance(raised.value, MainApiUnavailable):
            assert raised.value.retry_after_s == 7


@pytest.mark.parametrize(
    "told", ["Mon, 01 Jan 99999999999 00:00:00 GMT", "soon", "-1", "1e9", "\u0661", ""]
)
async def test_a_wait_that_is_none_is_passed_over(
    fake: FakeMainApi, client: HttpMainApi, told: str
) -> None:
    fake.status["pending"] = 503
    fake.headers = {"Retry-After": told}
    with pytest.raises(MainApiUnavailable) as raised:
        await client.pending()
    assert raised.value.retry_after_s is None


async def test_a_wrong_key_is_refused(connect: Connect) -> None:
    async with connect(key=KEY[:-1]) as client:
        with pytest.raises(MainApiForbidden, match="main_api_key"):
            await client.pending()


async def test_nobody_there_is_unavailable(connect: Connect) -> None:
    async with connect("http://127.0.0.1:1") as client:
        with pytest.raises(MainApiUnavailable, match="Cannot connect"):
            await client.pending()


async def test_a_slow_answer_is_given_up(fake: FakeMainApi, connect: Connect) -> None:
    fake.hold("pending")
    fake.hold("file")
    image = fake.add(BODY)
    async with connect(timeout_s=0.5) as client:
        for work in (client.pending(), fetched(client, image.image_path)):
            with pytest.raises(MainApiUnavailable, match="in time"):
                await work


async def test_a_large_answer_is_not_held(fake: FakeMainApi, client: HttpMainApi) -> None:
    fake.text["cleanup"] = " " * 100_000
    fake.add(BODY)
    with pytest.raises(MainApiRefused, match="exceeds"):
        await client.cleanup(1)


async def test_an_answer_that_denies_success_is_refused(
    fake: FakeMainApi, client: HttpMainApi
) -> None:
    fake.text["complete"] = '{"success": false}'
    with pytest.raises(MainApiRefused, match="success: false"):
        await client.complete(1, {})


async def test_a_completion_carries_its_payload(fake: FakeMainApi, client: HttpMainApi) -> None:
    image = fake.add(BODY)
    await client.complete(1, {"media_id": "789", "ai_analysis": {"style": "Grüße"}})
    assert image.completions == [{"media_id": "789", "ai_analysis": {"style": "Grüße"}}]


async def test_a_file_is_downloaded_whole(fake: FakeMainApi, client: HttpMainApi) -> None:
    image = fake.add(BODY)
    assert await fetched(client, image.image_path) == BODY


async def test_a_download_that_breaks_is_taken_up_where_it_broke(
    fake: FakeMainApi, client: HttpMainApi
) -> None:
    image = fake.add(BODY)
    fake.cuts = [300_000, 400_000]
    assert await fetched(client, image.image_path) == BODY
    assert fake.ranges[0] is None
    assert all(one is not None for one in fake.ranges[1:])
    assert len(fake.ranges) == 3


async def test_a_file_that_is_another_by_then_is_taken_from_its_beginning(
    fake: FakeMainApi, client: HttpMainApi
) -> None:
    image = fake.add(BODY)
    fake.cuts = [300_000]

    fake.replaced[image.id] = BODY[::-1]
    assert await fetched(client, image.image_path) == BODY[::-1]


async def test_a_download_that_brings_nothing_is_not_taken_up_for_ever(
    fake: FakeMainApi, client: HttpMainApi
) -> None:
    image = fake.add(BODY)
    fake.cuts = [0] * 9
    with pytest.raises(MainApiUnavailable):
        await fetched(client, image.image_path)
    assert len(fake.ranges) == 1


async def test_without_a_validator_nothing_is_taken_up(
    fake: FakeMainApi, client: HttpMainApi
) -> None:
    image = fake.add(BODY)
    fake.etag, fake.cuts = False, [300_000]
    with pytest.raises(MainApiUnavailable):
        await fetched(client, image.image_path)


async def test_a_file_past_the_limit_is_refused(fake: FakeMainApi, connect: Connect) -> None:
    image = fake.add(BODY)
    async with connect(max_bytes=len(BODY) - 1) as client:
        with pytest.raises(SourceTooLarge):
            assert await fetched(client, image.image_path) == b""


async def test_an_unsafe_path_is_rejected_before_any_request(client: HttpMainApi) -> None:
    with pytest.raises(MainApiRefused, match="unsafe path"):
        await fetched(client, "//evil.example/a.jpg")
