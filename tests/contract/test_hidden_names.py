"""The law of hidden names: no message to a caller holds the name of what it may not see.

Names and numbers of hidden things are planted, every call is made with everything that the caller
may know, and every byte of what comes back is searched.
"""

from collections.abc import Iterator
from itertools import count, product
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapterdistill.errors import InvalidManifestError
from adapterdistill.manifest import Manifest
from adapterdistill.registry import wire
from adapterdistill.registry.access import NOBODY, Caller
from adapterdistill.registry.commitments import Opening, committed, opened
from adapterdistill.registry.server import handler, service
from adapterdistill.registry.v1 import registry_pb2 as pb
from tests.contract.running_registry import Running, believing, parts, refusal
from tests.unit.registry.samples import sample

SECRET = ("acme", "secret")
CALLS = pb.DESCRIPTOR.services_by_name["RegistryService"].methods


class World:
    """What corn may see, and what it may not: a teacher, a student, and a version in quarantine."""

    def __init__(self, registry: Running) -> None:
        self.registry = registry
        acme, brook, dale, corn = (
            registry.client_of(f"owner/{name}") for name in ("acme", "brook", "dale", "corn")
        )
        self.secret, payload = sample(1, tenant="acme", adapter="secret")
        acme.publish(self.secret, payload, consent=frozenset({"brook"}))
        self.open = acme.publish(*sample(2, tenant="acme", adapter="open"))
        self.student = brook.publish(
            *sample(3, tenant="brook", teachers=[self.secret.ref.name, self.open.ref.name])
        )
        self.hidden_student, payload = sample(4, tenant="dale", teachers=[self.student.ref.name])
        dale.publish(self.hidden_student, payload, consent=NOBODY)
        self.odd, _ = sample(5, tenant="acme", adapter="open")
        index = registry.server._service._index
        registry.run(
            registry.server._service._on_index(
                index.add, self.odd, Caller("owner", "acme"), quarantine="odd"
            )
        )
        acme.set_alias(self.odd.ref, "live")
        for tenants in (frozenset({"brook", "elm"}), frozenset({"brook"})):
            acme.set_consent(*SECRET, tenants)
        self.own = corn.publish(*sample(6, tenant="corn"))
        self.clients = (acme, brook, dale, corn)
        self.numbers = count(100, 2)

    @property
    def planted(self) -> list[bytes]:
        hidden = (self.secret, self.hidden_student, self.odd)
        return [one.version.encode() for one in hidden] + [b"acme/adapters/secret", b"dale"]

    def close(self) -> None:
        for client in self.clients:
            client.close()


@pytest.fixture(params=[False, True], ids=["marks", "hides descendants"])
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[World]:
    for module in (handler, service):
        monkeypatch.setattr(module, "caller_of", believing)
    from adapterdistill.registry.admission.admission import Limits

    running = Running(tmp_path / "registry", limits=Limits(refuse_descendants=request.param))
    made = World(running)
    yield made
    made.close()
    running.close()


def requests(call: Any, known: dict[str, list[str]]) -> Iterator[Any]:
    """Every request of this call whose names are known to the caller."""
    message = getattr(pb, call.input_type.name)
    match call.name:
        case "SetAlias":
            for alias, version in product(known["aliases"], known["versions"]):
                yield message(alias=pb.Alias(name=alias, version_name=version))
        case "ListVersions":
            for view, latest in product((0, 1), (False, True)):
                yield message(view=view, filter=pb.VersionFilter(latest_only=latest))
                yield message(view=view, page_size=1)
        case "Watch":
            yield message()
            for adapter in known["adapters"]:
                yield message(adapter_names=[adapter])
        case "SetConsent":
            yield from (message(adapter_name=name) for name in known["adapters"])
        case "Withdraw":
            yield from (message(name=name, reason="x") for name in known["versions"])
        case "RenewCertificates":
            yield message(request_pem=b"x")
        case _:
            yield from (message(name=name) for names in known.values() for name in names)


def answers(stub: Any, call: Any, request: Any) -> Iterator[bytes]:
    """Every byte that comes back: messages, or the refusal with its details."""
    try:
        answer = getattr(stub, call.name)(request, timeout=10)
        if not call.server_streaming:
            yield answer.SerializeToString()
            return
        for message in answer:
            yield message.SerializeToString()
            if call.name == "Watch" and not message.HasField("event"):
                answer.cancel()
                return
    except grpc.RpcError as error:
        told: Any = error
        yield told.details().encode()
        yield from (value for _, value in told.trailing_metadata() if isinstance(value, bytes))


