"""The rights of each role: every role against every check."""

from collections.abc import Callable

import pytest

from adapterdistill.errors import NotPermittedError
from adapterdistill.registry.access import (
    ANYONE,
    Caller,
    check_fetches,
    check_operates,
    check_owns,
    check_withdraws,
)

CHECKS: dict[str, Callable[[Caller], None]] = {
    "owns": lambda caller: check_owns(caller, "acme"),
    "withdraws": lambda caller: check_withdraws(caller, "acme"),
    "operates": check_operates,
    "fetches": check_fetches,
}
MAY = {
    ANYONE: {"owns", "withdraws", "operates", "fetches"},
    Caller("owner", "acme"): {"owns", "withdraws", "fetches"},
    Caller("owner", "brook"): {"fetches"},
    Caller("operator", "acme"): {"withdraws", "operates", "fetches"},
    Caller("auditor", "acme"): set(),
}


@pytest.mark.parametrize("caller", MAY, ids=str)
@pytest.mark.parametrize("check", CHECKS)
def test_a_role_may_do_what_it_is_for_and_nothing_else(caller: Caller, check: str) -> None:
    if check in MAY[caller]:
        CHECKS[check](caller)
        return
    with pytest.raises(NotPermittedError, match=f"^{caller} (may|is no)"):
        CHECKS[check](caller)


def test_only_owners_see_less_than_everything() -> None:
    assert [caller.role for caller in MAY if not caller.sees_all] == ["owner", "owner"]
