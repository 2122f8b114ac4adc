"""The error tree: every failure that the proxy names, by whose doing it is.

::

    SmartserveError
    +-- RequestError                what the client asked for cannot be
    |   +-- BadParameter            400  names the parameter and what is allowed
    |   +-- RangeNotSatisfiable     416
    |   +-- BodyTooSlow             408  stalled, or took longer than it may
    |   +-- PendingNotFound         404  no such upload, or no such temporary file
    |   +-- PendingConflict         409  the upload has come to another end
    |   +-- BodyTooLarge            413
    |   +-- UnsupportedBody         415  not a form, packed, or not a picture that is served
    +-- AccessError                 the caller may not do this
    |   +-- Unauthorized            401  no key, or a wrong one; says how to show it
    |   +-- AccessDisabled          403  the server has no key to compare with
    |   +-- TooManyFailures         429  too many wrong keys, with Retry-After
    +-- SourceError                 the picture asked for is not to be had
    |   +-- MediaNotFound           404  no such row, or not one that is served
    |   +-- MediaNotReady           404  still being processed, with Retry-After
    |   +-- SourceMissing           404  the row stands, its file does not
    |   +-- SourceUnavailable       503  the storage cannot be read now
    |   +-- SourceTimeout           504
    |   +-- SourceChanged           503  another file than its facts say; they are learned anew
    +-- CapacityError               503  come back later, with Retry-After
    |   +-- QueueFull
    |   +-- DatabaseUnavailable
    |   |   +-- CommitUncertain     it went away at the commit, which may have happened
    |   +-- ShuttingDown
    +-- RenderError                 the worker could not make the picture
    |   +-- UnsupportedSource       415  not a kind of file that is served
    |   +-- UndecodableSource       422  corrupt
    |   +-- SourceTooLarge          422  past a limit of width, height, pages, bytes
    |   +-- SourceQuarantined       422  killed its workers, refused for a while
    |   +-- RenderTimeout           504
    |   +-- RenderFault             500  our own fault
    +-- AnalysisError               who was asked about a picture has no answer; it does without
    |   +-- ProviderRefused         asking again does not help
    |   +-- ProviderUnavailable     busy, out of reach or broken; asked again a few times
    |   +-- BudgetSpent             a limit of the day is reached
    +-- IngestError                 an upload cannot be taken in; never a client's error
    |   +-- MainApiUnavailable      down, slow or busy: asked again
    |   +-- MainApiRefused          it will not, or answers with something else than was agreed
    |   |   +-- MainApiForbidden    our key is not the one
    |   |   +-- UploadGone          it does not know the upload any more
    |   +-- LeaseLost               another worker has the upload now
    |   +-- WorkerEnded             its workers ended, each in the middle of a step
    |   +-- StepOverdue             a step did not end in its time
    +-- NoAnswer                    a server that is looked at from outside says nothing of use
    +-- StorageError                503  a rendition store failed: counted, told to who purges
    +-- UploadStorageError          503  temporary files cannot be read or written now
    |   +-- UploadStorageFull       507
    +-- ConfigurationError          refuse to start, all faults at once

A class carries its HTTP status and title; an instance carries the public sentence, and for how
long a client should wait. ``reported`` says whether an operator should see it as a fault of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class SmartserveError(Exception):
    """Root of all named failures; ``detail`` is safe to show to anybody."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    reported: ClassVar[bool] = False

    def __init__(self, detail: str, *, retry_after_s: int | None = None) -> None:
        """Keep the public sentence and, where it helps, the seconds to wait before a retry."""
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class RequestError(SmartserveError):
    """The request itself is at fault."""

    status = 400
    title = "Bad request"


class BadParameter(RequestError):
    """A parameter has a value that is not allowed."""

    title = "Bad parameter"

    def __init__(self, parameter: str, allowed: str) -> None:
        """Name the parameter and what is allowed; the client's own text is never repeated."""
        super().__init__(f"{parameter} must be {allowed}")
        self.parameter = parameter
        self.allowed = allowed


class RangeNotSatisfiable(RequestError):
    """The range lies outside the rendition."""

    status = 416
    title = "Range not satisfiable"

    def __init__(self, length: int) -> None:
        """Keep the full length in bytes, for ``Content-Range: bytes */length``."""
        super().__init__(f"the picture has {length} bytes")
        self.length = length


class BodyTooSlow(RequestError):
    """The body stalled, or took longer than it may."""

    status = 408
    title = "Request timeout"


class PendingNotFound(RequestError):
    """There is no such upload, or no such temporary file."""

    status = 404
    title = "Not found"


class PendingConflict(RequestError):
    """The upload has come to another end than the one that is told."""

    status = 409
    title = "Conflict"


class BodyTooLarge(RequestError):
    """The body, or a file in it, is larger than it may be."""

    status = 413
    title = "Content too large"


class UnsupportedBody(RequestError):
    """The body is not of a kind that is taken."""

    status = 415
    title = "Unsupported media type"


class AccessError(SmartserveError):
    """The caller may not do what it asks for."""

    status = 403
    title = "Forbidden"


