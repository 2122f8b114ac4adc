"""Settings of private media and signed URLs."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from proxy.domain.errors import ConfigurationError
from proxy.domain.media import Visibility
from proxy.domain.signature import KEY_ID_PATTERN, MIN_KEY_BYTES, UrlKeys
from proxy.settings.secrets import MAKE_KEY, stored_key
from proxy.settings.sections import Section

_DAY_S = 86400
_KEY_ID = re.compile(KEY_ID_PATTERN, re.ASCII)
_SECRET = re.compile(r"[!-~]+")


def check_url_key(key: str) -> None:
    """Return if a key can sign URLs.

    Raises:
        ValueError: it cannot; the text does not repeat it.
    """
    if not _SECRET.fullmatch(key):
        raise ValueError(f"must be printable ASCII without spaces; {MAKE_KEY}")
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"must have at least {MIN_KEY_BYTES} characters; {MAKE_KEY}")


def _check_ids(keys: dict[str, str]) -> dict[str, str]:
    # Without the id: it may be a key in the wrong place.
    if not all(map(_KEY_ID.fullmatch, keys)):
        raise ValueError("an id must have 1 to 32 of the characters A-Z a-z 0-9 - _")
    return keys


def _check_files(files: dict[str, str]) -> dict[str, str]:
    if not all(_check_ids(files).values()):
        raise ValueError("each id needs the path of a file")
    return files


def _check_keys(keys: dict[str, str]) -> dict[str, str]:
    for key_id, key in _check_ids(keys).items():
        try:
            check_url_key(key)
        except ValueError as error:
            raise ValueError(f"the key {key_id} {error}") from None
    return keys


class VisibilitySettings(Section):
    """Visibility of media for which nobody has decided it, by data type."""

    product: Visibility = Visibility.PUBLIC
    """Images of products."""
    profile: Visibility = Visibility.PUBLIC
    """Images of users' profiles. The addresses in profiles are not signed."""
    event: Visibility = Visibility.PUBLIC
    """Images of events."""
    logo: Visibility = Visibility.PUBLIC
    """Logos."""
    sites: Visibility = Visibility.PUBLIC
    """Images of sites."""


class AccessSettings(Section):
    """Private media and signed URLs. A private medium is a 404 unless its URL is signed."""

    default_visibility: VisibilitySettings = VisibilitySettings()
    keys: Annotated[dict[str, str], AfterValidator(_check_keys)] = Field(
        default_factory=dict, repr=False, max_length=16
    )
    """Keys of signed URLs by id, for example { 2026 = "..." }. An id has 1 to 32 of the characters
    A-Z a-z 0-9 - _, a key at least 32 printable ASCII characters: run `openssl rand -hex 32`. Every
    key is valid. To replace one, add the new key on all servers and signers, sign with it, and
    remove the old one when the last URL that it signed has expired. Read at start. Set them in the
    environment (SMARTSERVE_ACCESS__KEYS, as JSON); they are never printed."""
    key_files: Annotated[dict[str, str], AfterValidator(_check_files)] = Field(
        default_factory=dict, repr=False, max_length=16
    )
    """Files that contain one key each, by id, for example Docker or Kubernetes secrets."""
    signing_key: str = Field("", pattern=f"^({KEY_ID_PATTERN})?$")
    """Id of the key that signs new URLs. If it is empty, the first one in keys signs them; if there
    is none, the first one in key_files."""
    max_ttl_s: int = Field(7 * _DAY_S, ge=60, le=366 * _DAY_S)
    """Longest validity of a signed URL. URLs that expire later are refused. A minute more is
    allowed, because the clock of the signer may be ahead; an expired URL is refused at once, so
    clocks must not be further apart than the validity of short-lived URLs allows."""
    ttl_s: int = Field(3600, ge=60, le=366 * _DAY_S)
    """Validity of the addresses in /info, and of `smartserve sign` unless --expires is given.
    Addresses in /info expire after half of it to all of it, so that equal requests get equal
    addresses, which browsers and CDNs can cache."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if both := self.keys.keys() & self.key_files.keys():
            raise ValueError(f"keys and key_files both define {', '.join(sorted(both))}")
        if self.signing_key and self.signing_key not in {*self.keys, *self.key_files}:
            raise ValueError("signing_key must be an id in keys or key_files")
        if self.ttl_s > self.max_ttl_s:
            raise ValueError("ttl_s must not exceed max_ttl_s")
        return self

    def visibility_by_type(self) -> dict[str, Visibility]:
        """Return the default by data type."""
        return dict(self.default_visibility)


def url_keys(section: AccessSettings) -> UrlKeys:
    """Return the keys of signed URLs, also those in files. Blocking: call it at start.

    Raises:
        ConfigurationError: a file cannot be read, or contains no valid key.
    """
    keys = dict(section.keys)
    faults: list[str] = []
    for key_id, file in section.key_files.items():
        setting = f"access.key_files.{key_id}"
        try:
            keys[key_id] = stored_key("", file, setting=setting, check=check_url_key)
        except ConfigurationError as error:
            faults += error.faults
    if faults:
        raise ConfigurationError(faults)
    return UrlKeys(keys, signing_key=section.signing_key, max_ttl_s=section.max_ttl_s)
