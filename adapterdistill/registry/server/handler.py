"""What every call has around it: who calls, within which limits, and how a refusal is told."""

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from adapterdistill.errors import AdapterDistillError, DeadlineRequiredError, RegistryError
from adapterdistill.registry.access import Caller
from adapterdistill.registry.server.interceptors import checked
from adapterdistill.registry.server.state import OpenRegistry
from adapterdistill.registry.status import to_status
from adapterdistill.registry.trust.identity import caller_of
from adapterdistill.registry.upkeep.audit_trail import subject

logger = logging.getLogger(__name__)
T = TypeVar("T")
Service = TypeVar("Service", bound=OpenRegistry)
# The calls that change something, all of which the audit log tells of, and what they are about.
_SUBJECTS: dict[str, Callable[[Any], str]] = {
    "Publish": lambda _requests: "",  # its header says
    "SetAlias": lambda request: request.alias.name,
    "SetConsent": lambda request: request.adapter_name,
    "Withdraw": lambda request: request.name,
    "ReleaseVersion": lambda request: request.name,
}


def answered(
    call: Callable[[Service, Any, Any, Caller], Awaitable[T]],
) -> Callable[[Service, Any, Any], Awaitable[T]]:
    """Tells the call who calls, and turns errors into statuses; what we did not foresee is logged
    and not shown."""

    @functools.wraps(call)
    async def answer(self: Service, request: Any, context: Any) -> T:
        refusal: AdapterDistillError
        caller: Caller | None = None
        writes = call.__name__ in _SUBJECTS
        try:
            caller = caller_of(context, self.credentials)
            with self.limited.hold(caller):
                _check_deadline(call.__name__, context)
                if writes:
                    subject.set(_SUBJECTS[call.__name__](checked(request)))
                response = await call(self, checked(request), context, caller)
                if writes:
                    await self.audit.settle()
                return response
        except AdapterDistillError as error:
            refusal = error
        except Exception:
            logger.exception("%s failed", call.__name__)
            refusal = RegistryError("the registry failed; its log has the cause")
        if writes:
            try:
                await self.audit.refused(call.__name__, caller, refusal)
            except RegistryError as error:
                refusal = error
        code, message, trailer = to_status(refusal)
        logger.info(
            "%s of %s refused: %s %s",
            call.__name__,
            caller or "nobody known",
            code.name,
            refusal.reason,
        )
        await context.abort(code, message, trailer)
        raise AssertionError("abort returned")

    return answer


def _check_deadline(name: str, context: Any) -> None:
    """A call without one could hold what it uses for ever."""
    if name != "Watch" and context.time_remaining() is None:
        raise DeadlineRequiredError(f"{name} needs a deadline, and came without")
