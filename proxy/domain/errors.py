"""Every named failure of the proxy, in one tree that shows whose fault it is.

::

    SmartserveError
    +-- RequestError                the request is wrong
    |   +-- BadParameter            400  names the parameter and the allowed values
    |   +-- PreconditionFailed      412  If-Match or If-Unmodified-Since excludes what is there
    |   +-- RangeNotSatisfiable     416
    |   +-- BodyTooSlow             408  the body stalled or exceeded its time limit
    |   +-- PendingNotFound         404  no such upload, or no such temporary file
    |   +-- PendingConflict         409  the upload already ended differently
    |   +-- BodyTooLarge            413
    |   |   +-- FileTooLarge        above the limit of all tiers of metadata
    |   +-- UnsupportedBody         415  not a form, compressed, or not an accepted image type
    |   +-- QuotaExceeded           429  the user has uploaded enough today; carries Retry-After
    |   +-- TooManyRequests         429  the address has sent enough for now; carries Retry-After
    |   +-- TooManySockets          429  the user has as many WebSockets open as allowed
    |   +-- UpgradeRequired         426  the address is for WebSockets only
    |   +-- NoFile                  400  the form has no file
    |   +-- EmptyFile               400
    |   +-- JobQueueFull            429  too many metadata jobs are unfinished; carries Retry-After
    +-- AccessError                 the caller lacks permission
    |   +-- Unauthorized            401  key missing or wrong; carries WWW-Authenticate
    |   +-- AccessDisabled          403  the server has no key to compare with
    |   +-- TooManyFailures         429  too many wrong keys; carries Retry-After
    |   +-- TierInsufficient        403  names the tier of metadata that is sufficient
    |   |   +-- FileTooLargeForTier
    |   +-- CreditsInsufficient     402
    +-- SourceError                 the image is not available
    |   +-- MediaRowInvalid         500  its database row has a value that is not valid
    |   +-- MediaNotFound           404  no row, or a row that is not served
    |   +-- MediaNotReady           404  still being processed; carries Retry-After
    |   +-- SourceMissing           404  the row exists, its file does not
    |   +-- SourceUnavailable       503  the storage cannot be read
    |   +-- SourceTimeout           504
    |   +-- SourceChanged           503  the file does not match its facts; they are read again
    |   +-- MediaServerUnavailable  502  the server to which requests are forwarded failed
    |   +-- ForwardLoop             508  forwarding leads back to a server that forwards
    +-- CapacityError               503  temporary; carries Retry-After
    |   +-- QueueFull
    |   |   +-- Overloaded          too little room or time left to spend work on it
    |   |   +-- ExtractionQueueFull 429  too many files wait for the extraction of their metadata
    |   +-- DatabaseUnavailable     carries the cause and the advice for operators
    |   |   +-- CommitUncertain     connection lost during COMMIT, which may have succeeded
    |   |   +-- RowRejected         500  the database rejected a value; a retry does not help
    |   +-- ShuttingDown
    +-- RenderError                 a worker could not render the image
    |   +-- UnsupportedSource       415  not an accepted file type
    |   +-- DecoderMissing          415  not decoded on this machine, but maybe on another
    |   +-- UndecodableSource       422  corrupt
    |   +-- SourceTooLarge          422  exceeds a limit of width, height, pages or bytes
    |   +-- SourceQuarantined       422  crashed workers; rejected for a while
    |   +-- RenderTimeout           504
    |   +-- RenderFault             500  a fault of this server
    +-- MetadataError               the metadata of a file cannot be extracted
    |   +-- UnknownImageFormat      400  not a format of the metadata table
    |   +-- MetadataTooLarge        422  more chunks or bytes of metadata than the limits allow
    |   +-- ExtractionFailed        500  neither engine could read the file
    |   |   +-- BadEngineOutput     the engines' output is not valid
    |   |   +-- EngineStartFailed   the confined processes cannot be started
    |   +-- ExtractionTimeout       504  the time limit of an extraction is exceeded
    +-- AnalysisError               a provider gave no analysis; the image is stored without it
    |   +-- ProviderRefused         permanent: a retry does not help
    |   +-- ProviderUnavailable     busy, unreachable or broken; retried
    |   +-- BudgetSpent             a daily limit is reached
    +-- IngestError                 an upload cannot be ingested; never sent to a client
    |   +-- MainApiUnavailable      down, slow or busy; retried
    |   +-- MainApiRefused          rejected the request, or its answer breaks the contract
    |   |   +-- MainApiForbidden    rejected our key
    |   |   +-- UploadGone          no longer has the upload
    |   +-- LeaseLost               another worker owns the upload now
    |   |   +-- UploadMerged        the upload is a copy, and continues with an earlier medium
    |   +-- WorkerEnded             every attempt ended with the death of its worker
    |   +-- StepOverdue             a step exceeded its time limit
    +-- NoAnswer                    `smartserve doctor` got no usable answer from a server
    +-- StorageError                503  a rendition store failed; delivery continues
    |   +-- BucketPurgePending      memory and disk are purged; the bucket is as soon as it answers
    +-- UploadStorageError          503  temporary upload files cannot be read or written
    |   +-- UploadStorageFull       507
    +-- ConfigurationError          the server must not start; carries every fault

The class defines HTTP status, title and ``code``, a name for programs. The instance carries the
public sentence and, if a retry makes sense, the seconds to wait. ``reported`` marks faults that an
operator must see in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class SmartserveError(Exception):
    """Root of all named failures.

    A subclass sets its own status, title, code and ``reported`` as class keywords and inherits what
    it leaves out. ``detail`` is sent to clients, so it must not contain secrets or paths.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    code: ClassVar[str] = "INTERNAL_ERROR"
    """Only responses of the metadata routes have it."""
    reported: ClassVar[bool] = False

    def __init_subclass__(
        cls,
        status: int | None = None,
        title: str | None = None,
        *,
        code: str | None = None,
        reported: bool | None = None,
    ) -> None:
        """Override the class attributes that are given."""
        super().__init_subclass__()
        # Reading cls.status returns the value of the parent class.
        cls.status = cls.status if status is None else status
        cls.title = cls.title if title is None else title
        cls.code = cls.code if code is None else code
        cls.reported = cls.reported if reported is None else reported

    def __init__(self, detail: str, *, retry_after_s: int | None = None) -> None:
        """Store the public sentence and the seconds to wait before a retry, if one makes sense."""
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def reason(self) -> str:
        """The cause for logs and operators, never for clients; empty if there is none."""
        return "" if self.__cause__ is None else repr(self.__cause__)

    def retry_wait(self, max_s: float) -> bool | float:
        """Return the seconds to wait before a retry, or True if the error does not define them.

        False means that they exceed ``max_s``, so that a retry now is useless.
        """
        if self.retry_after_s is None:
            return True
        return self.retry_after_s <= max_s and float(self.retry_after_s)


