"""Files that are published as a whole or disappear."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import pytest
import xxhash

from proxy.storage.renditions.disk_state import WriteTicket
from proxy.storage.renditions.file_read import TRAILER_BYTES, FileTrailer
from proxy.storage.renditions.file_write import AtomicFileWriter, probe
from proxy.storage.renditions.paths import RenditionPaths, UsageChange, cost
from tests.storage.renditions.variants import KIB, body, variant


class Target:
    """One rendition to write below a root."""

    def __init__(self, root: Path) -> None:
        self.paths = RenditionPaths(str(root))
        self.path = Path(self.paths.rendition(variant()))
        self.ticket = WriteTicket(variant().digest)

    def writer(self) -> AtomicFileWriter:
        return AtomicFileWriter(self.paths, str(self.path), self.ticket, publishing=Lock())


@pytest.fixture
def target(root: Path) -> Target:
    return Target(root)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_file_is_the_pieces_and_their_trailer(target: Target, root: Path) -> None:
    writer = target.writer()
    writer.append([b"one", b"two"])
    assert files(root) == []
    change = writer.publish([b"three"])
    content = target.path.read_bytes()
    trailer = FileTrailer.parse(content[-TRAILER_BYTES:])
    assert content[:-TRAILER_BYTES] == b"onetwothree"
    checksum = xxhash.xxh3_128_digest(b"onetwothree")
    assert trailer == FileTrailer(11, checksum, bytes.fromhex(variant().digest))
    assert change == UsageChange(cost(len(content)), 1)


def test_a_file_that_is_replaced_is_subtracted(target: Target) -> None:
    target.writer().publish([body(20 * KIB)])
    change = target.writer().publish([body(KIB)])
    assert change == UsageChange(cost(KIB + TRAILER_BYTES) - cost(20 * KIB + TRAILER_BYTES), 0)


def test_a_file_with_a_void_ticket_is_not_published(target: Target, root: Path) -> None:
    writer = target.writer()
    writer.append([body()])
    target.ticket.void = True
    assert writer.publish([]) is None
    assert files(root) == []


def test_a_discarded_file_is_gone_and_stays_gone(target: Target, root: Path) -> None:
    writer = target.writer()
    writer.append([body()])
    writer.discard()
    writer.append([body()])
    assert writer.publish([body()]) is None
    writer.discard()
    assert files(root) == []


def test_a_file_cannot_be_published_twice(target: Target) -> None:
    writer = target.writer()
    assert writer.publish([b"once"]) is not None
    assert writer.publish([b"twice"]) is None
    assert target.path.read_bytes()[:4] == b"once"


def test_a_directory_that_keeps_disappearing_is_an_error(
    target: Target, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = target.writer()
    writer.append([body()])

    def create_nothing(_path: Path, *_mode: object, **_options: object) -> None:
        """As an eviction that deletes the directory at once."""

    monkeypatch.setattr(Path, "mkdir", create_nothing)
    with pytest.raises(FileNotFoundError, match="repeatedly"):
        writer.publish([])
    assert files(root) == []


def test_the_probe_creates_directories_and_leaves_no_file(root: Path) -> None:
    probe(RenditionPaths(str(root)))
    assert (root / "tmp").is_dir()
    assert files(root) == []


def test_the_probe_fails_if_the_root_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        probe(RenditionPaths(str(tmp_path / "file" / "renditions")))
