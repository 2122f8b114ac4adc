"""Every published EXIF, GPS, IPTC and XMP value of other projects' images is the one we return."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from PIL import ExifTags, Image

from proxy.metadata.extraction import ExtractOptions
from proxy.metadata.service import MetadataService
from tests.metadata.files import png, require_exiftool, text_chunk
from tests.metadata.golden_values import (
    Ours,
    Stated,
    degrees_of,
    differences,
    of_exiftool,
    of_extractor,
)
from tests.metadata.opened import service_of
from tests.support.golden import golden

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


@pytest.mark.slow
@module
async def test_positions_have_the_published_sign(shared: MetadataService) -> None:
    compared = 0
    for image, stated in lists_of_extractor():
        degrees = {one.tag: degrees_of(one.text) for one in stated if one.group == "GPS"}
        published = [degrees.get(f"gps{name}") for name in ("latitude", "longitude")]
        if any(published):
            position = (await extract(shared, image))["gps"]
            ours = [position[name] for name in ("latitude", "longitude")]
            assert ours == [pytest.approx(one, abs=1e-5) for one in published], image.name
            compared += 1
    assert compared >= 4


AS_WRITTEN = ("True", "FALSE", "007", "7.50", "1.0", "1e400", "18446744073709551615", "NaN", "-0")
_XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF
 xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description r:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:own="http://example.org/own/" xmp:Label="{text}" own:Thing="{text}"><dc:subject><r:Bag>
 <r:li>{text}</r:li><r:li>other</r:li></r:Bag></dc:subject></r:Description></r:RDF></x:xmpmeta>"""


def jpeg_that_says(text: str) -> bytes:
    """A JPEG with one text in EXIF, XMP, IPTC and a comment."""
    exif = Image.Exif()
    for name in ("ImageDescription", "Make", "Software", "Artist"):
        exif[getattr(ExifTags.Base, name)] = text
    photo = exif.get_ifd(ExifTags.IFD.Exif)
    photo[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + text.encode()
    photo[ExifTags.Base.LensModel] = photo[ExifTags.Base.BodySerialNumber] = text
    buffer = io.BytesIO()
    packet = _XMP.format(text=text).encode()
    Image.new("L", (2, 2)).save(buffer, "JPEG", exif=exif, xmp=packet, comment=text.encode())
    datasets = b"".join(
        b"\x1c\x02" + bytes((number,)) + len(text).to_bytes(2, "big") + text.encode()
        for number in (5, 25, 25, 120)  # ObjectName, Keywords, Caption-Abstract
    )
    padded = datasets + bytes(len(datasets) % 2)
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + len(datasets).to_bytes(4, "big") + padded
    content = buffer.getvalue()
    return content[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block + content[2:]


@module
@pytest.mark.parametrize("text", AS_WRITTEN)
async def test_a_text_that_looks_like_another_type_comes_back_as_written(
    shared: MetadataService, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_that_says(text))
    groups = (await extract(shared, path))["groups"]
    assert [
        groups["IFD0"][name] for name in ("ImageDescription", "Make", "Software", "Artist")
    ] == [text] * 4
    photo = ("UserComment", "LensModel", "SerialNumber")
    assert [groups["ExifIFD"][name] for name in photo] == [text] * 3
    assert groups["File"]["Comment"] == text
    assert (groups["XMP-xmp"]["Label"], groups["XMP-own"]["Thing"]) == (text, text)
    assert groups["XMP-dc"]["Subject"] == [text, "other"]
    assert (groups["IPTC"]["ObjectName"], groups["IPTC"]["Caption-Abstract"]) == (text, text)
    assert groups["IPTC"]["Keywords"] == [text, text]


@module
async def test_equal_keywords_of_png_are_all_kept(shared: MetadataService, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(*(text_chunk("seed", text) for text in (*AS_WRITTEN, "007"))))
    metadata = await extract(shared, path)
    assert [one["text"] for one in metadata["text"]] == [*AS_WRITTEN, "007"]
    chunks = {key: value for key, value in metadata["groups"]["PNG"].items() if "eed" in key}
    assert sorted(chunks.values()) == sorted([*AS_WRITTEN, "007"])


@module
async def test_a_home_made_openai_certificate_is_a_claim(
    shared: MetadataService, tmp_path: Path
) -> None:
    signed = pytest.importorskip("tests.metadata.test_content_credentials")
    path = tmp_path / "a.jpg"
    path.write_bytes(signed.signed_by_anyone("image/jpeg", signed.encoded("JPEG"))[0])
    metadata = await extract(shared, path)
    assert (metadata["c2pa"]["trust"], metadata["c2pa"]["issuer"]) == ("untrusted", "OpenAI")
    generation = metadata["ai_generation"]
    assert generation["confidence"] == 0.6
    assert [one["class"] for one in generation["evidence"]] == ["untrusted_c2pa"]
    assert generation["evidence"][0]["says"].endswith('signature that names "OpenAI"')
