"""Building the ingest worker."""

from __future__ import annotations

from pathlib import Path

from proxy.app.ingest import IngestUrls, has_worker, open_analyst, open_ingest
from proxy.domain.pending_image import Step
from tests.support.server import Serving, make_settings

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
