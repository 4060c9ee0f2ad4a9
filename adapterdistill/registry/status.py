"""The one table between domain errors and gRPC statuses, read in both directions.

The registry and the search endpoint share it.

A status carries `google.rpc.Status` with an `ErrorInfo`: its reason finds the error class again at
the client, where a bare code (from gRPC itself) only says whether the registry answered. Where the
error knows them, `RetryInfo`, `BadRequest` and `QuotaFailure` say when to call again, which
argument is at fault, and whose quota is used up.
"""

import math
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

from adapterdistill import errors
from adapterdistill.errors import AdapterDistillError

DOMAIN = "adapterdistill"
_DETAILS_KEY = "grpc-status-details-bin"
# Trailers must stay under gRPC's 8 KiB; a message travels twice, percent-encoded and in base64.
_MAX_MESSAGE = 600

# An error takes the row of its nearest base.
CODES: dict[type[AdapterDistillError], grpc.StatusCode] = {
    errors.AdapterDistillError: grpc.StatusCode.INTERNAL,
    errors.ConfigError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.EncoderError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidPayloadError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.DigestMismatchError: grpc.StatusCode.DATA_LOSS,
    errors.ChunkChecksumError: grpc.StatusCode.DATA_LOSS,
    errors.UploadIncompleteError: grpc.StatusCode.ABORTED,
    errors.RegistryUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.StaleRevisionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RegistryClosedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AliasConflictError: grpc.StatusCode.ABORTED,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.AuthorityOfflineError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotPermittedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.WithdrawnError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SignatureError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ClockSkewError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StaleStatementError: grpc.StatusCode.ABORTED,
    errors.QuotaExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.RateLimitedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.FileError: grpc.StatusCode.INTERNAL,
    errors.IntegrityError: grpc.StatusCode.DATA_LOSS,
    errors.UnknownTenantError: grpc.StatusCode.NOT_FOUND,
    errors.UnknownTaskError: grpc.StatusCode.NOT_FOUND,
    errors.OverloadedError: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_NO_ANSWER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        # Without a reason: gRPC's own limit on concurrent calls.
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)

_UNREACHABLE = {
    "errors resolving": "its host's name is unknown",
    "DNS resolution failed": "its host's name is unknown",
    "Connection refused": "the connection was refused: nothing listens there",
    "Network is unreachable": "no network leads to its host",
    "No route to host": "no network leads to its host",
}
"""Parts of gRPC's message when a connection fails, in plain words."""


def code_of(error: AdapterDistillError) -> grpc.StatusCode:
    return next(CODES[base] for base in type(error).__mro__ if base in CODES)


def to_status(error: AdapterDistillError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes]]]:
    """Return what to abort a call with: code, message and trailing metadata."""
    code = code_of(error)
    message = str(error)
    if len(message) > _MAX_MESSAGE:
        message = message[: _MAX_MESSAGE - 3] + "..."
    # Text of the caller may hold lone surrogates, which protobuf cannot carry.
    message = message.encode("utf-8", "replace").decode()
    status = Status(code=code.value[0], message=message)
    status.details.add().Pack(ErrorInfo(reason=error.reason, domain=DOMAIN))
    for detail in _details(error, message):
        status.details.add().Pack(detail)
    return code, message, ((_DETAILS_KEY, status.SerializeToString()),)


def _details(error: AdapterDistillError, message: str) -> Iterator[Message]:
    if error.retry_after_s is not None:
        wait = RetryInfo()
        wait.retry_delay.FromNanoseconds(math.ceil(error.retry_after_s * 1e9))
        yield wait
    if error.field is not None:
        violation = BadRequest.FieldViolation(field=error.field, description=message)
        yield BadRequest(field_violations=[violation])
    if isinstance(error, errors.QuotaExceededError):
        yield QuotaFailure(violations=[QuotaFailure.Violation(description=message)])


def from_call(call: Any, subject: str) -> AdapterDistillError:
    """Return the domain error of a failed call; `subject` says what was called, and where.

    Args:
        call: a `grpc.RpcError` as a client's call raises it.
    """
    code: grpc.StatusCode = call.code()
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            status = Status.FromString(value)
            reason = _found(status, ErrorInfo())
            if reason is not None and reason.domain == DOMAIN:
                error = _class_of(reason.reason)(status.message)
                wait, fault = _found(status, RetryInfo()), _found(status, BadRequest())
                if wait is not None:
                    error.retry_after_s = wait.retry_delay.ToNanoseconds() / 1e9
                if fault is not None and fault.field_violations:
                    error.field = fault.field_violations[0].field
                return error
    if code in _NO_ANSWER:
        details = str(call.details())
        why = next((told for part, told in _UNREACHABLE.items() if part in details), code.name)
        return errors.RegistryUnavailableError(f"{subject}: {why}")
    return errors.RegistryError(f"{subject}: {code.name}: {call.details()}")


def _found(status: Status, kind: Any) -> Any:
    """Unpack the status's detail of this kind into `kind`; None if there is none."""
    return next((kind for detail in status.details if detail.Unpack(kind)), None)


def _class_of(reason: str) -> type[AdapterDistillError]:
    """Return the class with this reason; RegistryError for a reason of a newer registry."""
    return _classes(AdapterDistillError).get(reason, errors.RegistryError)


def _classes(base: type[AdapterDistillError]) -> dict[str, type[AdapterDistillError]]:
    found = {base.reason: base}
    for child in base.__subclasses__():
        for reason, kind in _classes(child).items():
            found.setdefault(reason, kind)  # a class without a reason of its own adds none
    return found
