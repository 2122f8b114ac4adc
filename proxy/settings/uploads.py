"""Settings of uploads: the main API and its queue, the users' tokens, and the ingest worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from proxy.settings.secrets import MAKE_KEY, Key, checked, generated_key, stored_key
from proxy.settings.sections import MIB, BaseUrl, PositiveSeconds, Seconds, Section

_MIN_SECRET_BYTES = 32


def _check_secret_length(secret: str) -> None:
    # A shorter secret than the hash weakens HS256 (RFC 7518, 3.2).
    if len(secret.encode()) < _MIN_SECRET_BYTES:
        raise ValueError(f"must have at least {_MIN_SECRET_BYTES} bytes; {MAKE_KEY}")


class MainSettings(Section):
    """Main API: receives uploads at `PATCH /users/me` and lists them for the ingest worker.

    Names in capitals are variables that the platform's other programs use too. SMARTSERVE_*
    variables take precedence over them.
    """

    exclusive = ("key", "key_file")

    enabled: bool = True
    """Accepts uploads and serves /api/media."""
    url: str = Field("", repr=False)
    """SQLAlchemy URL of the database with pending_images and the profiles. If empty, database.url.
    Set it in the environment (SMARTSERVE_MAIN__URL); it is never printed."""
    temp_root: str = ""
    """Directory of uploads that are not processed yet. Servers that share a queue must share it. If
    empty, `temp_images` in data_dir."""
    key: Key = ""
    """Key of /api/media (MEDIA_API_KEY), at least 16 characters; to create one, run `openssl rand
    -hex 32`. If empty, one is generated and stored in `keys` in data_dir."""
    key_file: str = Field("", repr=False)
    """File that contains the key. Read at start."""
    smart_media_base_url: BaseUrl = ""
    """Base of the addresses that replace uploads in the profiles (SMART_MEDIA_BASE_URL), for
    example "https://api.example.org/api/images". If empty, /api/images below server.public_url.
    Without either, profiles keep the paths of the uploads. After a change, `smartserve replace-urls
    --again` rewrites the addresses in the profiles."""
    allow_loopback_url: bool = False
    """Also writes addresses that only this machine can reach (127.0.0.1, localhost) into profiles
    and callbacks. For tests on one machine."""
    max_file_bytes: int = Field(5 * MIB, ge=1024, le=1024 * MIB)
    """Maximum size of an uploaded file."""
    max_uploads_per_day: int = Field(500, ge=0, le=10_000_000)
    """Maximum number of files that a user may upload on one day (UTC). Above it the server answers
    429 with Retry-After. 0: no limit."""
    max_bytes_per_day: int = Field(1024 * MIB, ge=0, le=1024**5)
    """Maximum size of all files that a user uploads on one day (UTC). 0: no limit."""
    upload_timeout_s: PositiveSeconds = 120
    """Time limit of one upload request with all its files."""
    upload_stall_s: PositiveSeconds = 30
    """Maximum time without new bytes of an upload, or without progress of a disk write."""
    replace_interval_s: PositiveSeconds = 60
    """Interval at which the addresses of processed uploads are written into the profiles."""
    forward_to: BaseUrl = ""
    """Address of the server that processes the uploads and has their images, for example
    "http://10.0.0.2:3001"; it may be private. `/api/images` and `/api/media/analysis` are forwarded
    to it, and no worker is embedded here. If empty, MEDIA_BACKEND_URL if that names another server
    and MAIN_API_URL does not."""
    forward_timeout_s: PositiveSeconds = 30
    """Time limit of a connection to that server, and of each pause of its response."""


class UserSettings(Section):
    """Users' tokens: JSON web tokens in `Authorization: Bearer TOKEN`, with the user id as `sub`.

    Set at most one of jwt_secret, jwt_secret_file and jwt_public_key_file. If none is set, a secret
    is generated and stored in `keys` in data_dir; `smartserve token` signs with it.
    """

    exclusive = ("jwt_secret", "jwt_secret_file", "jwt_public_key_file")

    jwt_secret: Annotated[str, checked(_check_secret_length), Field(repr=False)] = ""
    """HS256 secret, at least 32 bytes. Set it in the environment (SMARTSERVE_USERS__JWT_SECRET) or
    in a file."""
    jwt_secret_file: str = Field("", repr=False)
    """File that contains the secret. Read at start."""
    jwt_public_key_file: str = Field("", repr=False)
    """File that contains the RS256 public key in PEM. Read at start."""
    jwt_issuer: str = ""
    """Required `iss` of a token. If empty, any."""
    jwt_audience: str = ""
    """Required `aud` of a token. If empty, none is required."""
    jwt_require_exp: bool = True
    """Rejects tokens without `exp`: they never expire."""
    jwt_leeway_s: Seconds = 30
    """Tolerated clock difference between the issuer of tokens and this machine."""


class IngestSettings(Section):
    """Ingest worker: turns uploads into media, in `smartserve ingest` or as a part of `serve`.

    Several workers on several machines can share the queue in the media database (MariaDB 10.6 or
    MySQL 8 and later; SQLite on one machine) and the storage.
    """

    exclusive = ("main_api_key", "main_api_key_file")

    embedded: bool = True
    """Runs a worker in `serve`."""
    main_api_url: BaseUrl = ""
    """Address of the main API (MAIN_API_URL), for example "https://api.example.org". If empty, this
    server."""
    main_api_key: Key = ""
    """Key of its /api/media (MAIN_API_KEY). If empty, main.key."""
    main_api_key_file: str = Field("", repr=False)
    """File that contains the key. Read at start."""
    media_backend_url: BaseUrl = ""
    """Base of `permanent_url` in the completion callback (MEDIA_BACKEND_URL). If empty,
    server.public_url. Without either, `permanent_url` is null."""
    concurrency: int = Field(1, ge=1, le=64)
    """Maximum number of uploads that are processed at the same time."""
    poll_interval_s: PositiveSeconds = 600
    """Interval at which the queue is read if nothing is due. An upload to this server ends the wait
    at once."""
    lease_s: float = Field(60, ge=1, le=86400)
    """Time without a heartbeat after which another worker takes over an upload."""
    max_attempts: int = Field(3, ge=1, le=10)
    """Maximum number of attempts at each step of an upload."""
    step_backoff_s: PositiveSeconds = 1
    """Maximum of the random delay before the second attempt at a step. It doubles with each
    attempt."""
    max_step_backoff_s: PositiveSeconds = 30
    """Upper limit of that delay."""
    retry_backoff_s: PositiveSeconds = 60
    """Delay before an upload that failed temporarily is processed again. It doubles with each
    retry, and is at least workers.quarantine_s if the upload crashed its worker."""
    max_retry_backoff_s: PositiveSeconds = 3600
    """Upper limit of that delay."""
    max_retries: int = Field(168, ge=0, le=10_000)
    """Number of retries after which an upload has failed permanently; by default after a week. Its
    file is kept: `smartserve retry-uploads` processes it again. Only a file that several downloads
    prove bad is deleted."""
    retention_days: int = Field(30, ge=1, le=3650)
    """Days after which finished uploads are deleted from the queue of the workers. Their images,
    and the rows of pending_images, stay."""
    retries_per_cycle: int = Field(10, ge=0, le=1000)
    """Maximum number of failed uploads that are retried in one cycle of the queue."""
    analysis_retry_s: tuple[PositiveSeconds, ...] = Field(
        (900, 3600, 14_400, 57_600, 86_400), max_length=20
    )
    """Delays, one after the other, before a [vision] provider that was down or out of budget is
    used again for an image, and before metadata that could not be extracted is tried again. The
    default is five retries in two days. An empty list disables them."""
    request_timeout_s: PositiveSeconds = 30
    """Time limit of an answer of the main API, and of a pause within a download."""
    step_timeout_s: PositiveSeconds = 900
    """Time limit of one attempt at a step: download, analysis, callback. A step that exceeds it,
    for example because the storage hangs, has failed; the upload is released and retried later.
    Must be at least 20 times request_timeout_s, the limit of a download."""
    render_timeout_s: PositiveSeconds = 3600
    """Time limit of the step that renders all sizes. In addition each rendition has the limit
    workers.deadline_s or upgrades.deadline_s."""
    analyse: bool = True
    """Analyses images. If false, the step ai_visual_analysis stays pending."""
    extract_metadata: bool = True
    """Extracts and stores the metadata of each upload after its other steps, if metadata.enabled is
    true. A failure does not fail the upload."""
    renditions: Literal["draft", "final", "none"] = "draft"
    """Renditions of all named sizes and formats that are made during ingest. "draft" renders drafts
    and leaves the finals to the background, "final" renders finals, "none" renders an image at its
    first request."""


def media_api_key(section: MainSettings, key_directory: Path) -> str:
    """Return the key of the media API from the settings, its file, or the generated one.

    Blocking: call it at start.

    Raises:
        ConfigurationError: a file cannot be read or created, or contains no valid key.
    """
    key = stored_key(section.key, section.key_file, setting="main.key_file")
    return key or generated_key(key_directory, "media_api")


def main_api_key(section: IngestSettings, main: MainSettings, key_directory: Path) -> str:
    """Return the worker's key for the main API; by default the key of the media API here.

    Blocks and raises like `media_api_key`.
    """
    setting = "ingest.main_api_key_file"
    key = stored_key(section.main_api_key, section.main_api_key_file, setting=setting)
    return key or media_api_key(main, key_directory)


@dataclass(frozen=True, slots=True)
class TokenKey:
    """The key that verifies users' tokens, and signs them if it is a secret."""

    algorithm: Literal["HS256", "RS256"]
    key: str = field(repr=False)


