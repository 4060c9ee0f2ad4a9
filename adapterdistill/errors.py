"""Every error that a user can cause, with its reason and exit code.

Domain errors are raised where the fault is found and translated once, at the edge: exit codes in
`adapterdistill.cli`, gRPC statuses in `adapterdistill.registry.status`, HTTP statuses in
`serve.http.api`. Messages name the subject, what was expected and what came, and never quote a
tenant's text. Each error takes one positional message, so that it survives pickle.
"""

from collections.abc import Sequence


class AdapterDistillError(Exception):
    """Base of all expected errors. `reason` is stable; the CLI ends with `exit_code`."""

    reason = "INTERNAL"
    exit_code = 1

    def __init__(
        self, message: str = "", *, field: str | None = None, retry_after_s: float | None = None
    ) -> None:
        """`field` names the argument at fault; the same may succeed after `retry_after_s`."""
        super().__init__(message)
        self.field = field
        self.retry_after_s = retry_after_s


class ConfigError(AdapterDistillError):
    """A setting is missing, unknown or out of range."""

    reason = "INVALID_CONFIG"
    exit_code = 2


class DeadlineRequiredError(ConfigError):
    """A call has no deadline."""

    reason = "DEADLINE_REQUIRED"


class RequestIdReusedError(ConfigError):
    """A request id was used before, for another request."""

    reason = "REQUEST_ID_REUSED"


class DataError(AdapterDistillError):
    """A tenant's data break the tenant format."""

    reason = "INVALID_DATA"
    exit_code = 3


class EncoderError(AdapterDistillError):
    """An encoder cannot be found, is not supported, or is not the one that was expected."""

    reason = "INVALID_ENCODER"
    exit_code = 4


class EncoderMismatchError(EncoderError):
    """An adapter was made for another encoder or tokenizer than the one at hand."""

    reason = "ENCODER_MISMATCH"


class UnreadableTextError(EncoderError):
    """A tenant's texts are mostly unknown tokens to its encoder."""

    reason = "TEXT_UNREADABLE"


class InvalidPayloadError(AdapterDistillError):
    """Bytes are not an adapter that may be stored or loaded."""

    reason = "INVALID_PAYLOAD"
    exit_code = 5


class InvalidManifestError(InvalidPayloadError):
    """A manifest is malformed or contradicts its payload."""

    reason = "INVALID_MANIFEST"


class DigestMismatchError(InvalidPayloadError):
    """Bytes do not have the sha256 that was promised."""

    reason = "DIGEST_MISMATCH"


class ChunkChecksumError(InvalidPayloadError):
    """A chunk of a payload was damaged on the way; the chunks before it are good."""

    reason = "CHUNK_CHECKSUM"


class UploadIncompleteError(InvalidPayloadError):
    """An upload begins after the bytes that the registry has, or ends before its last byte."""

    reason = "UPLOAD_INCOMPLETE"


class PayloadTooLargeError(InvalidPayloadError):
    """A payload exceeds the registry's limit."""

    reason = "PAYLOAD_TOO_LARGE"


class RegistryError(AdapterDistillError):
    """The registry refused or failed."""

    reason = "REGISTRY_ERROR"
    exit_code = 6


class RegistryUnavailableError(RegistryError):
    """The registry did not answer within the deadline."""

    reason = "REGISTRY_UNAVAILABLE"


class InvalidRequestError(RegistryError):
    """The request is not a message of the call."""

    reason = "INVALID_REQUEST"


class NotFoundError(RegistryError):
    """The name is unknown, or not for this caller: both look the same."""

    reason = "NOT_FOUND"


class StaleRevisionError(RegistryError):
    """A revision is not one of this registry: it was restored, or is another one."""

    reason = "STALE_REVISION"


class RegistryClosedError(RegistryError):
    """The registry was restored, and waits for its operator to say that nothing is lost."""

    reason = "REGISTRY_CLOSED"


class UnauthenticatedError(RegistryError):
    """The caller's certificate or token is missing, revoked, expired or names nobody."""

    reason = "UNAUTHENTICATED"


class AuthorityOfflineError(RegistryError):
    """The registry has no key of its authority, so that an operator signs renewals."""

    reason = "AUTHORITY_OFFLINE"