class RequestError(SmartserveError, status=400, title="Bad request", code="INVALID_REQUEST"):
    """The request itself is wrong."""


class BadParameter(RequestError, title="Bad parameter"):
    """A parameter has a value that is not allowed."""

    def __init__(self, parameter: str, allowed: str) -> None:
        """Name the parameter and the allowed values."""
        # Never the client's own text: error pages must not reflect it.
        super().__init__(f"{parameter} must be {allowed}")
        self.parameter = parameter
        self.allowed = allowed


class PreconditionFailed(RequestError, status=412, title="Precondition failed"):
    """A condition of the request excludes the current representation."""


class RangeNotSatisfiable(RequestError, status=416, title="Range not satisfiable"):
    """The requested range lies outside the rendition."""

    def __init__(self, length: int) -> None:
        """Store the full length in bytes, for ``Content-Range: bytes */length``."""
        super().__init__(f"the image has {length} bytes")
        self.length = length


class BodyTooSlow(RequestError, status=408, title="Request timeout"):
    """The request body stalled or exceeded its time limit."""


class PendingNotFound(RequestError, status=404, title="Not found", code="NOT_FOUND"):
    """The upload or its temporary file does not exist."""


class PendingConflict(RequestError, status=409, title="Conflict"):
    """The upload already ended in another way than the one reported."""


class BodyTooLarge(RequestError, status=413, title="Content too large", code="FILE_TOO_LARGE"):
    """The request body, or a file in it, exceeds its size limit."""


class FileTooLarge(BodyTooLarge, title="File too large"):
    """The file exceeds the limits of all tiers of metadata."""


class UnsupportedBody(RequestError, status=415, title="Unsupported media type"):
    """The request body has a type or an encoding that is not accepted."""


class QuotaExceeded(RequestError, status=429, title="Quota exceeded", code="RATE_LIMITED"):
    """The user has uploaded as many files or bytes today as `main` allows."""


class TooManyRequests(RequestError, status=429, title="Too many requests", code="RATE_LIMITED"):
    """The client's address has sent as many requests without a token as are allowed for now."""


class TooManySockets(RequestError, status=429, title="Too many WebSockets", code="RATE_LIMITED"):
    """The user has as many WebSockets open as allowed."""


class UpgradeRequired(RequestError, status=426, title="Upgrade required"):
    """The address is for WebSockets, but the request is not a WebSocket handshake."""


class NoFile(RequestError, title="No file uploaded", code="NO_FILE"):
    """The form has no file in the field that the route reads."""


