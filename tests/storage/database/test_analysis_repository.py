"""Analyses are read as they were stored."""

from __future__ import annotations

from proxy.storage.database.analysis_repository import AnalysisRepository
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.leased_writer import LeasedWriter
from tests.storage.database.items import COLUMNS, OWN, claimed, offer


async def test_an_analysis_is_read_as_it_was_kept(queue: IngestQueue, writer: LeasedWriter) -> None:
    analyses = AnalysisRepository(writer)
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    assert await analyses.find(lease.media_id) is None
    assert await analyses.find_brand(4) is None
    for _ in range(2):
        await writer.save_analysis(lease, COLUMNS, OWN, focus=None)
    stored = await analyses.find(lease.media_id)
    assert stored is not None
    kept = {name: stored.columns[name] for name in COLUMNS}
    assert kept == COLUMNS | {"style_classification": "x" * 255}
    assert stored.public()["brand_colors"] == ["#FF5733"]
    brand = await analyses.find_brand(4)
    assert brand == {"brand_colors": ["#FF5733"], "logo_media_id": lease.media_id}


async def test_thumbhashes_are_read_of_many_and_only_where_there_are_any(
    queue: IngestQueue, writer: LeasedWriter
) -> None:
    analyses = AnalysisRepository(writer)
    await offer(queue, 1, 2)
    leases = [(await claimed(queue)).lease for _ in range(2)]
    await writer.save_analysis(leases[0], COLUMNS, {**OWN, "thumbhash": "aGFzaA=="}, focus=None)
    await writer.save_analysis(leases[1], COLUMNS, OWN, focus=None)
    asked = [one.media_id for one in leases]
    assert await analyses.thumbhashes([*asked, 99]) == {asked[0]: "aGFzaA=="}
    assert await analyses.thumbhashes([]) == {}