def everything_told(world: World) -> dict[str, bytes]:
    """What corn is answered, by call."""
    stub = world.registry.stub_of("owner/corn")
    visible = [one.ref for one in (world.open, world.student, world.own)]
    known = {
        "versions": [ref.name for ref in visible],
        "adapters": [wire.adapter_name(ref.tenant, ref.adapter) for ref in visible],
        "aliases": [wire.alias_name(ref.tenant, ref.adapter, "live") for ref in visible],
    }
    told = {}
    for call in CALLS:
        if call.name == "Publish":
            continue
        made = [*requests(call, known)]
        assert made, call.name
        told[call.name] = b"".join(b for one in made for b in answers(stub, call, one))
    number = next(world.numbers)
    teacher = world.clients[-1].publish(*sample(number, tenant="corn", adapter="more"))
    learner, payload = sample(number + 1, tenant="corn", teachers=[teacher.ref.name])
    manifest, openings = committed(learner)
    header, *chunks = parts(manifest, payload)
    header.header.teachers.extend(wire.opening_messages(openings))
    told["Publish"] = stub.Publish(iter([header, *chunks]), timeout=10).SerializeToString()
    assert told.keys() == {call.name for call in CALLS}
    return told


def test_no_answer_holds_a_hidden_name(world: World) -> None:
    acme, *_ = world.clients
    for _ in range(2):  # before and after the withdrawal that marks the student
        for call, told in everything_told(world).items():
            assert told or call in ("GetLineage",), call
            for name in world.planted:
                assert name not in told, (call, name)
        acme.withdraw(world.secret.ref, "planted")


def test_what_a_caller_may_see_is_opened_to_it_and_verified(world: World) -> None:
    acme, brook, _, corn = world.clients
    names = (world.secret.ref.name, world.open.ref.name)
    assert brook.get(world.student.ref).teachers == names
    assert acme.fetch(world.student.ref)[0] == world.student
    hidden, shown = corn.get(world.student.ref).teachers
    assert hidden.startswith("hidden/") and shown == names[1]
    acme.set_consent(*SECRET, frozenset({"brook", "corn"}))
    assert corn.get(world.student.ref).teachers == names
    assert [one for one in corn.list() if one.ref == world.student.ref] == [world.student]


def test_a_watch_is_silent_about_hidden_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a message comes, nor does the revision move, whatever happens out of sight."""
    acme, *_ = world.clients
    watch = world.registry.stub_of("owner/corn").Watch(pb.WatchRequest(), timeout=30)
    revision = next(answer.revision for answer in watch if not answer.HasField("event"))
    for number in range(5):
        acme.publish(*sample(20 + number, tenant="acme", adapter="secret"))
    acme.publish(*sample(30, tenant="acme", adapter="open"))
    first = next(watch)
    assert first.event.name.startswith("tenants/acme/adapters/open") and first.revision > revision
    watch.cancel()


def test_manifests_that_name_teachers_are_refused_from_owners(world: World) -> None:
    manifest, payload = sample(8, tenant="corn", teachers=[world.own.ref.name])
    stub = world.registry.stub_of("owner/corn")
    error = refusal(lambda: stub.Publish(parts(manifest, payload), timeout=10))
    assert isinstance(error, InvalidManifestError) and "names its teachers" in str(error)


@pytest.mark.parametrize("spoilt", ["absent", "short salt", "another name", "one too many"])
def test_openings_that_do_not_open_the_teachers_are_refused(world: World, spoilt: str) -> None:
    plain, payload = sample(9, tenant="corn", teachers=[world.own.ref.name])
    manifest, (opening,) = committed(plain)
    other = Opening(world.open.ref.name, opening.salt)
    openings = {
        "absent": [],
        "short salt": [Opening(opening.name, b"x")],
        "another name": [other],
        "one too many": [opening, other],
    }[spoilt]
    header, *chunks = parts(manifest, payload)
    header.header.teachers.extend(wire.opening_messages(openings))
    stub = world.registry.stub_of("owner/corn")
    error = refusal(lambda: stub.Publish(iter([header, *chunks]), timeout=10))
    assert isinstance(error, InvalidManifestError)


def test_a_repeated_publish_may_commit_anew_and_not_to_other_teachers(world: World) -> None:
    *_, corn = world.clients
    manifest, payload = sample(10, tenant="corn", teachers=[world.own.ref.name])
    assert corn.publish(manifest, payload) == corn.publish(manifest, payload) == manifest
    changed = manifest.model_copy(update={"teachers": (world.open.ref.name,)})
    with pytest.raises(InvalidManifestError, match="another manifest"):
        corn.publish(changed, payload)


def test_commitments_open_to_the_names_alone() -> None:
    manifest: Manifest = sample(1, teachers=[sample(n)[0].ref.name for n in (2, 3)])[0]
    one, openings = committed(manifest)
    two, _ = committed(manifest)
    assert opened(one, openings) == manifest
    assert not {*one.teachers} & {*two.teachers}  # salted
    assert opened(one, openings[:1]).teachers == (manifest.teachers[0], one.teachers[1])
    assert Manifest.from_json(one.canonical_json()) == one
    with pytest.raises(InvalidManifestError, match="does not have"):
        opened(two, openings)
