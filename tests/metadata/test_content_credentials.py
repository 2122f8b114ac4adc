"""Content Credentials: states and claims, against public test files and a home-made certificate."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
import zlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from proxy.metadata import content_credentials
from proxy.metadata.container.result import BlockKind
from proxy.metadata.content_credentials import MEDIA_TYPES, CredentialsReader
from tests.support.containers import walked
from tests.support.golden import golden

c2pa = pytest.importorskip("c2pa")

CREATED = {
    "action": "c2pa.created",
    "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture",
}
STATES = {
    "public-testfiles/adobe-20220124-C.jpg": "valid",
    "public-testfiles/adobe-20220124-CA.jpg": "valid",
    "public-testfiles/adobe-20220124-E-dat-CA.jpg": "tampered",
    "public-testfiles/adobe-20220124-XCA.jpg": "tampered",
    "example-assets/ChatGPT_Image.png": "expired",
    "example-assets/Firefly_tabby_cat.jpg": "valid",
    "example-assets/crater-lake-cr.jpg": "remote",
}


def read(name: str) -> Any:
    image_format = "png" if name.endswith("png") else "jpeg"
    with golden(f"c2pa/{name}").open("rb") as file:
        return CredentialsReader("").read(file, image_format)


@pytest.mark.parametrize(("name", "state"), STATES.items())
def test_public_files_have_their_state(name: str, state: str) -> None:
    assert read(name)["state"] == state


@pytest.mark.parametrize("name", STATES)
def test_without_a_trust_list_every_issuer_is_untrusted(name: str) -> None:
    assert read(name)["trust"] == "untrusted"


@pytest.mark.parametrize(
    "name",
    [
        *(f"public-testfiles/adobe-20220124-{one}.jpg" for one in ("C", "CA", "E-dat-CA", "XCA")),
        "example-assets/ChatGPT_Image.png",
        "example-assets/Firefly_tabby_cat.jpg",
    ],
)
def test_the_manifests_are_those_of_the_published_store(name: str) -> None:
    path = golden(f"c2pa/{name}")
    lists = (path.with_suffix(".json"), path.with_name(f"{path.stem}__manifest_store.json"))
    store = json.loads(next(one for one in lists if one.exists()).read_text())
    found = read(name)
    assert found["active_manifest"] == store["active_manifest"]
    assert set(found["manifests"]) == set(store["manifests"])
    active = store["manifests"][store["active_manifest"]]
    assert found["issuer"] == active["signature_info"].get("issuer")
    claimed = {
        action["action"]
        for manifest in store["manifests"].values()
        for assertion in manifest["assertions"]
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    }
    assert {one["action"] for one in found["actions"]} == claimed


def test_each_class_of_damage_in_the_public_files_is_tampering() -> None:
    content = golden("c2pa/public-testfiles/adobe-20220124-CA.jpg").read_bytes()
    # After the claim, which is not repeated there (CBOR null), comes a string: the signature.
    empty = re.compile(rb"\xf6[\x58\x59]").search(content, content.rindex(b"c2pa.signature"))
    assert empty is not None
    signature = empty.end() + 10
    wrong = bytes((content[signature] ^ 1,))
    changed = {
        # E-sig: the signature; E-uri: an assertion, whose address has a hash.
        "claimSignature.mismatch": content[:signature] + wrong + content[signature + 1 :],
        "assertion.hashedURI.mismatch": content.replace(
            b"brightnesscontrast", b"brightnessdeadbeef"
        ),
    }
    for code, damaged in changed.items():
        found = CredentialsReader("").read(io.BytesIO(damaged), "jpeg")
        assert found is not None
        assert found["state"] == "tampered"
        assert code in found["codes"]


def test_an_ingredient_that_refers_to_another_manifest_is_tampering() -> None:
    # E-clm: the claim that an ingredient refers to is missing.
    content = golden("c2pa/example-assets/ChatGPT_Image.png").read_bytes()
    found = read("example-assets/ChatGPT_Image.png")
    ingredient = next(one for one in found["manifests"] if one != found["active_manifest"])
    start = content.index(b"caBX")
    end = start + 4 + int.from_bytes(content[start - 4 : start], "big")
    chunk = content[start:end]
    at = chunk.rindex(ingredient.encode()[-12:])
    chunk = chunk[:at] + b"beefbeefbeef" + chunk[at + 12 :]
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    damaged = content[:start] + chunk + crc + content[end + 4 :]
    found = CredentialsReader("").read(io.BytesIO(damaged), "png")
    assert found is not None
    assert found["state"] == "tampered"


def test_a_file_without_a_manifest_has_no_credentials() -> None:
    assert read("public-testfiles/adobe-20220124-I.jpg") is None


def test_the_claims_of_ingredients_are_listed() -> None:
    found = read("example-assets/ChatGPT_Image.png")
    created = [one for one in found["actions"] if one["action"] == "c2pa.created"]
    assert created[0]["software_agent"] == "GPT-4o"
    assert created[0]["digital_source_type"].endswith("/trainedAlgorithmicMedia")
    assert found["issuer"] == "OpenAI"
    assert "signingCredential.expired" in found["codes"]


def test_the_address_of_a_remote_manifest_is_reported() -> None:
    assert read("example-assets/crater-lake-cr.jpg")["remote_url"].startswith("https://")


def test_a_damaged_manifest_is_unreadable() -> None:
    content = golden("c2pa/public-testfiles/adobe-20220124-C.jpg").read_bytes()
    damaged = content.replace(b"jumdc2cl", b"jumdXXXX")
    found = CredentialsReader("").read(io.BytesIO(damaged), "jpeg")
    assert found is not None
    assert found["state"] == "unreadable"


def test_a_format_without_manifests_has_none() -> None:
    assert CredentialsReader("").read(io.BytesIO(b"BM"), "bmp") is None


def certificates() -> tuple[bytes, ec.EllipticCurvePrivateKey, bytes]:
    """A certificate of "OpenAI" by a CA that anybody can make: chain, key, and the CA."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = dt.datetime.now(dt.UTC)

    def name(common: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "OpenAI"),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    def builder(subject: str, public: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("CA"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=300))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    def usage(*, ca: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=ca,
            crl_sign=ca,
            encipher_only=False,
            decipher_only=False,
        )

    ca = (
        builder("CA", ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(ca=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        builder("ChatGPT", key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return leaf.public_bytes(pem), key, ca.public_bytes(pem)


def signed_by_anyone(
    media_type: str, content: bytes, assertion: dict[str, Any] | None = None
) -> tuple[bytes, str]:
    """Return the content signed by the home-made "OpenAI", and the certificate of its CA."""
    chain, key, ca = certificates()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    info = c2pa.C2paSignerInfo(
        alg=c2pa.C2paSigningAlg.ES256, sign_cert=chain, private_key=private, ta_url=None
    )
    manifest = {
        "claim_generator_info": [{"name": "ChatGPT"}],
        "assertions": [assertion or {"label": "c2pa.actions", "data": {"actions": [CREATED]}}],
    }
    signed = io.BytesIO()
    settings = c2pa.Settings.from_dict({"verify": {"verify_after_sign": False}})
    with (
        c2pa.Signer.from_info(info) as signer,
        c2pa.Builder(json.dumps(manifest), context=c2pa.Context(settings)) as builder,
    ):
        builder.sign(signer, media_type, io.BytesIO(content), signed)
    return signed.getvalue(), ca.decode()


def encoded(image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(buffer, image_format)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def home_made() -> tuple[bytes, str]:
    """A photograph signed by the home-made "OpenAI", and the certificate of its CA."""
    return signed_by_anyone("image/jpeg", encoded("JPEG"))


@pytest.mark.parametrize("name", sorted(MEDIA_TYPES.keys() - {"dng", "heif"}))
def test_credentials_are_found_in_every_format_that_can_hold_them(name: str) -> None:
    if name == "svg":
        content = b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"><rect/></svg>'
    elif name == "heic":
        content = golden("metadata-extractor/cheers_1440x960.heic").read_bytes()
    elif name == "jxl":
        content = golden("exiftool/images/JXL2.jxl").read_bytes()
    else:
        content = encoded(name)
    signed, _ = signed_by_anyone(MEDIA_TYPES[name], content)
    found = walked(signed)
    assert found.format == name
    assert found.block(BlockKind.C2PA) is not None
    read = CredentialsReader("").read(io.BytesIO(signed), name)
    assert read is not None
    assert (read["state"], read["issuer"]) == ("valid", "OpenAI")


def test_the_issuer_of_a_home_made_certificate_is_untrusted(home_made: tuple[bytes, str]) -> None:
    signed, _ = home_made
    found = CredentialsReader("").read(io.BytesIO(signed), "jpeg")
    assert found is not None
    assert (found["state"], found["trust"], found["issuer"]) == ("valid", "untrusted", "OpenAI")


def test_an_issuer_of_the_trust_list_is_trusted(home_made: tuple[bytes, str]) -> None:
    signed, ca = home_made
    found = CredentialsReader(ca).read(io.BytesIO(signed), "jpeg")
    assert found is not None
    assert (found["state"], found["trust"]) == ("valid", "trusted")


def test_a_changed_pixel_is_tampering(home_made: tuple[bytes, str]) -> None:
    signed, ca = home_made
    changed = bytearray(signed)
    changed[-10] ^= 1
    found = CredentialsReader(ca).read(io.BytesIO(bytes(changed)), "jpeg")
    assert found is not None
    assert found["state"] == "tampered"


def test_without_the_library_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_credentials, "c2pa", None)
    reader = CredentialsReader("")
    assert reader.version is None
    assert reader.read(io.BytesIO(b""), "jpeg") is None


TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def described(*codes: str, **block: Any) -> dict[str, Any]:
    """Return the result for a trusted manifest with failures and one assertion of actions."""
    store = {
        "active_manifest": "a",
        "manifests": {"a": {"assertions": [{"label": "c2pa.actions.v2", "data": block}]}},
        "validation_status": [{"code": code} for code in codes],
        "validation_results": {
            "activeManifest": {"success": [{"code": "signingCredential.trusted"}]}
        },
    }
    return content_credentials._described(store, None, has_trust_list=True)


@pytest.mark.parametrize(
    ("code", "state", "trust"),
    [
        ("signingCredential.ocsp.notRevoked", "valid", "trusted"),
        ("signingCredential.ocsp.skipped", "valid", "trusted"),
        ("signingCredential.ocsp.inaccessible", "valid", "trusted"),
        ("signingCredential.ocsp.unknown", "valid", "untrusted"),
        ("signingCredential.ocsp.revoked", "unreadable", "untrusted"),
        ("signingCredential.ocsp.revoked.later", "unreadable", "trusted"),
        ("signingCredential.revoked", "unreadable", "untrusted"),
        ("signingCredential.invalid", "unreadable", "untrusted"),
        ("signingCredential.untrusted", "valid", "untrusted"),
        ("timeStamp.mismatch", "valid", "trusted"),
        ("timeStamp.untrusted", "valid", "trusted"),
        ("ingredient.unknownProvenance", "valid", "trusted"),
        ("ingredient.manifest.missing", "valid", "trusted"),
        ("ingredient.manifest.mismatch", "tampered", "trusted"),
        ("ingredient.claimSignature.mismatch", "tampered", "trusted"),
        ("ingredient.of.the.future", "unreadable", "trusted"),
        ("algorithm.unsupported", "unreadable", "trusted"),
    ],
)
def test_only_codes_that_do_not_concern_the_claim_are_ignored(
    code: str, state: str, trust: str
) -> None:
    found = described(code)
    assert (found["state"], found["trust"]) == (state, trust)


AGENTS = [{"name": "GPT-4o"}, {"name": "Sora"}, "DALL-E", {}]


@pytest.mark.parametrize(
    ("action", "agent"),
    [
        ({"softwareAgentIndex": 0}, "GPT-4o"),
        ({"softwareAgentIndex": 2}, "DALL-E"),
        ({"softwareAgentIndex": 0, "softwareAgent": {"name": "Adobe Firefly"}}, "Adobe Firefly"),
        ({"softwareAgent": "Adobe Firefly"}, "Adobe Firefly"),
        *(({"softwareAgentIndex": bad}, None) for bad in (-1, 3, 4, "0", 0.0, True, None, [0])),
        ({}, None),
    ],
)
def test_an_agent_may_be_named_by_its_index(action: dict[str, Any], agent: str | None) -> None:
    found = described(actions=[action], softwareAgents=AGENTS)
    assert [one["software_agent"] for one in found["actions"]] == [agent]


@pytest.mark.parametrize("agents", [None, {}, "GPT-4o", []])
def test_an_index_without_a_list_of_agents_names_nobody(agents: Any) -> None:
    found = described(actions=[{"softwareAgentIndex": 0}], softwareAgents=agents)
    assert found["actions"][0]["software_agent"] is None


def test_a_template_completes_the_actions_that_it_is_for() -> None:
    found = described(
        softwareAgents=AGENTS,
        templates=[
            {"action": "c2pa.created", "softwareAgentIndex": 0, "digitalSourceType": TRAINED},
            {"action": "*", "softwareAgent": {"name": "Sora"}},
        ],
        actions=[
            {"action": "c2pa.created"},
            {"action": "c2pa.created", "softwareAgentIndex": 2, "digitalSourceType": "other"},
            {"action": "c2pa.edited"},
        ],
    )
    assert [(one["software_agent"], one["digital_source_type"]) for one in found["actions"]] == [
        ("GPT-4o", TRAINED),
        ("DALL-E", "other"),
        ("Sora", None),
    ]


@pytest.mark.parametrize("actions", [None, "created", {"action": "c2pa.created"}, [None, "x", 1]])
def test_actions_in_another_form_are_none(actions: Any) -> None:
    assert described(actions=actions, templates=actions)["actions"] == []


def test_the_agent_of_a_signed_file_is_found_by_its_index() -> None:
    block = {
        "softwareAgents": [{"name": "GPT-4o"}],
        "actions": [
            {"action": "c2pa.created", "softwareAgentIndex": 0, "digitalSourceType": TRAINED}
        ],
    }
    assertion = {"label": "c2pa.actions.v2", "data": block}
    signed, _ = signed_by_anyone("image/jpeg", encoded("JPEG"), assertion)
    found = CredentialsReader("").read(io.BytesIO(signed), "jpeg")
    assert found is not None
    assert (found["state"], found["actions"][0]["software_agent"]) == ("valid", "GPT-4o")