class EmptyFile(RequestError, title="Empty file", code="EMPTY_FILE"):
    """The file has no bytes."""


class JobQueueFull(RequestError, status=429, title="Too many jobs", code="QUEUE_FULL"):
    """The user, or all users together, have as many unfinished metadata jobs as are allowed."""


class AccessError(SmartserveError, status=403, title="Forbidden", code="FORBIDDEN"):
    """The caller lacks permission."""


class Unauthorized(AccessError, status=401, title="Unauthorized", code="UNAUTHORIZED"):
    """The request carries no key, or a wrong one."""

    def __init__(self, detail: str, *, challenge: str) -> None:
        """Store the value of WWW-Authenticate (RFC 9110, 11.6.1)."""
        super().__init__(detail)
        self.challenge = challenge
        self.forwarded: str | None = None
        """Whether a proxy forwarded the request; set only if it carried no key at all."""


class AccessDisabled(AccessError):
    """No key is configured, so every request is rejected."""


class TooManyFailures(AccessError, status=429, title="Too many wrong keys", code="RATE_LIMITED"):
    """The client sent too many wrong keys; further wrong ones are rejected for a while."""


class TierInsufficient(AccessError, title="Tier insufficient", code="TIER_INSUFFICIENT"):
    """The caller's tier of metadata does not include what is requested."""

    def __init__(self, detail: str, *, needs: str) -> None:
        """Store also the name of the lowest tier that is sufficient."""
        super().__init__(detail)
        self.needs = needs


class FileTooLargeForTier(TierInsufficient, code="FILE_TOO_LARGE_FOR_TIER"):
    """The file exceeds the limit of the caller's tier, but not that of a higher one."""


class CreditsInsufficient(
    AccessError, status=402, title="Payment required", code="CREDITS_INSUFFICIENT"
):
    """The user cannot pay for the operation."""


class SourceError(SmartserveError, status=404, title="Not found", code="NOT_FOUND"):
    """The requested image is not available."""


class MediaRowInvalid(SourceError, status=500, title="Invalid database row"):
    """The row of an image has a value that is not valid; no other row is affected."""


class MediaNotFound(SourceError):
    """The media row does not exist, or is not served."""


class MediaNotReady(SourceError, title="Not ready yet"):
    """The media row exists and its image is still being processed."""


class SourceMissing(SourceError, reported=True):
    """The database has the media row, the storage does not have its file."""


class SourceUnavailable(SourceError, status=503, title="Storage unavailable", reported=True):
    """The storage cannot be read."""


class SourceTimeout(SourceError, status=504, title="Storage timed out", reported=True):
    """The storage did not answer within its time limit."""


class SourceChanged(SourceError, status=503, title="Image has changed"):
    """The file differs from the one its facts were read from; the facts have been read again."""


class MediaServerUnavailable(
    SourceError, status=502, title="Media server unavailable", reported=True
):
    """The media server, to which requests are forwarded, cannot be reached or sent no image."""


class ForwardLoop(SourceError, status=508, title="Loop detected", reported=True):
    """A request was forwarded to a server that forwards it itself."""


class CapacityError(
    SmartserveError, status=503, title="Temporarily unavailable", code="UNAVAILABLE"
):
    """The server cannot answer now; the client should retry."""


class QueueFull(CapacityError, code="QUEUE_FULL"):
    """The render queue is full, or the job waited too long in it."""


class Overloaded(QueueFull):
    """The queue has hardly any room left, or the event loop lags: no work may be spent on it."""


class ExtractionQueueFull(QueueFull, status=429, title="Too many files"):
    """The queue of metadata extractions is full (`metadata.queue`)."""


class DatabaseUnavailable(CapacityError, reported=True):
    """A database does not answer, or rejects a statement; a row is not cached."""

    def __init__(
        self, detail: str, *, retry_after_s: int | None = None, reason: str = "", advice: str = ""
    ) -> None:
        """Store also the cause with the database's address, and what to do, for operators."""
        super().__init__(detail, retry_after_s=retry_after_s)
        self.explanation = reason
        self.advice = advice

    @property
    def reason(self) -> str:
        """The cause with the address of the database, and what to do; see `SmartserveError`."""
        return f"{self.explanation} {self.advice}".strip() or super().reason


class CommitUncertain(DatabaseUnavailable):
    """The connection was lost during COMMIT: the transaction may or may not be stored."""


class RowRejected(DatabaseUnavailable, status=500, title="Row rejected", code="INTERNAL_ERROR"):
    """The database rejected a value of a row. A retry does not help, and other rows are accepted.

    It is a `DatabaseUnavailable` because nothing was stored.
    """


class ShuttingDown(CapacityError, code="SHUTTING_DOWN"):
    """The server is stopping and accepts no new work."""


