"""All facts for examiners together."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from proxy.metadata.container.walk import walk
from proxy.metadata.forensics.advanced import MAX_TIMELINE, Findings, advanced_of
from tests.metadata.files import gif, jpeg, png

KEYS = {
    *("c2pa", "validation", "timeline", "consistency", "thumbnail", "jpeg", "trailing_bytes"),
    *("stealth", "privacy", "reasons"),
}
FOUND = Findings(credentials=None, hidden_text=None, no_stealth="", validation={})


def webp() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "WEBP")
    return buffer.getvalue()


def tiff() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "TIFF")
    return buffer.getvalue()


def facts(content: bytes, groups: Any = None, findings: Findings = FOUND) -> dict[str, Any]:
    file = BytesIO(content)
    found, _ = advanced_of(file, walk(file), groups or {}, findings)
    assert set(found) == KEYS
    return found


@pytest.mark.parametrize("content", [jpeg(), png(), gif(), webp()])
def test_bytes_behind_the_image_are_counted(content: bytes) -> None:
    assert facts(content)["trailing_bytes"] == 0
    found = facts(content + b"PK\x03\x04 more")
    assert found["trailing_bytes"] == 9
    (seen,) = found["consistency"]
    assert "ZIP" in seen["what"]


def test_what_is_not_known_is_none_and_has_a_reason() -> None:
    findings = Findings(credentials=None, hidden_text=None, no_stealth="off", validation=None)
    found = facts(tiff(), findings=findings)
    assert (found["jpeg"], found["trailing_bytes"], found["validation"]) == (None, None, [])
    assert found["stealth"] == {"present": None, "text": None}
    assert found["thumbnail"] == {"present": False, "distance": None}
    assert set(found["reasons"]) == {
        *("jpeg", "trailing_bytes", "validation", "stealth", "thumbnail.distance"),
    }


def test_a_truncated_image_has_no_trailing_bytes() -> None:
    found = facts(jpeg(size=(300, 300))[:-200])
    assert found["trailing_bytes"] is None
    assert "missing" in found["reasons"]["trailing_bytes"]


def test_what_other_parts_have_found_is_included() -> None:
    findings = Findings(
        credentials={"state": "valid", "signed_at": "2024-05-05T00:00:00Z"},
        hidden_text="parameters",
        no_stealth="",
        validation={"ExifTool": {"Warning": "a warning"}},
    )
    found = facts(png(), findings=findings)
    assert found["c2pa"]["state"] == "valid"
    assert found["timeline"] == [
        {"when": "2024-05-05T00:00:00Z", "field": "c2pa:signed_at", "value": "2024-05-05T00:00:00Z"}
    ]
    assert found["stealth"] == {"present": True, "text": "parameters"}
    assert [one["what"] for one in found["validation"]] == ["a warning"]
    assert [one["where"] for one in found["consistency"]] == ["pixels"]


def test_a_timeline_that_is_cut_is_named() -> None:
    dates = {f"Copy{index}:ModifyDate": "2024:05:03 08:00:00" for index in range(1000)}
    file = BytesIO(gif())
    found, cut = advanced_of(file, walk(file), {"IFD0": dates}, FOUND)
    assert len(found["timeline"]) == MAX_TIMELINE
    assert cut == ["advanced.timeline"]
