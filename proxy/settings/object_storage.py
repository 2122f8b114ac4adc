"""Settings of object storage: originals in buckets, and the third tier of renditions."""

from __future__ import annotations

import re
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from proxy.settings.secrets import check_header_key, checked, stored_key
from proxy.settings.sections import MAX_BYTES, MIB, PositiveSeconds, Section

_BUCKET = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]{1,62}", re.ASCII)
_PREFIX = re.compile(r"(/[A-Za-z0-9!_.*'()-]+)*", re.ASCII)


def _check_bucket(address: str) -> str:
    if not _BUCKET.fullmatch(address):
        raise ValueError('must be the address of a bucket, such as "s3://photos"')
    return address


def _check_place(address: str) -> str:
    bucket = _BUCKET.match(address)
    if address and (not bucket or not _PREFIX.fullmatch(address[bucket.end() :])):
        raise ValueError('must be a bucket and an optional prefix, such as "s3://renditions/site"')
    return address


def _check_endpoint(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError('must be the address of a server, such as "https://s3.example.org:9000"')


_BucketAddress = Annotated[str, AfterValidator(_check_bucket)]


class S3Settings(Section):
    """Object storage with the API of S3, for originals and as a third tier of renditions.

    It needs the extra `s3`. Addresses with gs:// and az:// use the same library and are not tested;
    their credentials are in its environment variables. See deploy/OBJECT_STORAGE.md.
    """

    exclusive = ("secret_access_key", "secret_access_key_file")

    buckets: Annotated[tuple[_BucketAddress, ...], Field(max_length=1000)] = ()
    """Buckets with originals, for example ["s3://photos"]. A row names an object by its address, as
    in "s3://photos/2025/a.jpg". Objects of other buckets are not read."""
    renditions: Annotated[str, AfterValidator(_check_place)] = ""
    """Bucket and optional prefix of the third tier of renditions, for example
    "s3://renditions/site". Several servers share it. If empty, there is none."""
    endpoint: Annotated[str, checked(_check_endpoint)] = ""
    """Address of the S3 server, for example "https://s3.example.org:9000". If empty, that of AWS in
    the region."""
    region: str = Field("us-east-1", pattern=r"^[a-z0-9-]{1,64}$")
    """Region of the buckets."""
    access_key_id: Annotated[str, checked(check_header_key)] = Field("", repr=False)
    """Access key. If empty, the credentials are those of AWS_ACCESS_KEY_ID, of a Kubernetes service
    account, or of the machine's role."""
    secret_access_key: Annotated[str, checked(check_header_key)] = Field("", repr=False)
    """Secret of the access key. Set it in the environment (SMARTSERVE_S3__SECRET_ACCESS_KEY) or in
    a file; it is never printed."""
    secret_access_key_file: str = Field("", repr=False)
    """File that contains the secret. Read at start."""
    virtual_hosted: bool = False
    """Sends requests to BUCKET.HOST instead of HOST/BUCKET."""
    timeout_s: PositiveSeconds = 5
    """Time limit for the answer to a request. The transfer of an original may take a second more
    for each 4 MiB."""
    tier_timeout_s: PositiveSeconds = 1
    """Time limit for reading a rendition from the third tier. After that it is rendered."""
    breaker_s: PositiveSeconds = 5
    """Time for which no request is sent after the storage failed (circuit breaker). Originals,
    reads and writes of renditions each have their own."""
    max_queued_bytes: int = Field(64 * MIB, ge=MIB, le=MAX_BYTES)
    """Maximum size of the renditions that wait to be written to the third tier. Further ones are
    dropped and counted."""

    @property
    def enabled(self) -> bool:
        """Whether any bucket is used."""
        return bool(self.buckets or self.renditions)

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        if bool(self.access_key_id) != bool(self.secret_access_key or self.secret_access_key_file):
            raise ValueError("set both access_key_id and secret_access_key, or neither")
        return self


def s3_secret(section: S3Settings) -> str:
    """Return the secret of the access key; empty if none is set. Blocking.

    Raises:
        ConfigurationError: its file cannot be read.
    """
    return stored_key(
        section.secret_access_key,
        section.secret_access_key_file,
        setting="s3.secret_access_key_file",
        check=check_header_key,
    )
