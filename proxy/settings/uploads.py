"""The platform around the proxy: uploads and their queue, users, and the worker that takes in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jwt.algorithms import RSAAlgorithm
from jwt.exceptions import InvalidKeyError
from pydantic import Field, field_validator, model_validator

from proxy.settings.base import PositiveSeconds, Seconds, Section
from proxy.settings.secrets import MAKE_KEY, Key, check_key, kept_key, read_key, require_one

_MIB = 1024 * 1024
_MIN_SECRET_BYTES = 32
_BASE_URL = r"^(https?://[^\s?#]+)?$"


class MainSettings(Section):
    """The part of the main API: uploads, their queue, and the media API that empties it."""

    enabled: bool = True
    url: str = Field("", repr=False)
    temp_root: str = ""
    key: Key = ""
    key_file: str = Field("", repr=False)
    smart_media_base_url: str = Field("", pattern=_BASE_URL)
    max_file_bytes: int = Field(5 * _MIB, ge=1024, le=1024 * _MIB)
    upload_timeout_s: PositiveSeconds = 120
    upload_stall_s: PositiveSeconds = 30
    replace_interval_s: PositiveSeconds = 60

    @model_validator(mode="after")
    def _check(self) -> MainSettings:
        require_one(self, "key", "key_file")
        return self


class UserSettings(Section):
    """Who uploads: the tokens that users show."""

    jwt_secret: str = Field("", repr=False)
    jwt_secret_file: str = Field("", repr=False)
    jwt_public_key_file: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_leeway_s: Seconds = 30

    @field_validator("jwt_secret")
    @classmethod
    def _check_secret(cls, secret: str) -> str:
        if secret:
            _long(secret)
        return secret

    @model_validator(mode="after")
    def _check(self) -> UserSettings:
        require_one(self, "jwt_secret", "jwt_secret_file", "jwt_public_key_file")
        return self


class IngestSettings(Section):
    """The worker that turns uploads into media."""

    embedded: bool = True
    main_api_url: str = Field("", pattern=_BASE_URL)
    main_api_key: Key = ""
    main_api_key_file: str = Field("", repr=False)
    media_backend_url: str = Field("", pattern=_BASE_URL)
    at_once: int = Field(1, ge=1, le=64)
    idle_s: PositiveSeconds = 600
    lease_s: float = Field(60, ge=1, le=86400)
    max_attempts: int = Field(3, ge=1, le=10)
    first_wait_s: PositiveSeconds = 1
    max_wait_s: PositiveSeconds = 30
    heal_after_s: PositiveSeconds = 60
    max_heal_wait_s: PositiveSeconds = 3600
    max_heals: int = Field(48, ge=0, le=10_000)
    heals_per_cycle: int = Field(10, ge=0, le=1000)
    ask_again_s: tuple[PositiveSeconds, ...] = Field(
        (900, 3600, 14_400, 57_600, 86_400), max_length=20
    )
    request_timeout_s: PositiveSeconds = 30
    step_timeout_s: PositiveSeconds = 900
    render_timeout_s: PositiveSeconds = 3600
    analyse: bool = True
    renditions: Literal["draft", "final", "none"] = "draft"

    @model_validator(mode="after")
    def _check(self) -> IngestSettings:
        require_one(self, "main_api_key", "main_api_key_file")
        return self


def media_api_key(section: MainSettings, key_directory: Path) -> str:
    """The key of the media API: of the settings, of its file, or one that is made and kept.

    Blocking: to be called at start.

    Raises:
        ConfigurationError: its file cannot be read or made, or holds no key that can be used.
    """
    if section.key_file:
        return read_key(section.key_file, setting="main.key_file", check=check_key)
    return section.key or kept_key(key_directory, "media_api")


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What tokens of users are checked with, and signed with where it is a secret."""

    algorithm: Literal["HS256", "RS256"]
    key: str = field(repr=False)


def token_key(section: UserSettings, key_directory: Path) -> TokenKey:
    """The key of the users' tokens; a secret is made and kept where none is set.

    Blocking: to be called at start.

    Raises:
        ConfigurationError: its file cannot be read or made, or holds no key that can be used.
    """
    if section.jwt_public_key_file:
        setting = "users.jwt_public_key_file"
        public = read_key(section.jwt_public_key_file, setting=setting, check=_check_public_key)
        return TokenKey("RS256", public)
    if section.jwt_secret_file:
        setting = "users.jwt_secret_file"
        return TokenKey("HS256", read_key(section.jwt_secret_file, setting=setting, check=_long))
    return TokenKey("HS256", section.jwt_secret or kept_key(key_directory, "jwt_secret"))


def _long(secret: str) -> None:
    """Raise ValueError for a secret that is shorter than the hash (RFC 7518, 3.2)."""
    if len(secret.encode()) < _MIN_SECRET_BYTES:
        raise ValueError(f"must have {_MIN_SECRET_BYTES} bytes or more; {MAKE_KEY}")


def _check_public_key(text: str) -> None:
    """Raise ValueError for what is no public key of RSA in PEM."""
    if "PRIVATE KEY" in text or "PUBLIC KEY" not in text:
        raise ValueError("must be a public key of RSA in PEM: -----BEGIN PUBLIC KEY-----")
    try:
        RSAAlgorithm(RSAAlgorithm.SHA256).prepare_key(text)
    except InvalidKeyError as error:
        raise ValueError("must be a public key of RSA in PEM") from error


def main_api_key(section: IngestSettings, main: MainSettings, key_directory: Path) -> str:
    """What the worker shows to the main API; that of the media API here where none is set.

    Raises as `media_api_key` does.
    """
    if section.main_api_key_file:
        setting = "ingest.main_api_key_file"
        return read_key(section.main_api_key_file, setting=setting, check=check_key)
    return section.main_api_key or media_api_key(main, key_directory)
