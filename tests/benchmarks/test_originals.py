"""The photographs that are measured are no smooth surfaces, and the same in each run."""

from __future__ import annotations

from pathlib import Path

import pytest
import pyvips

from tests.benchmarks import originals
from tests.benchmarks.originals import copies, enlarged, with_noise
from tests.support.server import SAMPLES

PHOTO = SAMPLES / "kodak-03.jpg"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    (folder := tmp_path / "cache").mkdir()
    monkeypatch.setattr(originals, "cache", lambda: folder)
    return folder


def grey(level: int) -> pyvips.Image:
    flat = pyvips.Image.black(700, 300, bands=3).linear(1, level).cast("uchar")
    return flat.copy(interpretation="srgb")


def test_noise_is_stronger_in_the_shadows_and_keeps_the_mean() -> None:
    dark, bright = with_noise(grey(40)), with_noise(grey(200))
    assert 3.5 < dark.deviate() < 5.5
    assert 1.5 < bright.deviate() < 3.5
    assert abs(dark.avg() - 40) < 0.3
    assert abs(bright.avg() - 200) < 0.3


def test_noise_is_the_same_in_each_run() -> None:
    assert with_noise(grey(128)).write_to_memory() == with_noise(grey(128)).write_to_memory()


def test_an_enlarged_photograph_is_not_smooth() -> None:
    path = enlarged(PHOTO, 1500, 1000)
    image = pyvips.Image.new_from_file(str(path))
    plain = pyvips.Image.thumbnail(str(PHOTO), 1500, height=1000, crop="centre")
    assert (image.width, image.height) == (1500, 1000)
    # Neighbouring pixels differ more than in an enlargement without noise.
    edges = pyvips.Image.new_from_array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    found, smooth = (
        one.colourspace("b-w").cast("float").conv(edges).abs().avg() for one in (image, plain)
    )
    assert found > 4 * smooth


def test_an_enlarged_photograph_is_made_once(cache: Path) -> None:
    first = enlarged(PHOTO, 300, 200)
    made = first.stat().st_mtime_ns
    assert enlarged(PHOTO, 300, 200).stat().st_mtime_ns == made
    assert list(cache.iterdir()) == [first]


def test_the_large_photographs_have_six_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(
        originals, "enlarged", lambda _photo, width, height: sizes.append((width, height))
    )
    found = originals.large()
    assert {width * height for width, height in sizes} == {6_000_000}
    assert len(found) >= 3
    assert all(path is None or path.name == "photo-6mp.jpg" for path in found)


def test_copies_are_different_files_with_equal_pixels(tmp_path: Path) -> None:
    one, other = copies([PHOTO], tmp_path, count=2)
    assert one.read_bytes() != other.read_bytes()
    pixels = [pyvips.Image.new_from_file(str(path)).write_to_memory() for path in (one, other)]
    assert pixels[0] == pixels[1]
