"""Uploads and analyses for the tests of the ingest tables."""

from __future__ import annotations

from proxy.domain.media import DataType
from proxy.domain.upload import ItemState, LeasedItem, Upload
from proxy.storage.database.ingest_queue import IngestQueue
from tests.storage.database.backends import Backend

LEASE_S = 30.0


def upload(number: int) -> Upload:
    path = f"/temp_images/profiles/4-logo-{number}.png"
    return Upload(number, 4, path, "Käse.png", "image/png", DataType.LOGO)


async def offer(queue: IngestQueue, *numbers: int) -> int:
    return await queue.enqueue([upload(one) for one in numbers], settled_before=await queue.now())


async def claimed(
    queue: IngestQueue, worker: str = "w1", state: ItemState = ItemState.QUEUED
) -> LeasedItem:
    item = await queue.claim(worker, state)
    assert item is not None
    return item


async def run_out(backend: Backend, url: str) -> None:
    backend.run(url, "UPDATE ingest_items SET lease_until = 1; SELECT 1")


COLUMNS = {
    "dominant_colors": [{"hex": "#FF5733", "percent": 61.5}],
    "detected_objects": None,
    "detected_text": "Grüße 🚢",
    "style_classification": "x" * 300,
    "medium_detected": None,
    "subject_matter": None,
    "quality_score": 85,
    "mood_keywords": ["vibrant"],
    "confidence_score": 0.5,
    "raw_google_response": {"a": [1]},
    "raw_gpt4_response": None,
}


OWN = {"brand_colors": ["#FF5733"], "reasons": {"medium": "nobody was asked"}}
