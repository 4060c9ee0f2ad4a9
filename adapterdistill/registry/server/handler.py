"""The frame of every call: it finds the caller, checks limits and answers with a status."""

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from adapterdistill.errors import (
    AdapterDistillError,
    DeadlineRequiredError,
    RegistryClosedError,
    RegistryError,
)
from adapterdistill.registry.access import Caller
from adapterdistill.registry.admission.quotas import limited_name
from adapterdistill.registry.server.interceptors import checked
from adapterdistill.registry.server.state import OpenRegistry
from adapterdistill.registry.server.turns import caller_name
from adapterdistill.registry.status import to_status
from adapterdistill.registry.trust.identity import caller_of, certificate_end, certificate_name
from adapterdistill.registry.upkeep.audit_trail import records, subject

logger = logging.getLogger(__name__)
T = TypeVar("T")
Service = TypeVar("Service", bound=OpenRegistry)
# The calls that change something, which the audit log records, and how to find their subject.
_SUBJECTS: dict[str, Callable[[Any], str]] = {
    "Publish": lambda _requests: "",  # the first message of the stream names it
    "SetAlias": lambda request: request.alias.name,
    "SetConsent": lambda request: request.adapter_name,
    "Withdraw": lambda request: request.name,
    "ReleaseVersion": lambda request: request.name,
    "RenewCertificates": lambda _request: "",  # the caller is its subject
}
# What owners can still do: take back what a restored backup gives away again, and stay enrolled.
_WHEN_CLOSED = frozenset({"SetConsent", "Withdraw", "RenewCertificates"})


def answered(
    call: Callable[[Service, Any, Any, Caller], Awaitable[T]],
) -> Callable[[Service, Any, Any], Awaitable[T]]:
    """Pass the caller to the call, and turn errors into statuses.

    An unexpected error is logged; the client does not see it.
    """

    @functools.wraps(call)
    async def answer(self: Service, request: Any, context: Any) -> T:
        with self.metrics.call(call.__name__) as ended:
            return await answer_counted(self, request, context, ended)

    async def answer_counted(
        self: Service, request: Any, context: Any, ended: Callable[[str], None]
    ) -> T:
        refusal: AdapterDistillError
        caller: Caller | None = None
        writes = call.__name__ in _SUBJECTS
        certificate = certificate_name(context, self.credentials)
        try:
            self.limited.take_certificate(certificate)
            caller = caller_of(context, self.credentials)
            caller_name.set(str(caller))
            self.metrics.called_with(certificate, functools.partial(certificate_end, context))
            with self.limited.hold(caller, call.__name__):
                _check_deadline(call.__name__, context)
                checked(request)
                if self.closed and caller.role != "operator" and call.__name__ not in _WHEN_CLOSED:
                    raise RegistryClosedError(f"the registry is closed: {self.closed}")
                if writes:
                    subject.set(_SUBJECTS[call.__name__](request))
                    self.limited.check_change(caller)
                response = await call(self, request, context, caller)
                if isinstance(response, Message):
                    self.limited.charge_answer(caller, response.ByteSize())
                ended("OK")
                return response
        except AdapterDistillError as error:
            refusal = error
        except Exception:
            logger.exception("%s failed", call.__name__)
            refusal = RegistryError("the registry failed; its log has the cause")
        if writes:
            try:
                if records(refusal):
                    self.limited.take_refusal(limited_name(caller) if caller else certificate)
                    await self.audit.refused(call.__name__, caller, refusal)
            except RegistryError as error:
                refusal = error
        ended(refusal.reason)
        code, message, trailer = to_status(refusal)
        logger.info(
            "%s of %s refused: %s %s",
            call.__name__,
            caller or "an unknown caller",
            code.name,
            refusal.reason,
        )
        await context.abort(code, message, trailer)
        raise AssertionError("abort returned")

    return answer


def _check_deadline(name: str, context: Any) -> None:
    """Refuse a call without a deadline, which could hold resources for ever."""
    if name != "Watch" and context.time_remaining() is None:
        raise DeadlineRequiredError(f"{name} needs a deadline and has none")
