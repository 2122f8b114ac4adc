"""Declarations in XMP, IPTC and the names of software."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.containers import jpeg, jpeg_with_xmp, segment, tiff
from tests.support.generations import known, of_file, of_texts

EXT = 'xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
SCHEME = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def xmp(attributes: str) -> dict[str, Any]:
    return of_file(
        jpeg_with_xmp(
            f'<rdf:Description {EXT} xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
            f' xmlns:xmp="http://ns.adobe.com/xap/1.0/" {attributes}/>'
        )
    )


@pytest.mark.parametrize(
    "value",
    [
        f"{SCHEME}trainedAlgorithmicMedia",
        "trainedAlgorithmicMedia",
        f"{SCHEME}trainedAlgorithmicMedia/",
        f"{SCHEME}trainedAlgorithmicMedia#",
        " digsrctype:trainedAlgorithmicMedia/# ",
        "TrainedAlgorithmicMedia",
    ],
)
def test_a_declared_source_type_is_other(value: str) -> None:
    found = xmp(f'e:DigitalSourceType="{value}"')
    assert known(found, "source", "involvement", "digital_source_type", "confidence") == {
        "source": "other",
        "involvement": "generated",
        "digital_source_type": "trainedAlgorithmicMedia",
        "confidence": 0.7,
    }


@pytest.mark.parametrize(
    "element",
    [
        '<e:DigitalSourceType rdf:resource="{}"/>',
        '<e:DigitalSourceType><rdf:Bag><rdf:li rdf:resource="{}"/></rdf:Bag></e:DigitalSourceType>',
        '<e:DigitalSourceType><rdf:Description rdf:about="{}"/></e:DigitalSourceType>',
        '<e:DigitalSourceType><rdf:Description rdf:value="{}"/></e:DigitalSourceType>',
        "<e:DigitalSourceType>{}</e:DigitalSourceType>",
        "<e:DigitalSourcefileType>{}</e:DigitalSourcefileType>",
    ],
)
def test_a_source_type_is_read_in_every_form_of_rdf(element: str) -> None:
    inner = element.format(f"{SCHEME}trainedAlgorithmicMedia")
    found = of_file(jpeg_with_xmp(f"<rdf:Description {EXT}>{inner}</rdf:Description>"))
    assert known(found, "source", "digital_source_type") == {
        "source": "other",
        "digital_source_type": "trainedAlgorithmicMedia",
    }


def test_a_composite_has_no_source_also_if_a_tool_is_named() -> None:
    found = xmp(
        f'e:DigitalSourceType="{SCHEME}compositeWithTrainedAlgorithmicMedia"'
        ' xmp:CreatorTool="Adobe Firefly"'
    )
    assert known(found, "source", "involvement") == {
        "source": "unknown",
        "involvement": "composite",
    }


@pytest.mark.parametrize("kind", ["digitalCapture", "digitalArt", "softwareImage", ""])
def test_other_source_types_say_nothing(kind: str) -> None:
    assert xmp(f'e:DigitalSourceType="{SCHEME}{kind}"')["evidence"] == []


def test_the_properties_of_iptc_2025_are_read() -> None:
    found = xmp('e:AISystemUsed="Imagen" e:AISystemVersionUsed="4" e:AIPromptInformation="a cat"')
    assert known(found, "source", "generator", "version", "prompt", "confidence") == {
        "source": "google",
        "generator": "Imagen",
        "version": "4",
        "prompt": "a cat",
        "confidence": 0.7,
    }


def test_a_credit_of_google_names_the_source() -> None:
    found = xmp(
        'photoshop:Credit="Made with Google AI"'
        f' e:DigitalSourceType="{SCHEME}trainedAlgorithmicMedia"'
    )
    assert known(found, "source", "confidence") == {"source": "google", "confidence": 0.7}
    assert [fact["class"] for fact in found["evidence"]] == ["digital_source_type", "tool_string"]


@pytest.mark.parametrize("credit", ["Midjourney", "Grok / Agency", "Gemini Photos"])
def test_a_credit_that_may_be_a_person_says_nothing(credit: str) -> None:
    assert xmp(f'photoshop:Credit="{credit}"')["source"] == "unknown"


def test_the_software_of_exif_and_png_is_a_tool_string() -> None:
    exif = of_file(jpeg(segment(0xE1, b"Exif\0\0" + tiff({0x0131: "Adobe Firefly"}))))
    assert known(exif, "source", "confidence") == {"source": "firefly", "confidence": 0.5}
    assert of_texts({"Software": "Ideogram"})["source"] == "other"
    assert of_texts({"Software": "Google Photos"})["source"] == "unknown"
    assert of_texts({"Software": "Captura de Imagen 2.1"})["source"] == "unknown"


def test_a_name_that_other_products_have_counts_if_the_image_is_declared_as_generated() -> None:
    assert xmp('xmp:CreatorTool="Gemini"')["evidence"] == []
    declared = f'e:DigitalSourceType="{SCHEME}trainedAlgorithmicMedia"'
    assert xmp(f'xmp:CreatorTool="Gemini" {declared}')["source"] == "google"


def test_grok_is_recognised_by_its_signature() -> None:
    tags = {0x010E: f"Signature: {'Ab3+' * 20}", 0x013B: "0a1b2c3d-1111-2222-3333-444455556666"}
    found = of_file(jpeg(segment(0xE1, b"Exif\0\0" + tiff(tags))))
    assert known(found, "source", "generator") == {"source": "other", "generator": "Grok"}
