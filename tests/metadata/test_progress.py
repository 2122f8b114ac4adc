"""Progress: who subscribes before, during or after an extraction, errors, and bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from proxy.domain.errors import BadParameter, ExtractionFailed
from proxy.metadata import progress as progress_module
from proxy.metadata.extraction import PROGRESS
from proxy.metadata.progress import ProgressHub, ProgressSubscription, check_session_id
from tests.support.clock import Clock

SESSION = "session-0123456789"
QUALITY = {"confidence_score": 1.0}


def run(hub: ProgressHub, session_id: str | None = SESSION) -> None:
    """Report an extraction as `MetadataService.extract` does."""
    with hub.reporting(session_id) as report:
        for stage, percentage in PROGRESS.items():
            report(percentage, stage)
        report.complete(QUALITY)


def failing(hub: ProgressHub, error: BaseException) -> None:
    with hub.reporting(SESSION) as report:
        report(30, "walked")
        raise error


async def read(subscription: ProgressSubscription, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(20):
        return [(await subscription.next()).to_dict() for _ in range(count)]


async def test_a_subscriber_gets_every_stage_once_and_the_end() -> None:
    hub = ProgressHub()
    with hub.subscribe(SESSION) as subscription:
        run(hub)
        states = await read(subscription, 6)
    assert [one.get("progress") for one in states] == [10, 30, 50, 80, 100, None]
    assert [one["type"] for one in states] == ["progress"] * 5 + ["complete"]
    assert [one["quality_metrics"] for one in states[:5]] == [None] * 4 + [QUALITY]
    assert [one["estimated_time_remaining"] for one in states[:5]] == [None] * 4 + [0]
    assert states[0]["percentage"] == states[0]["progress"]
    assert states[1]["stage"] == "walked"


async def test_the_end_has_no_metadata_because_the_id_is_the_only_secret() -> None:
    hub = ProgressHub()
    run(hub)
    with hub.subscribe(SESSION) as subscription:
        assert await read(subscription, 1) == [{"type": "complete"}]


async def test_a_subscriber_waits_for_a_state_that_arrives_later() -> None:
    hub = ProgressHub()
    with hub.subscribe(SESSION) as subscription:
        waiting = asyncio.create_task(subscription.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        with hub.reporting(SESSION) as report:
            report(10, "received")
            assert (await waiting).percentage == 10


async def test_the_last_state_is_kept_for_a_minute() -> None:
    clock = Clock(0.0)
    hub = ProgressHub(clock=clock)
    run(hub)
    clock.now = 59.0
    with hub.subscribe(SESSION) as subscription:
        assert await read(subscription, 1) == [{"type": "complete"}]
    clock.now = 61.0
    with hub.subscribe(SESSION) as subscription:
        waiting = asyncio.create_task(subscription.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
    assert hub.statistics() == {"sessions": 0, "subscriptions": 0}


async def test_only_subscribers_of_the_session_get_its_states() -> None:
    hub = ProgressHub()
    with hub.subscribe("another-session-01") as other, hub.subscribe(SESSION) as subscription:
        run(hub)
        await read(subscription, 6)
        waiting = asyncio.create_task(other.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ExtractionFailed("No engine could read the file."), "No engine could read the file."),
        (asyncio.CancelledError(), progress_module._CANCELLED),
        (KeyError("a secret"), progress_module._FAILED),
    ],
)
async def test_an_exception_becomes_an_error_state_and_is_raised(
    error: BaseException, sentence: str
) -> None:
    hub = ProgressHub()
    with hub.subscribe(SESSION) as subscription:
        with pytest.raises(type(error)):
            failing(hub, error)
        assert await read(subscription, 2) == [
            {
                "type": "progress",
                "progress": 30,
                "percentage": 30,
                "stage": "walked",
                "estimated_time_remaining": None,
                "quality_metrics": None,
            },
            {"type": "error", "error": sentence},
        ]


async def test_without_a_session_id_nothing_is_reported() -> None:
    hub = ProgressHub()
    run(hub, None)
    assert hub.statistics() == {"sessions": 0, "subscriptions": 0}


@pytest.mark.parametrize("session_id", ["", "a" * 15, "a" * 65, "a" * 15 + "é", "a" * 16 + "\n"])
def test_a_session_id_that_is_no_secret_or_no_name_is_rejected(session_id: str) -> None:
    with pytest.raises(BadParameter, match="sessionId must be 16 to 64 characters"):
        check_session_id(session_id)


@pytest.mark.parametrize("session_id", ["a" * 16, "Z9_-" * 16])
def test_session_ids_of_16_to_64_characters_are_accepted(session_id: str) -> None:
    assert check_session_id(session_id) == session_id


async def test_a_subscriber_that_does_not_read_keeps_the_newest_states_only() -> None:
    hub = ProgressHub()
    with hub.subscribe(SESSION) as subscription:
        for _ in range(1000):
            run(hub)
        states = await read(subscription, 16)
        assert states[-1] == {"type": "complete"}
        assert not subscription._states


async def test_states_of_sessions_that_nobody_follows_are_bounded() -> None:
    hub = ProgressHub()
    for number in range(10_001):
        run(hub, f"{number:016}")
    assert hub.statistics() == {"sessions": 10_000, "subscriptions": 0}


async def test_a_subscriber_in_another_process_gets_every_stage() -> None:
    here, there = ProgressHub(), ProgressHub()
    sent: list[Any] = []
    here.share(sent.append)
    there.share(lambda _: pytest.fail("a state goes round in circles"))
    with there.subscribe(SESSION) as subscription:
        run(here)
        for shared in sent:
            # As it travels between the processes.
            await there.receive(orjson.loads(orjson.dumps(shared)))
        states = await read(subscription, len(sent))
    with here.subscribe(SESSION) as subscription:
        assert states[-1:] == await read(subscription, 1)
    assert len(states) == len(PROGRESS) + 1
