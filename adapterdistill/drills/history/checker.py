"""A checker of histories: one order of changes must explain every answer, in real time.

The audit log of an incarnation claims an order of its changes. The checker makes them one after the
other on a sequential machine (`states`), and finds each of these:

- a change that is not lawful where it stands, that nobody asked for, that is there twice, or that
  was refused; an acknowledged change that the log lacks;
- an order that contradicts real time: what was answered before another call began comes first;
- an answer that no moment between its call and its return explains, given the earlier answers;
- a revoked certificate that still has an effect or an answer;
- a watch that leaves a change out, tells it twice, in another order or to the wrong caller;
- a restoration that loses what its backup had, a later withdrawal or a later consent.

So calls are linearizable (Herlihy and Wing, 1990), with the log as the witness of the order.
Because it is given, this takes quadratic time, where a search for an order takes exponential time.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from math import inf

from adapterdistill.drills.history.record import (
    OK,
    OPERATOR,
    UNKNOWN,
    Adapter,
    Call,
    Effect,
    History,
    Incarnation,
    Revocation,
    adapter_of,
)
from adapterdistill.drills.history.states import WITHDRAWN, State
from adapterdistill.drills.history.watching import watch_faults

_UNDONE = {"NOT_FOUND", "INVALID_MANIFEST"}
"""Refusals after which the call has no effect for certain. A publish that is repeated within its
call may find that it was published, and withdrawn since."""
_BY_CHANCE = {"RATE_LIMITED", "STALE_STATEMENT", "UPLOAD_INCOMPLETE"}
"""Refusals that promise nothing: another call was in the way."""
_REVOKED = {"UNAUTHENTICATED", "SIGNATURE_INVALID"}
"""Refusals of a certificate: of the one for connections, or of the one that signs uploads."""


def faults(history: History) -> list[str]:
    """List what must not be; empty for a history as every caller was promised it."""
    revoked = {(one.caller, one.certificate): one for one in history.revocations}
    found: list[str] = []
    before: Order | None = None
    for number, one in enumerate(history.incarnations):
        order = Order(one, history.uploads, revoked, before)
        told = [*order.faults(), *(order.restoration_faults(before) if before else ())]
        is_last = number == len(history.incarnations) - 1
        for caller, events in one.told.items():
            told += watch_faults(order, caller, events, is_complete=is_last)
        found += (f"incarnation {number}: {fault}" for fault in told)
        before = order
    return found


class Order:
    """The order of changes that the log of one incarnation claims."""

    def __init__(
        self,
        one: Incarnation,
        uploads: Mapping[str, Adapter],
        revoked: Mapping[tuple[str, int], Revocation],
        before: "Order | None" = None,
    ) -> None:
        self.one, self.revoked = one, revoked
        self._uploads, self._before = uploads, before
        self._callers: dict[Effect, list[Call]] = defaultdict(list)
        for call in one.calls:
            if call.effect is not None:
                self._callers[call.effect].append(call)

    @cached_property
    def states(self) -> list[State]:
        """State before the first line, after it, and so on."""
        found = [self._inheriting(State(), 0)]
        for place, line in enumerate(self.one.lines, 1):
            state = found[-1].after(line.effect, self._uploads)
            found.append(self._inheriting(state, place))
        return found

    def _inheriting(self, state: State, place: int) -> State:
        """Return the state, as the incarnation before obliges it where this one begins."""
        if self._before is None or place != self.one.restored:
            return state
        return self._before.inherited(state)

    def inherited(self, state: State) -> State:
        """Add to a restored state what it owes to the incarnation before it."""
        last = self.states[-1]
        gone = {one for one, state in last.versions.items() if state == WITHDRAWN}
        lost = (gone | last.lost) - state.versions.keys()
        return replace(state, asked=last.asked, lost=frozenset(lost))

    @cached_property
    def began(self) -> list[float]:
        """Time of each line after which its change was made."""
        return [self._time(place, "began_s") for place in range(len(self.one.lines))]

    @cached_property
    def ended(self) -> list[float]:
        """Time of each line before which its change was made."""
        return [self._time(place, "ended_s") for place in range(len(self.one.lines))]

    def _time(self, place: int, which: str) -> float:
        if place < self.one.restored:
            return -inf
        callers = self._callers[self.one.lines[place].effect]
        if which == "began_s":
            return min((call.began_s for call in callers), default=-inf)
        return min((call.ended_s for call in callers if call.answer == OK), default=inf)

    def first(self, began_s: float) -> int:
        """Return how many lines were certainly there at a time."""
        return max(
            (place for place, ended in enumerate(self.ended, 1) if ended < began_s),
            default=self.one.restored,
        )

    def last(self, ended_s: float) -> int:
        """Return how many lines may have been there at a time."""
        later = (place for place, began in enumerate(self.began) if began > ended_s)
        return min(later, default=len(self.one.lines))

    def faults(self) -> Iterator[str]:
        yield from self._line_faults()
        yield from self._time_faults()
        yield from self._certificate_faults()
        yield from self._answer_faults()

    def _line_faults(self) -> Iterator[str]:
        seen: set[Effect] = set()
        for place, line in enumerate(self.one.lines):
            what = f"{line.effect.kind} {line.effect.name}"
            if line.effect in seen:
                yield f"{what}: the log has it twice"
            seen.add(line.effect)
            fault = self.states[place].fault(line.effect, self._uploads)
            if fault:
                yield f"{what}: {fault}"
            if place < self.one.restored:
                continue
            callers = self._callers[line.effect]
            if not any(_log_name(call.caller) == line.caller for call in callers):
                yield f"{what} by {line.caller}: that caller did not ask for it"
            elif all(call.answer in _UNDONE for call in callers):
                yield f"{what}: it took effect, and was refused"
            elif all(self._is_revoked(call) for call in callers):
                yield f"{what}: asked for with a revoked certificate, and took effect"
        for effect, callers in self._callers.items():
            is_acknowledged = any(call.answer == OK for call in callers)
            if effect.kind == "consent_changed" and is_acknowledged and effect not in seen:
                yield f"{effect.kind} {effect.name}: acknowledged, and the log lacks it"

    def _time_faults(self) -> Iterator[str]:
        earliest = inf
        for place in reversed(range(self.one.restored, len(self.one.lines))):
            effect = self.one.lines[place].effect
            if self.began[place] > earliest:
                yield (
                    f"{effect.kind} {effect.name}: it was asked for after a change that the log has"
                    " later had been acknowledged"
                )
            earliest = min(earliest, self.ended[place])

    def _is_revoked(self, call: Call) -> bool:
        """Say whether the call began after its certificate was revoked."""
        revocation = self.revoked.get((call.caller, call.certificate))
        return revocation is not None and call.began_s > revocation.ended_s

    def _certificate_faults(self) -> Iterator[str]:
        for call in self.one.calls:
            revocation = self.revoked.get((call.caller, call.certificate))
            if call.answer in _REVOKED:
                if revocation is None or call.ended_s < revocation.began_s:
                    yield f"{_named(call)}: refused, though its certificate is valid"
            elif call.answer != UNKNOWN and self._is_revoked(call):
                yield f"{_named(call)}: answered {call.answer} to a revoked certificate"

    def _answer_faults(self) -> Iterator[str]:
        placed: list[tuple[float, int]] = []
        for call in sorted(self.one.calls, key=lambda call: call.began_s):
            if call.answer in {UNKNOWN, *_REVOKED, *_BY_CHANCE}:
                continue
            earlier = (place for ended, place in placed if ended < call.began_s)
            first = max(earlier, default=self.one.restored)
            window = range(max(first, self.first(call.began_s)), self.last(call.ended_s) + 1)
            explained = (p for p in window if self.states[p].explains(call, self._uploads))
            place = next(explained, None)
            if place is None:
                yield f"{_named(call)}: answered {call.answer}, which no moment of it explains"
            else:
                placed.append((call.ended_s, place))

    def restoration_faults(self, before: "Order") -> Iterator[str]:
        """Compare what the incarnation began with to the one before it."""
        kept, (began_s, ended_s) = self.one.kept, self.one.backup
        if [one.effect for one in self.one.lines[:kept]] != [
            one.effect for one in before.one.lines[:kept]
        ]:
            yield "the restored log does not begin as the log that was backed up"
        if not before.first(began_s) <= kept <= before.last(ended_s):
            yield f"the backup has {kept} changes, not those that were made when it was made"
        restored, last = self.states[self.one.restored], before.states[-1]
        made = State()
        for line in self.one.lines[: self.one.restored]:
            made = made.after(line.effect, self._uploads)
        for name, state in restored.versions.items():
            if last.versions.get(name) == WITHDRAWN and state != WITHDRAWN:
                yield f"{name}: withdrawn before the registry was restored, and not any more"
        for name in sorted(set(map(adapter_of, made.versions))):
            if made.consent(name) != last.consent(name):
                yield f"{name}: the consent that was given last is lost"


def _log_name(caller: str) -> str:
    return f"{caller}/{caller}" if caller == OPERATOR else f"owner/{caller}"


def _named(call: Call) -> str:
    return f"{call.kind} of {call.name} by {call.caller} at {call.began_s:.3f} s"