class Unauthorized(AccessError):
    """The request shows no key, or a wrong one."""

    status = 401
    title = "Unauthorized"

    def __init__(self, detail: str, *, challenge: str) -> None:
        """Keep the value of WWW-Authenticate (RFC 9110, 11.6.1)."""
        super().__init__(detail)
        self.challenge = challenge
        self.forwarded: bool | None = None
        """Whether a proxy said that it asks for somebody else; told to who shows nothing at all."""


class AccessDisabled(AccessError):
    """No key is set, so nobody may."""


class TooManyFailures(AccessError):
    """So many wrong keys came from there that the next is not looked at."""

    status = 429
    title = "Too many wrong keys"


class SourceError(SmartserveError):
    """The picture asked for is not to be had."""

    status = 404
    title = "Not found"


class MediaNotFound(SourceError):
    """There is no such medium, or none that is served."""


class MediaNotReady(SourceError):
    """The medium is known and still being processed."""

    title = "Not ready yet"


class SourceMissing(SourceError):
    """The database knows the medium, the storage does not have its file."""

    reported = True


class SourceUnavailable(SourceError):
    """The storage cannot be read now."""

    status = 503
    title = "Storage unavailable"
    reported = True


class SourceTimeout(SourceError):
    """The storage did not answer in time."""

    status = 504
    title = "Storage timed out"
    reported = True


class SourceChanged(SourceError):
    """The file is another one than its facts were read from; they have been learned anew."""

    status = 503
    title = "Picture has changed"


class CapacityError(SmartserveError):
    """The server cannot do this now; the client should come back."""

    status = 503
    title = "Temporarily unavailable"


class QueueFull(CapacityError):
    """More renders are waiting than the queue holds, or one waited too long in it."""


class DatabaseUnavailable(CapacityError):
    """The media database cannot be asked, and the row is not known from before."""

    reported = True


class CommitUncertain(DatabaseUnavailable):
    """The database went away while it committed: what was written may stand, or not."""


class ShuttingDown(CapacityError):
    """The server is stopping and takes no new renders."""


class RenderError(SmartserveError):
    """A worker could not make the picture."""

    status = 422
    title = "Picture cannot be rendered"


class UnsupportedSource(RenderError):
    """The source is of a kind that is not served."""

    status = 415
    title = "Unsupported picture type"


class UndecodableSource(RenderError):
    """The source is corrupt."""


class SourceTooLarge(RenderError):
    """The source is past a limit of width, height, pages or bytes."""


class SourceQuarantined(RenderError):
    """The source killed its workers and is refused for a while."""

    reported = True


class RenderTimeout(RenderError):
    """Rendering took longer than its deadline."""

    status = 504
    title = "Rendering timed out"
    reported = True


class RenderFault(RenderError):
    """Rendering failed through a fault of ours."""

    status = 500
    title = "Rendering failed"
    reported = True


class AnalysisError(SmartserveError):
    """Who was asked about a picture has no answer; never a client's error."""

    title = "Picture cannot be analysed"


class ProviderRefused(AnalysisError):
    """The provider will not answer this request, however often it is asked."""

    reported = True


class ProviderUnavailable(AnalysisError):
    """The provider cannot answer now; ``retry_after_s`` is what it asks for."""

    reported = True


class BudgetSpent(AnalysisError):
    """A limit of requests, tokens or money of the day is reached."""


class IngestError(SmartserveError):
    """An upload cannot be taken in; never a client's error."""

    title = "Upload cannot be taken in"


class MainApiUnavailable(IngestError):
    """The main API cannot answer now; ``retry_after_s`` is what it asks for."""


class MainApiRefused(IngestError):
    """The main API will not do this, or answers with something else than was agreed."""

    reported = True


class MainApiForbidden(MainApiRefused):
    """The main API does not take our key."""


class UploadGone(MainApiRefused):
    """The main API does not know the upload any more."""

    reported = False


class LeaseLost(IngestError):
    """Another worker has the upload now: nothing more may be written of it."""


class WorkerEnded(IngestError):
    """All attempts at a step were begun, and none was ended by its worker."""

    reported = True


class StepOverdue(IngestError):
    """A step did not end in its time: what it works with hangs."""

    reported = True


class NoAnswer(SmartserveError):
    """A server that is looked at from outside gives no answer, or none of use; the text says why.

    Never a client's error: it is the doctor that looks.
    """


class StorageError(SmartserveError):
    """A rendition store failed; the picture still goes out."""

    status = 503
    title = "Rendition store unavailable"
    reported = True


class UploadStorageError(SmartserveError):
    """Temporary files cannot be read or written now."""

    status = 503
    title = "Upload storage unavailable"
    reported = True


class UploadStorageFull(UploadStorageError):
    """There is no room for another upload."""

    status = 507
    title = "Insufficient storage"


class ConfigurationError(SmartserveError):
    """The settings or the installation are not fit to start with."""

    reported = True

    def __init__(self, faults: Sequence[str]) -> None:
        """Keep all faults, each a sentence that names the key, the value and what is allowed."""
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)
