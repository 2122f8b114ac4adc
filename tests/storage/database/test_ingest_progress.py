"""Progress of the ingest steps, as it is stored."""

from __future__ import annotations

from proxy.domain.media import Focus, MediaFacts
from proxy.domain.upload import Step, StepState
from proxy.storage.database.ingest_progress import IngestProgress, StoredOriginal
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.media_repository import SqlMediaRepository
from tests.storage.database.items import COLUMNS, OWN, claimed, offer


async def test_facts_are_known_from_filing_to_the_end(
    queue: IngestQueue, progress: IngestProgress, database: SqlMediaRepository, facts: MediaFacts
) -> None:
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    media_id = lease.media_id
    await progress.save_original(lease, StoredOriginal(facts.source_path, "image/jpeg", facts))
    filed = await database.find(media_id)
    assert filed is not None
    assert filed.servable
    assert not filed.completed
    assert filed.known_facts is not None
    focus = Focus(0.25, 0.75)
    await progress.save_analysis(lease, COLUMNS, OWN, focus=focus)
    await progress.save_library_file(lease, "library/user_4/logo/img/1.png")
    rendered = await database.find(media_id)
    assert rendered is not None
    assert rendered.completed
    assert rendered.library_path == "library/user_4/logo/img/1.png"
    assert rendered.known_facts is not None
    assert rendered.known_facts.focus == focus


async def test_attempts_are_counted_before_they_are_made(
    queue: IngestQueue, progress: IngestProgress
) -> None:
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    counts = [
        await progress.start_attempt(lease, Step.RETRIEVE_FILE, worker_id="w1") for _ in range(3)
    ]
    assert counts == [1, 2, 3]
    assert await progress.start_attempt(lease, Step.RESIZE_OPTIMIZE, worker_id="w1") == 1


async def test_the_state_of_a_step_is_stored(queue: IngestQueue, progress: IngestProgress) -> None:
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    await progress.set_step(lease, Step.RETRIEVE_FILE, StepState.FAILED)
    await progress.set_step(lease, Step.RESIZE_OPTIMIZE, StepState.COMPLETED)
    await queue.release(lease)
    steps = (await claimed(queue)).steps
    assert steps[Step.RETRIEVE_FILE].state is StepState.FAILED
    assert steps[Step.RESIZE_OPTIMIZE].state is StepState.COMPLETED
    assert steps[Step.AI_VISUAL_ANALYSIS].state is StepState.PENDING


async def test_an_analysis_without_a_focus_leaves_the_crop_as_it_is(
    queue: IngestQueue, progress: IngestProgress, database: SqlMediaRepository, facts: MediaFacts
) -> None:
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    await progress.save_original(lease, StoredOriginal(facts.source_path, "image/jpeg", facts))
    await progress.save_analysis(lease, COLUMNS, OWN, focus=None)
    media = await database.find(lease.media_id)
    assert media is not None
    assert media.known_facts is not None
    assert media.known_facts.focus == facts.focus
