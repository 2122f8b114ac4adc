"""Keys of the main API and of the users' tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from proxy.domain.errors import ConfigurationError
from proxy.settings import (
    IngestSettings,
    MainSettings,
    Settings,
    TokenKey,
    UserSettings,
    main_api_key,
    media_api_key,
    token_key,
)

SECRET = "a-secret-of-more-than-32-characters"


def test_the_worker_uses_its_own_key_or_else_that_of_the_media_api(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("a-key-in-a-file-of-its-own\n")
    main = MainSettings(key="the-key-of-the-media-api")
    assert media_api_key(main, tmp_path) == "the-key-of-the-media-api"
    assert main_api_key(IngestSettings(), main, tmp_path) == "the-key-of-the-media-api"
    own = IngestSettings(main_api_key="the-key-of-the-worker-itself")
    assert main_api_key(own, main, tmp_path) == "the-key-of-the-worker-itself"
    in_file = IngestSettings(main_api_key_file=str(file))
    assert main_api_key(in_file, main, tmp_path) == "a-key-in-a-file-of-its-own"


def test_without_a_key_both_sides_use_the_generated_one(tmp_path: Path) -> None:
    generated = media_api_key(MainSettings(), tmp_path / "keys")
    assert main_api_key(IngestSettings(), MainSettings(), tmp_path / "keys") == generated


def test_a_secret_of_the_settings_signs_tokens(tmp_path: Path) -> None:
    assert token_key(UserSettings(jwt_secret=SECRET), tmp_path) == TokenKey("HS256", SECRET)


def test_a_secret_in_a_file_signs_tokens(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    section = UserSettings(jwt_secret_file=str(file))
    assert token_key(section, tmp_path) == TokenKey("HS256", SECRET)


def test_a_short_secret_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have at least 32 bytes"):
        UserSettings(jwt_secret="short")
    file = tmp_path / "secret"
    file.write_text("short")
    with pytest.raises(ConfigurationError, match="must have at least 32 bytes"):
        token_key(UserSettings(jwt_secret_file=str(file)), tmp_path)


def test_without_a_secret_one_is_generated_once(tmp_path: Path) -> None:
    key = token_key(UserSettings(), tmp_path)
    assert key.algorithm == "HS256"
    assert token_key(UserSettings(), tmp_path) == key


def test_a_token_key_is_not_printed() -> None:
    assert SECRET not in repr(TokenKey("HS256", SECRET))


def pem(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def test_a_public_key_verifies_tokens(tmp_path: Path) -> None:
    file = tmp_path / "public.pem"
    file.write_text(pem(rsa.generate_private_key(65537, 2048)))
    key = token_key(UserSettings(jwt_public_key_file=str(file)), tmp_path)
    assert (key.algorithm, key.key) == ("RS256", file.read_text().strip())


@pytest.mark.parametrize(
    "text",
    ["", "no key", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PUBLIC KEY-----\nx\n"],
)
def test_a_file_without_an_rsa_public_key_is_a_fault(text: str, tmp_path: Path) -> None:
    file = tmp_path / "public.pem"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="must be an RSA public key in PEM"):
        token_key(UserSettings(jwt_public_key_file=str(file)), tmp_path)


@pytest.mark.parametrize(
    ("section", "setting"),
    [
        ("server", "public_url"),
        ("main", "smart_media_base_url"),
        ("ingest", "main_api_url"),
        ("ingest", "media_backend_url"),
    ],
)
@pytest.mark.parametrize("address", ["img.example.org", "htp://x y", "https://a/?q=1"])
def test_an_invalid_address_is_refused_with_the_setting_the_reason_and_an_example(
    section: str, setting: str, address: str
) -> None:
    with pytest.raises(ValueError, match=rf"{setting}[\s\S]*(must be|must begin|must not)"):
        Settings.model_validate({section: {setting: address}})
