"""Every published EXIF, GPS, IPTC and XMP value of other projects' images is the one we return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from proxy.metadata.extraction import ExtractOptions
from proxy.metadata.service import MetadataService
from tests.metadata.files import require_exiftool
from tests.metadata.golden_values import Ours, Stated, differences, of_exiftool, of_extractor
from tests.metadata.test_service import service_of
from tests.support.golden import golden

Read = Callable[[Path], Any]

OUT_OF_IMAGE = {
    "Apple.jpg": "Apple_2",
    "ExifTool.tif": "ExifTool_3",
    "FujiFilm.raf": "FujiFilm_4",
    "JVC.jpg": "JVC_2",
    "JXL.jxl": "JXL_2",
    "JXL2.jxl": "JXL_3",
    "Motorola.jpg": "Motorola_2",
}
"""Lists that do not name their image; all others have a line ``File Name``."""
OTHER_OUTPUTS = frozenset({"ExifTool_28", "ExifTool_29", "XMP_27"})
"""Lists of options that we do not offer: a filter of values, and output as XML with a path."""
UNSUPPORTED = frozenset({"CanonRaw.crw", "NegativeArraySizeException.DuckyReader.extract.mp3"})
"""Formats that section 3 of the specification does not name."""


class Reason(NamedTuple):
    """Why values of a kind differ; an empty part of the pattern means any."""

    why: str
    project: str
    file: str = ""
    group: str = ""
    tag: str = ""
    before: float = 0.0
    """The version of exiftool from which on they are equal; 0: always different."""

    def covers(self, project: str, file: str, stated: Stated) -> bool:
        pairs = ((self.file, file), (self.group, stated.group), (self.tag, stated.tag))
        return self.project == project and all(own in ("", other) for own, other in pairs)


OFFSET = "ours are offsets in the file, theirs in the EXIF block"
NUMBER = "they read the digits of a text as a binary number; exiftool as text, like we"
NOTE = "exiftool decodes maker notes into groups of their own, or does not know them"
BROTLI = "its metadata is compressed with Brotli: the engine needs a module of perl's for it"
TRAILER = "this version of exiftool does not read behind a trailer that it does not know"
REASONS = (
    Reason(OFFSET, "metadata-extractor", group="IFD1", tag="thumbnailoffset"),
    Reason(OFFSET, "metadata-extractor", group="IFD1", tag="stripoffsets"),
    Reason(NUMBER, "metadata-extractor", group="IPTC", tag="urgency"),
    Reason(NUMBER, "metadata-extractor", group="IPTC", tag="programversion"),
    Reason(NOTE, "metadata-extractor", group="ExifIFD", tag="makernote"),
    Reason(
        "text of bytes that are neither UTF-8 nor Latin-1 to them: ours is the readable one",
        *("metadata-extractor", "", "IFD0", "copyright"),
    ),
    Reason(
        "control characters are left out of texts", "metadata-extractor", "", "IFD0", "xpauthor"
    ),
    Reason(
        "the value is four control characters, which are left out of texts",
        *("exiftool", "Sigma.jpg", "ExifIFD", "filesource"),
    ),
    Reason(BROTLI, "exiftool", "JXL2.jxl"),
    Reason(TRAILER, "exiftool", "ExifTool.jpg", "IPTC2", before=13),
    Reason(TRAILER, "exiftool", "ExifTool.jpg", "IPTC3", before=13),
    Reason(
        "before version 13 exiftool names the group XMP-Container",
        *("exiftool", "Google.jpg", "XMP-GContainer"),
        before=13,
    ),
    Reason(
        "before version 13 exiftool does not decode it from base64",
        *("exiftool", "Google.jpg", "XMP-GCamera", "hdrplusmakernote"),
        before=13,
    ),
)
"""The only differences, by kind of value."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    require_exiftool()
    async with service_of(tmp_path_factory.mktemp("golden")) as service:
        yield service


module = pytest.mark.asyncio(loop_scope="module")


async def extract(service: MetadataService, path: Path) -> dict[str, Any]:
    with service.new_file(max_bytes=10**8) as file:
        await file.write(path.read_bytes())
        await file.finish()
        return dict((await service.extract(file, ExtractOptions(path.name))).metadata)


def lists_of_exiftool() -> Iterator[tuple[Path, list[Stated]]]:
    outs = {
        path: path.read_text(errors="replace") for path in golden("exiftool/expected").iterdir()
    }
    for image in sorted(golden("exiftool/images").iterdir()):
        own = OUT_OF_IMAGE.get(image.name)
        for path, text in outs.items():
            names_it = f"File Name: {image.name}\n" in text and path.stem not in OTHER_OUTPUTS
            if path.stem == own or names_it:
                yield image, list(of_exiftool(path))


def lists_of_extractor() -> Iterator[tuple[Path, list[Stated]]]:
    for path in sorted(golden("metadata-extractor").glob("*.txt")):
        yield path.with_suffix(""), list(of_extractor(path))


@pytest.mark.slow
@module
@pytest.mark.parametrize(
    ("project", "lists", "images", "values"),
    [
        ("exiftool", lists_of_exiftool, 36, 1400),
        ("metadata-extractor", lists_of_extractor, 60, 1890),
    ],
)
async def test_every_published_value_is_equal_or_has_a_reason_to_differ(
    shared: MetadataService, project: str, lists: Any, images: int, values: int
) -> None:
    version = float(shared.versions["exiftool"])
    compared, seen = 0, set()
    unexplained, used = [], set()
    for image, stated in lists():
        if image.name in UNSUPPORTED:
            continue
        metadata = await extract(shared, image)
        seen.add(image.name)
        compared += len(stated)
        for one, ours in differences(stated, Ours(metadata["groups"])):
            reasons = [r for r in REASONS if r.covers(project, image.name, one)]
            used |= set(reasons)
            if not any(r.before == 0 or version < r.before for r in reasons):
                unexplained.append(f"{image.name}: {one.group} {one.tag} {one.text!r}, we: {ours}")
    assert unexplained == []
    assert (len(seen) >= images, compared >= values) == (True, True), (len(seen), compared)
    # A reason that explains nothing any more must leave the table.
    assert {r for r in REASONS if r.project == project and r.before == 0} <= used