class RenderError(SmartserveError, status=422, title="Image cannot be rendered"):
    """A worker could not render the image."""


class UnsupportedSource(RenderError, status=415, title="Unsupported image type"):
    """The source has a file type that is not accepted."""


class DecoderMissing(RenderError, status=415, title="Unsupported image type"):
    """This machine lacks the decoder or the fonts of the source, which may be sound."""


class UndecodableSource(RenderError):
    """The source is corrupt."""


class SourceTooLarge(RenderError):
    """The source exceeds a limit of width, height, pages or bytes."""


class SourceQuarantined(RenderError, reported=True):
    """The source crashed its workers and is rejected for a while."""


class RenderTimeout(RenderError, status=504, title="Rendering timed out", reported=True):
    """Rendering exceeded its deadline."""


class RenderFault(RenderError, status=500, title="Rendering failed", reported=True):
    """Rendering failed through a fault of this server."""


FILE_FAULTS = (UnsupportedSource, UndecodableSource, SourceTooLarge)
"""Errors that prove a file bad, if they are raised for its own bytes."""


class MetadataError(SmartserveError, status=422, title="Metadata cannot be extracted"):
    """The metadata of a file cannot be extracted."""


class UnknownImageFormat(
    MetadataError, status=400, title="Unsupported image type", code="INVALID_FILE_TYPE"
):
    """The file is of no format whose metadata is extracted."""


class MetadataTooLarge(MetadataError, title="Metadata too large", code="METADATA_TOO_LARGE"):
    """The file has more chunks or bytes of metadata than the limits allow; also inflated ones."""


class ExtractionFailed(MetadataError, status=500, code="ENGINE_FAILED", reported=True):
    """Neither exiftool nor the fallback could read the file."""


class BadEngineOutput(ExtractionFailed, code="BAD_ENGINE_OUTPUT"):
    """The output of the engines cannot be read."""


class EngineStartFailed(ExtractionFailed, code="SPAWN_FAILED"):
    """The confined processes that extract metadata cannot be started."""


class ExtractionTimeout(
    MetadataError, status=504, title="Extraction timed out", code="TIMEOUT", reported=True
):
    """An extraction exceeded its time limit, the time in the queue included."""


class AnalysisError(SmartserveError, title="Image cannot be analysed"):
    """A provider gave no analysis; never sent to a client."""


class ProviderRefused(AnalysisError, reported=True):
    """The provider rejected the request permanently."""


class ProviderUnavailable(AnalysisError, reported=True):
    """The provider cannot answer now; ``retry_after_s`` is the delay it requested."""


class BudgetSpent(AnalysisError):
    """A daily limit of requests, tokens or money is reached."""


class IngestError(SmartserveError, title="Upload cannot be ingested"):
    """An upload cannot be ingested; never sent to a client."""


class MainApiUnavailable(IngestError):
    """The main API cannot answer now; ``retry_after_s`` is the delay it requested."""


class MainApiRefused(IngestError, reported=True):
    """The main API rejected the request, or its answer breaks the contract."""


class MainApiForbidden(MainApiRefused):
    """The main API rejected our key."""


class UploadGone(MainApiRefused, reported=False):
    """The main API no longer has the upload."""


class LeaseLost(IngestError):
    """Another worker owns the upload now: this one must not write about it any more."""


class UploadMerged(LeaseLost):
    """The upload is a copy of an earlier one, and will continue with the medium of that one."""


class WorkerEnded(IngestError, reported=True):
    """Every attempt at a step was started, and each ended with the death of its worker."""


class StepOverdue(IngestError, reported=True):
    """A step exceeded its time limit because a resource it uses hangs."""


class NoAnswer(SmartserveError):
    """`smartserve doctor` got no usable answer from a server; ``detail`` gives the reason."""


class StorageError(SmartserveError, status=503, title="Rendition store unavailable", reported=True):
    """A rendition store failed; the image is delivered nevertheless."""


class BucketPurgePending(StorageError):
    """Memory and disk are purged, the bucket is not; nothing of the image is read from it.

    The deletion in the bucket is repeated in the background.
    """


class UploadStorageError(
    SmartserveError,
    status=503,
    title="Upload storage unavailable",
    code="UNAVAILABLE",
    reported=True,
):
    """Temporary upload files cannot be read or written."""


class UploadStorageFull(UploadStorageError, status=507, title="Insufficient storage"):
    """The storage has no space for another upload."""


class ConfigurationError(SmartserveError, reported=True):
    """The settings or the installation do not allow the server to start."""

    def __init__(self, faults: Sequence[str]) -> None:
        """Store all faults, each a sentence that names the key, its value and what is allowed."""
        # All at once, so that an operator corrects the settings in one go.
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)
