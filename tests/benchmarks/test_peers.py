"""The peers render what is wanted of them, and one that is missing is named with its cause."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import pyvips

from proxy.domain.formats import Format
from tests.benchmarks import peers
from tests.benchmarks.client import Answer, get
from tests.benchmarks.peers import (
    IMAGOR,
    IMGPROXY,
    IPX,
    THUMBOR,
    Peer,
    Wanted,
    all_running,
    running,
)
from tests.benchmarks.servers import Unmeasurable
from tests.support.server import SAMPLES

HERE = Path(__file__).parent
PHOTO = "kodak-03.jpg"
LOADERS = {Format.AVIF: "heifload", Format.WEBP: "webpload", Format.JPEG: "jpegload"}


@pytest.fixture
def binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own programs in place of the two that cannot be installed."""
    for name, variable in (
        ("imgproxy", peers.IMGPROXY_BINARY),
        ("imagor", peers.IMAGOR_BINARY),
    ):
        script = tmp_path / f"{name}.sh"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE}/fake_peers.py {name} "$@"\n')
        script.chmod(0o755)
        monkeypatch.setenv(variable, str(script))


def rendition(place: Path, peer: Peer, wanted: Wanted, *, equal: bool = False) -> Answer:
    with running(peer, place, SAMPLES, equal=equal) as server:
        return get(server.address, peer.target(PHOTO, wanted))


def check(answer: Answer, wanted: Wanted, size: tuple[int, int]) -> None:
    image = pyvips.Image.new_from_buffer(answer.body, "")
    assert answer.headers["content-type"] == f"image/{wanted.format}"
    assert image.get("vips-loader").startswith(LOADERS[wanted.format])
    assert (image.width, image.height) == size


@pytest.mark.slow
@pytest.mark.usefixtures("binaries")
@pytest.mark.parametrize("peer", [IMGPROXY, IMAGOR], ids=["imgproxy", "imagor"])
@pytest.mark.parametrize("fmt", LOADERS)
def test_a_peer_from_a_binary_renders_what_is_wanted(
    tmp_path: Path, peer: Peer, fmt: Format
) -> None:
    wanted = Wanted(fmt, 300, square=True)
    check(rendition(tmp_path, peer, wanted), wanted, (300, 300))
    inside = Wanted(fmt, 384, quality=60)
    (second := tmp_path / "second").mkdir()
    check(rendition(second, peer, inside), inside, (384, 256))


@pytest.mark.slow
@pytest.mark.usefixtures("binaries")
@pytest.mark.parametrize("peer", [IMGPROXY, IMAGOR], ids=["imgproxy", "imagor"])
def test_a_peer_from_a_binary_is_told_quality_and_effort(tmp_path: Path, peer: Peer) -> None:
    sizes, speeds = [], []
    for quality in (30, 90):
        (place := tmp_path / str(quality)).mkdir()
        answer = rendition(place, peer, Wanted(Format.AVIF, 300, quality=quality), equal=True)
        sizes.append(len(answer.body))
        speeds.append(answer.headers["x-avif-speed"])
    assert sizes[0] < sizes[1] / 2
    assert speeds == ["8", "8"]
    (place := tmp_path / "own").mkdir()
    own = rendition(place, peer, Wanted(Format.AVIF, 300))
    assert own.headers["x-avif-speed"] == ""


@pytest.mark.slow
@pytest.mark.parametrize("peer", [THUMBOR, IPX], ids=["thumbor", "IPX"])
def test_a_peer_from_a_registry_renders_what_is_wanted(tmp_path: Path, peer: Peer) -> None:
    for at, (wanted, size) in enumerate(
        (
            (Wanted(Format.WEBP, 300, square=True, quality=60), (300, 300)),
            (Wanted(Format.JPEG, 384), (384, 256)),
        )
    ):
        (place := tmp_path / str(at)).mkdir()
        try:
            answer = rendition(place, peer, wanted)
        except Unmeasurable as error:
            pytest.skip(str(error))
        check(answer, wanted, size)


def test_a_peer_without_a_binary_is_noted_with_the_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(peers.IMGPROXY_BINARY, raising=False)
    monkeypatch.setenv(peers.IMAGOR_BINARY, str(tmp_path / "absent"))
    monkeypatch.setattr(peers, "PEERS", (IMGPROXY, IMAGOR))
    with all_running(tmp_path, SAMPLES) as (found, missing):
        assert found == []
    first, second = missing
    assert first.startswith("imgproxy: NOT MEASURED: SMARTSERVE_BENCH_IMGPROXY is not set")
    assert second.startswith(f"imagor: NOT MEASURED: SMARTSERVE_BENCH_IMAGOR is {tmp_path}/absent")


def test_the_peers_of_registries_are_pinned_with_hashes() -> None:
    lock = (HERE / "thumbor.lock").read_text()
    pinned = re.findall(r"^(\S+)==\S+.*\\\n    --hash=sha256:\w{64}", lock, re.MULTILINE)
    assert pinned == re.findall(r"^([\w-]+)==", lock, re.MULTILINE)
    assert "thumbor" in pinned
    packages = json.loads((HERE / "ipx" / "package-lock.json").read_text())["packages"]
    assert "node_modules/ipx" in packages
    # What a package bundles is covered by the hash of that package.
    unpinned = [name for name, one in packages.items() if not {"integrity", "inBundle"} & set(one)]
    assert unpinned == [""]
