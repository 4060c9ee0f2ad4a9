"""What a watch may tell: each change that its caller sees, once, in the order of the log."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from adapterdistill.drills.history.record import OPERATOR, Effect, Told, tenant_of

if TYPE_CHECKING:
    from adapterdistill.drills.history.checker import Order

MARK = "teacher_withdrawn"


def watch_faults(
    order: "Order", caller: str, told: Sequence[Told], *, is_complete: bool
) -> Iterator[str]:
    """Yield what is wrong with the events that a caller's watch told.

    A watch that begins anew amid the events of one change may repeat that change.

    Args:
        is_complete: the watch ended after all changes were made, and must have told of all.
    """
    lines = order.one.lines
    place, newest = 0, 0
    group: dict[tuple[str, str], float] = {}
    for one in told:
        what = f"watch of {caller}: {one.kind} {one.name}"
        if one.revision < newest:
            yield f"{what}: its revision is before that of an earlier event"
        if one.revision > newest:
            group.clear()
        newest = one.revision
        if (one.kind, one.name) in group:
            since = group[one.kind, one.name]
            if not any(since < kill <= one.at_s for kill in order.one.kills):
                yield f"{what}: told twice"
            continue
        group[one.kind, one.name] = one.at_s
        if one.kind == MARK:
            continue
        found = next(
            (
                later
                for later in range(place, len(lines))
                if (lines[later].effect.kind, lines[later].effect.name) == (one.kind, one.name)
            ),
            None,
        )
        if found is None:
            yield f"{what}: told twice, or in another order than the log's"
            continue
        for left in range(place, found):
            yield from _left_out(order, caller, left)
        place = found + 1
        moments = range(place, order.last(one.at_s) + 1)
        if not any(_sees(order, caller, lines[found].effect, moment) for moment in moments):
            yield f"{what}: told to a caller who may not see it"
        revocation = order.revoked.get((caller, one.certificate))
        if revocation is not None and order.began[found] > revocation.ended_s:
            yield f"{what}: told to a revoked certificate"
    if is_complete:
        for left in range(place, len(lines)):
            yield from _left_out(order, caller, left)


def _left_out(order: "Order", caller: str, place: int) -> Iterator[str]:
    """Yield a fault if the caller could see the change from when it was made to the end."""
    effect = order.one.lines[place].effect
    moments = range(place + 1, len(order.states))
    if all(_sees(order, caller, effect, moment) for moment in moments):
        yield f"watch of {caller}: {effect.kind} {effect.name}: not told"


def _sees(order: "Order", caller: str, effect: Effect, moment: int) -> bool:
    if caller in (OPERATOR, tenant_of(effect.name)):
        return True
    is_public = effect.kind != "consent_changed"
    return is_public and order.states[moment].sees(caller, effect.name)
