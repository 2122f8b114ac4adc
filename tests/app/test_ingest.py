"""Building the ingest worker."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from proxy.app.ingest import IngestUrls, has_worker, local_queue, open_analyst, open_ingest
from proxy.domain.upload import Step
from proxy.ingest.uploads.upload_queue import UploadQueue
from proxy.settings import Settings
from tests.support.server import Serving, make_settings

QUEUE = cast("UploadQueue", object())
PORT = 8123
URLS = IngestUrls("http://127.0.0.1:9/", "http://127.0.0.1:9/api/images")


def test_a_worker_needs_a_main_api(tmp_path: Path) -> None:
    assert not has_worker(make_settings(tmp_path, main={"enabled": False}))
    assert has_worker(make_settings(tmp_path, main={"enabled": True}))
    assert has_worker(
        make_settings(
            tmp_path, main={"enabled": False}, ingest={"main_api_url": "http://main.example.org"}
        )
    )


async def test_a_worker_has_all_steps_unless_the_analysis_is_disabled(shared: Serving) -> None:
    async with open_ingest(shared.services, URLS) as worker:
        steps = set(worker.runner.steps)
    expected = set(Step)
    if not shared.services.settings.ingest.analyse:
        expected -= {Step.AI_VISUAL_ANALYSIS}
    assert steps == expected


async def test_an_analyst_uses_the_workers_for_uploads(shared: Serving) -> None:
    async with open_analyst(shared.services) as analyst:
        assert analyst is not None


@pytest.mark.parametrize("main_api", ["http://127.0.0.1:8123", "https://images.example.org"])
def test_a_worker_of_its_own_main_api_uses_no_http(main_api: str) -> None:
    server = {"host": "127.0.0.1", "public_url": "https://images.example.org/"}
    settings = Settings.model_validate({"server": server})
    urls = IngestUrls(main_api, "https://images.example.org")
    assert local_queue(settings, urls, QUEUE, PORT) is QUEUE


def test_a_remote_main_api_is_used_over_http() -> None:
    urls = IngestUrls("https://api.example.org", "https://images.example.org")
    assert local_queue(Settings(), urls, QUEUE, PORT) is None


def test_without_a_main_api_here_there_is_no_queue() -> None:
    urls = IngestUrls("http://127.0.0.1:8123", "http://127.0.0.1:8123")
    assert local_queue(Settings(), urls, None, PORT) is None
