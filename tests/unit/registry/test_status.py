"""The status table: every error class survives the wire, and every code gRPC makes itself maps."""

import grpc
import pytest

from adapterdistill import errors
from adapterdistill.errors import AdapterDistillError, RegistryError, RegistryUnavailableError
from adapterdistill.registry.status import code_of, from_call, to_status

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, AdapterDistillError)
]


class FakeCall:
    """A failed call as a client sees it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailer: object = ()) -> None:
        self._answer = code, details, trailer

    def code(self) -> grpc.StatusCode:
        return self._answer[0]

    def details(self) -> str:
        return self._answer[1]

    def trailing_metadata(self) -> object:
        return self._answer[2]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_class_comes_back_as_itself(kind: type[AdapterDistillError]) -> None:
    error = from_call(FakeCall(*to_status(kind("what was wrong: ü"))), "get")
    assert type(error) is kind
    assert str(error) == "what was wrong: ü"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidPayloadError, "INVALID_ARGUMENT"),
        (errors.InvalidManifestError, "INVALID_ARGUMENT"),
        (errors.PayloadTooLargeError, "INVALID_ARGUMENT"),
        (errors.DigestMismatchError, "DATA_LOSS"),
        (errors.EncoderMismatchError, "FAILED_PRECONDITION"),
        (errors.NotFoundError, "NOT_FOUND"),
        (errors.AliasConflictError, "ABORTED"),
        (errors.RegistryUnavailableError, "UNAVAILABLE"),
        (errors.RegistryError, "INTERNAL"),
    ],
)
def test_codes_are_those_documented(kind: type[AdapterDistillError], code: str) -> None:
    assert code_of(kind("x")).name == code


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "OK"])
def test_status_without_reason_becomes_a_registry_error(code: grpc.StatusCode) -> None:
    error = from_call(FakeCall(code, "by gRPC"), "get at registry")
    assert isinstance(error, RegistryError)
    transient = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED"}
    assert isinstance(error, RegistryUnavailableError) == (code.name in transient)
    assert "get at registry" in str(error)


def test_long_message_is_cut_so_that_trailers_fit() -> None:
    _, message, trailer = to_status(RegistryError("ü\ud800" * 100_000))
    assert len(message.encode()) * 3 + len(trailer[0][1]) * 4 / 3 < 8192


def test_reason_of_a_newer_registry_becomes_a_registry_error() -> None:
    class NewerError(RegistryError):
        reason = "NEWER"

    answer = to_status(NewerError("x"))
    NewerError.reason = "FORGOTTEN"
    assert type(from_call(FakeCall(*answer), "get")) is RegistryError


def test_when_to_come_again_and_the_field_at_fault_survive_the_wire() -> None:
    error = errors.RateLimitedError("slower", field="name", retry_after_s=1.25)
    back = from_call(FakeCall(*to_status(error)), "get")
    assert (back.retry_after_s, back.field) == (1.25, "name")
    back = from_call(FakeCall(*to_status(errors.NotFoundError("no"))), "get")
    assert (back.retry_after_s, back.field) == (None, None)


def test_a_wait_is_never_told_shorter_than_it_is() -> None:
    error = errors.RateLimitedError("slower", retry_after_s=1e-12)
    back = from_call(FakeCall(*to_status(error)), "get")
    assert (back.retry_after_s or 0) >= 1e-12


@pytest.mark.parametrize("kind", [errors.QuotaExceededError, errors.ConfigError])
def test_long_message_with_details_is_cut_so_that_trailers_fit(
    kind: type[AdapterDistillError],
) -> None:
    error = kind("ü\ud800" * 100_000, field="request_id", retry_after_s=1.0)
    _, message, trailer = to_status(error)
    assert len(message.encode()) * 3 + len(trailer[0][1]) * 4 / 3 < 8192
