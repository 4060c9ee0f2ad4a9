"""Callers of one registry at once: they draw what to ask for, and record what they are told."""

import random
import time
import uuid
from collections.abc import Callable
from math import inf
from typing import Any

import grpc

from adapterdistill.drills.history.record import (
    OK,
    OPERATOR,
    UNKNOWN,
    Adapter,
    Call,
    CallKind,
    Effect,
    Incarnation,
)
from adapterdistill.drills.history.scene import Client, Scene
from adapterdistill.errors import AdapterDistillError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import EVERYONE, NOBODY
from adapterdistill.registry.status import from_call
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.wire import adapter_name, consent_message
from adapterdistill.testbed.random_adapters import SMALL, adapter

TENANTS = ("acme", "bolt", "corp")
_ADAPTERS = ("faq", "help")
_TIMEOUTS_S = (0.4, 3.0)
"""Some callers give up while the registry is down, others call until it is back."""
_UNANSWERED = "REGISTRY_UNAVAILABLE"
Seen = frozenset[str]


class Caller:
    """One thread of a tenant, or of the operator."""

    def __init__(self, scene: Scene, name: str, draw: random.Random) -> None:
        self._scene, self._name, self._draw = scene, name, draw
        self._client = Client(scene, name)
        self._incarnation: Incarnation | None = None
        self._last: Callable[[], None] | None = None
        self._ways = {
            self._fetch: 28,
            self._publish_new: 22,
            self._consent: 12,
            self._list: 10,
            self._publish_again: 8,
            self._describe: 8,
            self._withdraw: 7,
            self._repeat: 5,
        }
        if name == OPERATOR:
            self._ways = {self._fetch: 3, self._list: 3, self._describe: 3, self._withdraw: 1}

    def run(self) -> None:
        """Call as long as there are calls to make."""
        try:
            while self._scene.begun < self._scene.limit:
                with self._scene.one_more() as more:
                    if more:
                        self._call()
        except Exception as error:  # which would end the thread unnoticed
            self._scene.faults.append(f"a caller failed: {type(error).__name__}: {error}")
        finally:
            self._client.close()

    def survey(self) -> None:
        """Describe everything that was sent, once all other calls have ended."""
        self._client.renew()
        for name in self._scene.known():
            self._describe_one(name)
        self._client.close()

    def _call(self) -> None:
        if self._scene.now is not self._incarnation:
            # To a restored registry the keys of earlier changes mean nothing.
            self._incarnation, self._last = self._scene.now, None
        self._client.renew()
        self._client.registry.timeout_s = self._draw.choice(_TIMEOUTS_S)
        (way,) = self._draw.choices([*self._ways], [*self._ways.values()])
        way()

    def _record(
        self, kind: CallKind, name: str, call: Callable[[], Seen], effect: Effect | None = None
    ) -> None:
        incarnation, certificate = self._scene.now, self._client.certificate
        began_s, answer, seen = time.monotonic(), OK, Seen()
        try:
            seen = call()
        except AdapterDistillError as error:
            answer = UNKNOWN if error.reason == _UNANSWERED else error.reason
        ended_s = inf if answer == UNKNOWN else time.monotonic()
        one = Call(self._name, kind, name, began_s, ended_s, answer, effect, seen, certificate)
        self._scene.record(incarnation, one)

    def _own(self) -> list[str]:
        """List what this caller may withdraw and describe."""
        return self._scene.known("" if self._name == OPERATOR else f"tenants/{self._name}/")

    def _publish_new(self) -> None:
        draw, known = self._draw, self._scene.known()
        teachers = (draw.choice(known),) if known and draw.random() < 0.25 else ()
        consent = draw.choice((EVERYONE, NOBODY, frozenset(draw.sample(TENANTS, 2))))
        number, name = next(self._scene.numbers), draw.choice(_ADAPTERS)
        upload = adapter(SMALL, number, tenant=self._name, name=name, teachers=teachers)
        with self._scene.lock:
            self._scene.history.uploads[upload[0].ref.name] = Adapter(teachers, consent)
            self._scene.uploads[upload[0].ref.name] = upload
        self._publish(upload[0].ref.name)

    def _publish_again(self) -> None:
        """Publish what may be there, withdrawn, or lost with a registry."""
        own = self._own()
        if own:
            self._publish(self._draw.choice(own))
        else:
            self._publish_new()

    def _publish(self, name: str) -> None:
        manifest, payload = self._scene.uploads[name]
        consent = self._scene.history.uploads[name].consent

        def publish() -> Seen:
            self._client.registry.publish(manifest, payload, consent=consent)
            return Seen()

        self._record("publish", name, publish, Effect("published", name))

    def _fetch(self) -> None:
        known = self._scene.known()
        if not known:
            return self._list()
        name = self._draw.choice(known[self._draw.choice((0, -20)) :])

        def fetch() -> Seen:
            _, payload = self._client.registry.fetch(VersionRef.parse(name))
            if payload != self._scene.uploads[name][1]:
                self._scene.faults.append(f"fetch of {name}: other bytes than were published")
            return Seen()

        return self._record("fetch", name, fetch)

    def _list(self) -> None:
        tenant = self._draw.choice(TENANTS)

        def names() -> Seen:
            found = self._client.registry.list(tenant=tenant, latest_only=False)
            return frozenset(manifest.ref.name for manifest in found)

        self._record("list", tenant, names)

    def _describe(self) -> None:
        own = self._own()
        if not own:
            return self._list()
        return self._describe_one(self._draw.choice(own))

    def _describe_one(self, name: str) -> None:
        def describe() -> Seen:
            found = self._client.registry.describe(VersionRef.parse(name))
            return frozenset({found.state, *(found.consent or ())})

        self._record("describe", name, describe)

    def _consent(self) -> None:
        name, number = (
            adapter_name(self._name, self._draw.choice(_ADAPTERS)),
            next(self._scene.numbers),
        )
        others = self._draw.sample(TENANTS, self._draw.randint(0, len(TENANTS)))
        asked = frozenset({f"only-{number}", *others})
        request = pb.SetConsentRequest(
            adapter_name=name, consent=consent_message(asked), request_id=str(uuid.uuid4())
        )
        effect = Effect("consent_changed", name, ",".join(sorted(asked)))
        self._change("consent", "SetConsent", name, request, effect)

    def _withdraw(self) -> None:
        own = self._own()
        if not own:
            return self._list()
        name, reason = self._draw.choice(own), f"reason {next(self._scene.numbers)}"
        request = pb.WithdrawRequest(name=name, reason=reason, request_id=str(uuid.uuid4()))
        effect = Effect("withdrawn", name, reason)
        return self._change("withdraw", "Withdraw", name, request, effect)

    def _change(self, kind: CallKind, method: str, name: str, request: Any, effect: Effect) -> None:
        """Ask once for a change with an idempotency key, and remember how to ask again."""

        def change() -> Seen:
            try:
                timeout_s = self._client.registry.timeout_s
                getattr(self._client.once, method)(request, timeout=timeout_s)
            except grpc.RpcError as error:
                raise from_call(error, kind) from None
            return Seen()

        def ask() -> None:
            self._record(kind, name, change, effect)

        self._last = ask
        ask()

    def _repeat(self) -> None:
        """Ask for the last change again, with the same key."""
        if self._last is None:
            self._list()
        else:
            self._last()


def callers(scene: Scene, threads_each: int, draw: random.Random) -> list[Caller]:
    """Make the callers: some threads of each tenant, and one of the operator."""
    names = [tenant for tenant in TENANTS for _ in range(threads_each)]
    return [Caller(scene, name, random.Random(draw.random())) for name in (*names, OPERATOR)]
