"""Content Credentials as evidence: trusted, untrusted, expired, tampered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.containers import chunk, png
from tests.support.generations import known, of_file, of_texts
from tests.support.golden import golden

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TRAINED = f"{IPTC}trainedAlgorithmicMedia"
COMPOSITE = f"{IPTC}compositeWithTrainedAlgorithmicMedia"


def credentials(*actions: tuple[str, str | None, str | None], **changed: Any) -> dict[str, Any]:
    """Return the object ``c2pa``; an action is its name, its agent and its source type."""
    return {
        "state": "valid",
        "trust": "untrusted",
        "issuer": None,
        "claim_generator": None,
        "generators": [],
        "actions": [
            {"action": a, "software_agent": s, "digital_source_type": t, "manifest": "m"}
            for a, s, t in actions
        ],
        "codes": [],
        "remote_url": None,
        "signed_at": None,
        **changed,
    }


def detected(store: Any) -> dict[str, Any]:
    return of_texts({}, content_credentials=store)


CHATGPT = credentials(
    ("c2pa.opened", None, None),
    ("c2pa.created", "GPT-4o", TRAINED),
    issuer="OpenAI",
    generators=["ChatGPT"],
    state="expired",
)


def test_chatgpt_is_found_through_an_ingredient_of_an_expired_manifest() -> None:
    assert known(
        detected(CHATGPT), "source", "involvement", "confidence", "digital_source_type"
    ) == {
        "source": "dall-e",
        "involvement": "generated",
        "confidence": 0.6,
        "digital_source_type": "trainedAlgorithmicMedia",
    }


def test_an_untrusted_issuer_is_quoted_as_a_claim() -> None:
    found = detected(credentials(("c2pa.created", "GPT-4o", TRAINED), issuer="OpenAI"))
    assert found["confidence"] == 0.6
    assert found["evidence"] == [
        {
            "class": "untrusted_c2pa",
            "where": "C2PA",
            "key": "manifest",
            "says": (
                'claims GPT-4o, trainedAlgorithmicMedia; untrusted signature that names "OpenAI"'
            ),
        }
    ]


def test_a_trusted_manifest_is_the_strongest_evidence() -> None:
    found = detected({**CHATGPT, "state": "valid", "trust": "trusted"})
    assert found["confidence"] == 0.95
    # Expired certificates are not trusted any more.
    assert detected({**CHATGPT, "trust": "trusted"})["confidence"] == 0.6


@pytest.mark.parametrize("state", ["tampered", "remote", "unreadable", None, 5])
def test_a_tampered_or_unread_manifest_is_no_evidence(state: Any) -> None:
    found = detected({**CHATGPT, "state": state})
    assert known(found, "source", "confidence", "evidence") == {
        "source": "unknown",
        "confidence": None,
        "evidence": [],
    }


@pytest.mark.parametrize(
    ("agent", "issuer", "source"),
    [
        ("Adobe Firefly", "Adobe Inc.", "firefly"),
        ("Adobe_Firefly", None, "firefly"),
        ("Google Imagen 3", "Google LLC", "google"),
        (None, "Google LLC", "google"),
        ("Bing Image Creator", "Microsoft Corporation", "microsoft"),
        ("Microsoft Responsible AI Image Provenance", None, "microsoft"),
        ("DALL·E 3", "OpenAI", "dall-e"),
        ("Sora", "OpenAI", "dall-e"),
        ("Ideogram", None, "other"),
        ("A tool nobody knows", None, "other"),
    ],
)
def test_agents_name_the_source(agent: str | None, issuer: str | None, source: str) -> None:
    found = detected(credentials(("c2pa.created", agent, TRAINED), issuer=issuer))
    assert (found["source"], found["involvement"]) == (source, "generated")


def test_a_photograph_with_generative_fill_is_a_composite_of_unknown_source() -> None:
    for store in (
        credentials(("c2pa.edited", "Adobe Firefly", COMPOSITE), generators=["Adobe Photoshop"]),
        credentials(("c2pa.created", None, f"{IPTC}digitalCapture"), ("c2pa.placed", "x", TRAINED)),
        credentials(("c2pa.edited", None, COMPOSITE), ("c2pa.created", "Adobe Firefly", TRAINED)),
    ):
        found = detected(store)
        assert known(found, "source", "involvement") == {
            "source": "unknown",
            "involvement": "composite",
        }


@pytest.mark.parametrize(
    "store",
    [
        credentials(("c2pa.opened", "Adobe Photoshop", None), issuer="Adobe Inc."),
        credentials(
            ("c2pa.created", "Pixel Camera", f"{IPTC}computationalCapture"), issuer="Google LLC"
        ),
        credentials(issuer="Microsoft Corporation"),
        {"state": "valid", "actions": "x", "generators": 5},
        {"state": "valid", "actions": [None, 5, {"software_agent": [], "digital_source_type": {}}]},
        {},
    ],
)
def test_photographs_and_damaged_objects_are_not_generated(store: Any) -> None:
    assert detected(store)["source"] == "unknown"


def test_a_manifest_that_was_not_validated_is_weak_evidence() -> None:
    manifest = b"jumb....c2pa....ChatGPT....digitalSourceType" + TRAINED.encode()
    found = of_file(png(chunk(b"caBX", manifest)))
    assert known(found, "source", "confidence") == {"source": "dall-e", "confidence": 0.5}
    composite = of_file(png(chunk(b"caBX", b"Firefly " + COMPOSITE.encode())))
    assert known(composite, "source", "involvement") == {
        "source": "unknown",
        "involvement": "composite",
    }


def stored(store: dict[str, Any]) -> dict[str, Any]:
    """Return the object ``c2pa`` for a manifest store as c2pa-rs prints it."""
    active = store["active_manifest"]
    manifests = sorted(store["manifests"].items(), key=lambda item: item[0] != active)
    assertions = [one for _, manifest in manifests for one in manifest.get("assertions", [])]
    actions = [
        (action["action"], agent.get("name") if isinstance(agent, dict) else agent, kind)
        for one in assertions
        if one["label"].startswith("c2pa.actions")
        for action in one["data"]["actions"]
        for agent, kind in [(action.get("softwareAgent"), action.get("digitalSourceType"))]
    ]
    infos = [info for _, manifest in manifests for info in manifest.get("claim_generator_info", [])]
    return credentials(
        *actions,
        issuer=store["manifests"][active]["signature_info"]["issuer"],
        generators=[info["name"] for info in infos],
    )


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ChatGPT_Image", "dall-e"),
        ("Firefly_tabby_cat", "firefly"),
        ("download", "dall-e"),
        ("car-es-Ps-Cr", "unknown"),
        ("cloudscape-ACA-Cr", "unknown"),
        ("crater-lake-cr", "unknown"),
    ],
)
def test_golden_manifest_stores_name_their_source(name: str, source: str) -> None:
    store = json.loads(golden(f"c2pa/example-assets/{name}.json").read_text())
    assert detected(stored(store))["source"] == source


@pytest.mark.parametrize("end", ["/", "#", " "])
def test_a_source_type_may_end_with_a_separator(end: str) -> None:
    found = detected(credentials(("c2pa.created", None, TRAINED + end)))
    assert found["digital_source_type"] == "trainedAlgorithmicMedia"