def token_key(section: UserSettings, key_directory: Path) -> TokenKey:
    """Return the key of the users' tokens from the settings, a file, or the generated one.

    Blocks and raises like `media_api_key`.
    """
    # The section allows one of the three only, so the order of these checks does not matter.
    setting = "users.jwt_public_key_file"
    if key := stored_key("", section.jwt_public_key_file, setting=setting, check=_check_public_key):
        return TokenKey("RS256", key)
    setting, check = "users.jwt_secret_file", _check_secret_length
    key = stored_key(section.jwt_secret, section.jwt_secret_file, setting=setting, check=check)
    return TokenKey("HS256", key or generated_key(key_directory, "jwt_secret"))


def _check_public_key(text: str) -> None:
    fault = "must be an RSA public key in PEM: -----BEGIN PUBLIC KEY-----"
    # PyJWT would also accept a private key, which does not belong on this machine.
    if "PRIVATE KEY" in text or "PUBLIC KEY" not in text:
        raise ValueError(fault)
    # Imported here: cryptography takes 40 ms and 8 MB, and most servers have no such key.
    from jwt.algorithms import RSAAlgorithm  # noqa: PLC0415
    from jwt.exceptions import InvalidKeyError  # noqa: PLC0415

    try:
        RSAAlgorithm(RSAAlgorithm.SHA256).prepare_key(text)
    except InvalidKeyError as error:
        raise ValueError(fault) from error