class NotPermittedError(RegistryError):
    """The caller's role or name does not allow this call, whatever the registry holds."""

    reason = "NOT_PERMITTED"


class WithdrawnError(RegistryError):
    """The version was withdrawn by its owner or an operator."""

    reason = "WITHDRAWN"


class SignatureError(RegistryError):
    """A statement is not signed by the adapter's owner, or was changed after signing."""

    reason = "SIGNATURE_INVALID"


class ClockSkewError(SignatureError):
    """A statement's time is too far from the registry's: it is old, or one clock is wrong."""

    reason = "CLOCK_SKEW"


class StaleStatementError(SignatureError):
    """A statement was used before, or made for an older state of its adapter."""

    reason = "STALE_STATEMENT"


class QuotaExceededError(RegistryError):
    """The tenant's quota in the registry is used up."""

    reason = "QUOTA_EXCEEDED"


class RateLimitedError(RegistryError):
    """The caller calls too often, or has too many calls open; it may try again later."""

    reason = "RATE_LIMITED"


class AliasConflictError(RegistryError):
    """An alias was moved by somebody else since its etag was read."""

    reason = "ALIAS_CONFLICT"


class PlacementError(AdapterDistillError):
    """No node offers the resource that a data owner is pinned to."""

    reason = "NO_OWNER_NODE"
    exit_code = 7


class TrainingError(AdapterDistillError):
    """Training failed or could not get its workers in time."""

    reason = "TRAINING_FAILED"
    exit_code = 8


class ServingError(AdapterDistillError):
    """A serving bundle or deployment is unusable."""

    reason = "SERVING_ERROR"
    exit_code = 9


class UnknownTenantError(ServingError):
    """No adapter is live for the tenant; the bare encoder never answers."""

    reason = "UNKNOWN_TENANT"


class NoCandidateError(UnknownTenantError):
    """The tenant has no candidate beside its live adapter, or the candidate is not served."""

    reason = "NO_CANDIDATE"


class UnknownTaskError(ServingError):
    """The tenant's bundle does not answer this classification task."""

    reason = "UNKNOWN_TASK"


class NoFeedbackError(ServingError):
    """The deployment keeps no feedback."""

    reason = "NO_FEEDBACK"


class PushRefusedError(ServingError):
    """A deployment does not take the bundles that were pushed to it; what it serves stays."""

    reason = "PUSH_REFUSED"


class OverloadedError(ServingError):
    """The server has no room for another request now."""

    reason = "OVERLOADED"


class DeadlineExceededError(ServingError):
    """A request waited for too long and was dropped."""

    reason = "DEADLINE_EXCEEDED"


class FileError(AdapterDistillError):
    """A file or folder cannot be read or written: no access, no room on the disk, no such name."""

    reason = "FILE_ERROR"
    exit_code = 11


class StoreError(FileError):
    """A folder or an object store with bundles or payloads cannot be reached or used."""

    reason = "STORE_UNAVAILABLE"


class NotServedError(ServingError):
    """A run ends without a bundle: what it made would serve the tenant badly."""

    reason = "NOT_SERVED"
    exit_code = 13


class RevealsRowsError(AdapterDistillError):
    """A run publishes nothing: its adapter would reveal more of its rows than the owner accepts."""

    reason = "REVEALS_ROWS"
    exit_code = 14


class MissingExtraError(AdapterDistillError):
    """A command needs a library that the base install leaves out."""

    reason = "MISSING_EXTRA"
    exit_code = 12


class IntegrityError(AdapterDistillError):
    """A file on disk is not as it was written."""

    reason = "INTEGRITY"
    exit_code = 10


class AuditBrokenError(IntegrityError):
    """An audit log was changed after it was written."""

    reason = "AUDIT_BROKEN"


LISTED = "\n  "
"""Stands before each of several faults in a message, which the command line prints one a line."""


def listed(subject: str, faults: Sequence[str]) -> str:
    """Make a message of a subject and its faults: one stays on the same line, several do not."""
    return f"{subject}: {faults[0]}" if len(faults) == 1 else LISTED.join((f"{subject}:", *faults))


def error_classes() -> list[type[AdapterDistillError]]:
    """List every error class of this module, in its order."""
    named = globals().values()
    return [e for e in named if isinstance(e, type) and issubclass(e, AdapterDistillError)]
