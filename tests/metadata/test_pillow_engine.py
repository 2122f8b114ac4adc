"""The fallback engine."""

from __future__ import annotations

import subprocess
import warnings
from io import BytesIO
from typing import Any

import pytest
from PIL import ExifTags, Image

from proxy.domain.errors import UnknownImageFormat
from proxy.metadata import description, photograph, pillow_engine
from proxy.metadata.container.walk import walk
from proxy.metadata.exact_texts import with_exact_texts
from proxy.metadata.exiftool import ARGUMENTS
from proxy.metadata.pillow_engine import NoEngineCouldRead
from proxy.metadata.tags import Groups, parse
from tests.metadata.files import MAKE, MODEL, gif, jpeg, png, require_exiftool, text_chunk
from tests.support.golden import golden


def read(content: bytes) -> Groups:
    file = BytesIO(content)
    return pillow_engine.read(file, walk(file))


def test_exif_has_the_groups_and_names_of_exiftool() -> None:
    found = read(jpeg())
    assert (found["IFD0"]["Make"], found["IFD0"]["Model"]) == (MAKE, MODEL)
    assert found["ExifIFD"]["ISO"] == 400
    assert found["ExifIFD"]["FNumber"] == 2.8
    assert found["ExifIFD"]["DateTimeOriginal"] == "2024:05:01 10:11:12"
    assert found["Composite"]["GPSLatitude"] == pytest.approx(-33.8583333)
    assert found["Composite"]["GPSLongitude"] == pytest.approx(151.2)


@pytest.mark.parametrize("keyword", ["dpi", "aspect", "photoshop", "exif", "Raw profile type exif"])
def test_a_text_with_a_keyword_of_pillow_is_only_a_text(keyword: str) -> None:
    found = read(png(text_chunk(keyword, "300"), text_chunk("Title", "duck")))
    assert found["PNG"]["Title"] == "duck"
    assert found["File"]["ImageWidth"] == 1
    assert "PNG-pHYs" not in found


def with_position(**tags: Any) -> Groups:
    """Return the tags of a JPEG with these tags in its GPS directory."""
    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    for name, value in tags.items():
        gps[ExifTags.GPS[name]] = value
    buffer = BytesIO()
    Image.new("L", (4, 3)).save(buffer, "JPEG", exif=exif)
    return read(buffer.getvalue())


PLACE = {"GPSLatitude": (33.0, 30.0, 0.0), "GPSLongitude": (70.0, 15.0, 0.0)}
SOUTH_WEST = {"GPSLatitudeRef": "S", "GPSLongitudeRef": "W"}


@pytest.mark.parametrize(("reference", "altitude"), [(b"\0", 12.5), (b"\1", -12.5), (None, 12.5)])
def test_an_altitude_has_its_sign(reference: bytes | None, altitude: float) -> None:
    tags = {} if reference is None else {"GPSAltitudeRef": reference}
    found = photograph.gps_of(with_position(**PLACE, **SOUTH_WEST, **tags, GPSAltitude=12.5))
    assert found is not None
    assert (found["latitude"], found["longitude"]) == (-33.5, -70.25)
    assert found["altitude"] == altitude


def test_a_position_without_a_hemisphere_has_no_sign() -> None:
    found = with_position(**PLACE)
    assert found["GPS"]["GPSLatitude"] == 33.5
    assert photograph.gps_of(found) is None


def test_a_position_has_the_time_of_its_two_tags() -> None:
    found = with_position(
        **PLACE, **SOUTH_WEST, GPSDateStamp="2019:05:01", GPSTimeStamp=(8.0, 5.0, 7.25)
    )
    assert found["GPS"]["GPSTimeStamp"] == "08:05:07.25"
    assert (photograph.gps_of(found) or {})["taken_at"] == "2019-05-01T08:05:07.25Z"


def test_numbers_that_are_bytes_are_numbers() -> None:
    assert with_position(GPSVersionID=b"\2\3\0\0")["GPS"]["GPSVersionID"] == "2 3 0 0"


def test_texts_that_only_the_walk_decodes_are_texts() -> None:
    exif = Image.Exif()
    exif[0x9C9B] = "Tïtle".encode("utf-16-le") + b"\0\0"
    exif[0x9C9C] = b"\0\0"
    photo = exif.get_ifd(ExifTags.IFD.Exif)
    photo[ExifTags.Base.UserComment] = b"UNICODE\0" + "héllo".encode("utf-16-le")
    photo[ExifTags.Base.DateTimeDigitized] = "2019:05:01 10:00:00"
    photo[ExifTags.Base.SubsecTimeDigitized] = "25"
    photo[ExifTags.Base.ShutterSpeedValue] = 6.0
    photo[ExifTags.Base.ApertureValue] = 3.0
    buffer = BytesIO()
    Image.new("L", (4, 3)).save(buffer, "JPEG", exif=exif)
    found = read(buffer.getvalue())
    assert (found["IFD0"]["XPTitle"], found["IFD0"]["XPComment"]) == ("Tïtle", "")
    assert found["ExifIFD"]["UserComment"] == "héllo"
    facts = photograph.exif_of(found, None)
    assert facts["taken_at"] == "2019-05-01T10:00:00.25"
    assert facts["exposure"] == pytest.approx(1 / 64)
    assert facts["aperture"] == pytest.approx(2.828427)


XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
 xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:DateTimeOriginal="2019-05-01T10:00:00+02:00"
 exif:FNumber="28/10" exif:ExposureTime="1/200" exif:GPSLatitude="33,51.5S"
 exif:GPSLongitude="70,40,15W" exif:GPSAltitude="30/1" exif:GPSAltitudeRef="1"
 exif:GPSTimeStamp="2019-05-01T08:00:00Z"><exif:ISOSpeedRatings><rdf:Seq><rdf:li>400</rdf:li>
 </rdf:Seq></exif:ISOSpeedRatings></rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_xmp_has_the_names_and_numbers_of_exiftool() -> None:
    buffer = BytesIO()
    Image.new("L", (4, 3)).save(buffer, "JPEG", xmp=XMP.encode())
    found = read(buffer.getvalue())
    facts = photograph.exif_of(found, None)
    assert (facts["aperture"], facts["exposure"], facts["iso"]) == (2.8, 0.005, 400)
    assert facts["taken_at"] == "2019-05-01T10:00:00+02:00"
    assert photograph.gps_of(found) == {
        "latitude": pytest.approx(-33.858333),
        "longitude": pytest.approx(-70.670833),
        "altitude": -30,
        "taken_at": "2019-05-01T08:00:00Z",
    }


def test_the_date_of_iptc_is_read() -> None:
    date, time = (
        b"\x1c\x02" + bytes([number]) + len(text).to_bytes(2, "big") + text
        for number, text in ((55, b"20190501"), (60, b"101112+0200"))
    )
    resource = b"8BIM\x04\x04\0\0" + len(date + time).to_bytes(4, "big") + date + time
    content = b"Photoshop 3.0\0" + resource + b"\0" * (len(resource) % 2)
    segment = b"\xff\xed" + (len(content) + 2).to_bytes(2, "big") + content
    plain = jpeg_without_exif()
    found = read(plain[:2] + segment + plain[2:])
    assert found["IPTC"] == {"DateCreated": "2019:05:01", "TimeCreated": "10:11:12+02:00"}
    assert photograph.exif_of(found, None)["taken_at"] == "2019-05-01T10:11:12+02:00"


def jpeg_without_exif() -> bytes:
    buffer = BytesIO()
    Image.new("L", (4, 3)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_the_density_is_that_of_the_container(name: str) -> None:
    buffer = BytesIO()
    Image.new("L", (4, 3)).save(
        buffer, name.rpartition(".")[2].replace("jpg", "jpeg"), dpi=(72, 72)
    )
    content = buffer.getvalue()
    walked = walk(BytesIO(content))
    density = description.image_of(walked, read(content), walked.format)["density"]
    assert density == {
        "x": pytest.approx(72, abs=0.02),
        "y": pytest.approx(72, abs=0.02),
        "unit": "inch",
    }


def test_a_jpeg_without_a_density_has_no_unit() -> None:
    content = jpeg_without_exif()
    walked = walk(BytesIO(content))
    density = description.image_of(walked, read(content), "jpeg")["density"]
    assert density == {"x": 1, "y": 1, "unit": None}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Metadata Warning:UserWarning")
@pytest.mark.parametrize("folder", ["exiftool/images", "metadata-extractor"])
def test_the_facts_of_golden_files_are_those_of_exiftool(folder: str) -> None:
    require_exiftool()
    compared = 0
    for path in sorted(golden(folder).iterdir()):
        try:
            walked = walk(BytesIO(path.read_bytes()))
            own = with_exact_texts(read(path.read_bytes()), walked)
        except (UnknownImageFormat, NoEngineCouldRead):
            continue
        command = ["exiftool", "-config", "", *ARGUMENTS, str(path)]
        printed = subprocess.run(command, check=False, capture_output=True)
        tags = with_exact_texts(parse(printed.stdout), walked)
        for facts in (lambda groups: photograph.exif_of(groups, None), photograph.gps_of):
            assert rounded(facts(own)) == rounded(facts(tags)), path.name
        compared += 1
    assert compared > 30


def rounded(facts: Any) -> Any:
    """Return facts that differ only in the last digits as equal."""
    if isinstance(facts, dict):
        return {key: rounded(value) for key, value in facts.items()}
    return float(f"{facts:.6g}") if isinstance(facts, float | int) else facts


def test_texts_of_the_walk_are_tags_and_equal_keys_are_both_kept() -> None:
    found = read(png(text_chunk("Comment", "one"), text_chunk("Comment", "two")))
    assert found["PNG"] == {"Comment": "one", "Copy1:Comment": "two"}


def test_the_size_is_that_of_the_image() -> None:
    assert read(gif())["File"] == {"ImageWidth": 3, "ImageHeight": 2}


@pytest.mark.parametrize("content", [b"GIF89a", jpeg()[:30], png()[:20]])
def test_a_file_that_pillow_cannot_open_is_refused(content: bytes) -> None:
    with pytest.raises(NoEngineCouldRead):
        read(content)


def test_the_sample_has_exif() -> None:
    pillow_engine.load_plugins()
    assert read(pillow_engine.sample())["IFD0"]["Make"] == "sample"


@pytest.mark.parametrize("box", [b"pitm", b"iloc", b"iinf", b"infe"])
def test_an_avif_that_its_decoder_refuses_cannot_be_read(box: bytes) -> None:
    buffer = BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "AVIF")
    with pytest.raises(NoEngineCouldRead):
        read(buffer.getvalue().replace(box, b"free"))


def test_a_damaged_file_prints_no_warning() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a name that needs an offset"
    # The EXIF data end within the name.
    damaged = BytesIO()
    Image.new("L", (1, 1)).save(damaged, "JPEG", exif=exif.tobytes()[:-20])
    with warnings.catch_warnings(record=True) as printed:
        # The filter of a process that pytest did not start.
        warnings.simplefilter("default")
        pillow_engine.load_plugins()
        read(damaged.getvalue())
    assert printed == []
