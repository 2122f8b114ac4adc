from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from proxy.domain.variant import shape_of
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.purge_log import PurgeEntry, PurgeLog
from proxy.storage.renditions.tiered_store import TieredStore
from tests.storage.renditions.variants import body, put, read, settings, variant


class Logs:
    """Several ends of one log, each as a process of its own would hold it."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self._stack = stack

    def end(self) -> PurgeLog:
        log = self._stack.enter_context(closing(PurgeLog(str(self.path))))
        log.skip_to_end()
        return log


def ids(log: PurgeLog) -> list[int]:
    """The media that a log tells of."""
    return [purge.media_id for purge in log.read()]


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    with ExitStack() as stack:
        yield Logs(tmp_path / "purges", stack)


@pytest.fixture
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.storage.renditions.purge_log._MAX_BYTES", 200)


def test_others_hear_of_a_purge_once(logs: Logs) -> None:
    one, other = logs.end(), logs.end()

    one.append(PurgeEntry(7))
    one.append(PurgeEntry(8))

    assert ids(other) == [7, 8]
    assert ids(other) == []


def test_others_hear_of_which_shapes_were_purged(logs: Logs) -> None:
    one, other = logs.end(), logs.end()
    shapes = frozenset({"0a1b2c3d", "ffffffff"})

    one.append(PurgeEntry(7, shapes))
    one.append(PurgeEntry(8))

    assert other.read() == [PurgeEntry(7, shapes), PurgeEntry(8, None)]


def test_a_store_does_not_hear_of_its_own_purges(logs: Logs) -> None:
    one = logs.end()

    one.append(PurgeEntry(7))

    assert ids(one) == []


def test_purges_from_before_the_start_are_passed_over(logs: Logs) -> None:
    one = logs.end()
    one.append(PurgeEntry(7))

    late = logs.end()
    one.append(PurgeEntry(8))

    assert ids(late) == [8]


@pytest.mark.usefixtures("_small_files")
def test_followers_miss_nothing_when_the_log_is_begun_anew(logs: Logs) -> None:
    one, other = logs.end(), logs.end()
    heard = []
    for media_id in range(1, 200):
        one.append(PurgeEntry(media_id))
        if media_id % 7 == 0:
            heard += ids(other)

    assert heard + ids(other) == list(range(1, 200))
    assert logs.path.stat().st_size <= 250


@pytest.mark.usefixtures("_small_files")
def test_two_writers_begin_the_log_anew_without_loss(logs: Logs) -> None:
    one, two, other = logs.end(), logs.end(), logs.end()
    heard = []
    for media_id in range(1, 100):
        (one if media_id % 2 else two).append(PurgeEntry(media_id))
        heard += ids(other)

    assert heard == list(range(1, 100))


def test_a_truncated_log_is_read_from_its_beginning(logs: Logs) -> None:
    one, other = logs.end(), logs.end()
    for media_id in range(1, 50):
        one.append(PurgeEntry(media_id))
    ids(other)

    logs.path.write_bytes(b"")
    one.append(PurgeEntry(77))

    assert ids(other) == [77]


def test_a_replaced_log_is_read_from_its_beginning(logs: Logs) -> None:
    one, other = logs.end(), logs.end()
    one.append(PurgeEntry(1))
    ids(other)

    logs.path.unlink()
    one.append(PurgeEntry(2))

    assert ids(other) == [2]


def test_a_missing_log_is_silence(logs: Logs) -> None:
    one = logs.end()
    one.append(PurgeEntry(1))
    other = logs.end()
    one.append(PurgeEntry(2))
    logs.path.unlink()

    assert ids(other) == [2]
    assert ids(other) == []


def test_a_half_line_waits_for_its_end(logs: Logs) -> None:
    other = logs.end()
    logs.path.write_bytes(b"12")
    assert ids(other) == []

    with logs.path.open("ab") as file:
        file.write(b"34 token\n")

    assert ids(other) == [1234]


@pytest.mark.parametrize(
    "rubbish", [b"\n", b"x y\n", b"-5 t\n", b"\xff\xfe\n", b"9" * 30 + b" t\n", b"z" * 200_000]
)
def test_rubbish_in_the_log_is_passed_over(logs: Logs, rubbish: bytes) -> None:
    other = logs.end()
    logs.path.write_bytes(rubbish + b"\n5 token\n")

    assert ids(other) == [5]


async def test_a_purge_elsewhere_empties_the_memory_here(root: Path) -> None:
    told: list[int] = []
    async with (
        TieredStore(root, settings(), on_purge=told.append) as here,
        TieredStore(root, settings()) as elsewhere,
    ):
        await put(here, variant(1), body())
        await put(here, variant(2), body())

        assert await elsewhere.purge(1) == 1
        await here.disk.poll_purges()

        assert here.memory.peek(variant(1).digest) is None
        assert here.memory.peek(variant(2).digest) is not None
        assert told == [1]


async def test_a_purge_of_a_shape_elsewhere_leaves_the_other_shapes_in_memory(root: Path) -> None:
    async with (
        TieredStore(root, settings()) as here,
        TieredStore(root, settings()) as elsewhere,
    ):
        for width in (300, 480):
            await put(here, variant(1, width), body())

        assert await elsewhere.purge(1, {shape_of(variant(1, 300).geometry)}) == 1
        await here.disk.poll_purges()

        assert here.memory.peek(variant(1, 300).digest) is None
        assert here.memory.peek(variant(1, 480).digest) is not None


async def test_a_purge_elsewhere_voids_a_write_under_way_here(root: Path) -> None:
    async with (
        TieredStore(root, settings()) as here,
        DiskStore(root, settings()) as elsewhere,
    ):
        ticket = here.ticket(variant())
        await elsewhere.purge(1)
        await here.disk.poll_purges()
        await here.put(ticket, body())

        assert await here.get(variant()) is None


async def test_memory_filled_after_a_purge_of_ones_own_stays(root: Path) -> None:
    async with TieredStore(root, settings()) as store:
        await store.purge(1)
        await put(store, variant(), body())
        await store.disk.poll_purges()

        assert store.memory.peek(variant().digest) is not None
        assert await read(store.disk, variant()) == body()
