"""A federation as one story: owners are enrolled and onboarded in turn, and some are refused.

The steps are what people would do, each in its own folder with its own keys.
"""

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from adapterdistill.actors.onboarding import OnboardReport
from adapterdistill.backbone import Encoder
from adapterdistill.data.importing import import_samples
from adapterdistill.demo.canaries import Canaries
from adapterdistill.demo.parties import Onboard, Owner, Site, command, refusal
from adapterdistill.demo.steps import Steps
from adapterdistill.errors import ConfigError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.registry import registry_process

TENANTS = ("larkhill-vets", "pedal-and-spoke", "valtara-rail")
"""Tenants in the order in which they join."""


class Federation:
    """Context of one federation: on leaving, everything that it started is stopped."""

    def __init__(
        self,
        site: Site,
        *,
        runs: Path,
        root: Path | None = None,
        searched_with: Encoder | None = None,
        emit: Callable[[str], None],
    ) -> None:
        """Works in `root`, which is new and stays; else in a temporary folder.

        Args:
            runs: has a TOML file for each tenant.
            searched_with: the owners' encoder, if canaries are planted and searched for.

        Raises:
            ConfigError: `root` is there already, or cannot be made.
        """
        self.steps = Steps(emit)
        self._site = site
        self._runs = runs
        self._emit = emit
        self._kept = root is not None
        self._home = _made(root) if root else Path(tempfile.mkdtemp(prefix="ad-"))
        self._registry = self._home / "registry"
        self._owners = [Owner(tenant, self._home / tenant) for tenant in TENANTS]
        self._canaries = searched_with and Canaries(self._owners, searched_with)
        self._sites: list[ExitStack] = []
        self._jobs: dict[Owner, Onboard] = {}
        self._reports: dict[Owner, OnboardReport] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._emit("stopping everything")
        with ThreadPoolExecutor(len(TENANTS)) as pool:  # most of it is waiting
            list(pool.map(ExitStack.close, self._sites))
        if not self._kept:
            shutil.rmtree(self._home, ignore_errors=True)

    def run(self) -> None:
        """The whole story. Raises TrainingError where a step failed that the others need."""
        first, second, third = self._owners
        command("registry", "init", "--root", str(self._registry))
        recorded = ("--record", str(self._home / "recorded")) if self._canaries else ()
        with registry_process(
            self._registry,
            *recorded,
            address_file=self._home / "registry.address",
            log=self._home / "registry.log",
        ) as registry:
            for owner in self._owners:
                self._enrol(owner)
            self._onboard(first, teachers=[])
            self._onboard(second, teachers=[first])
            self._without_consent(third, first, second)
            self._consent(second, [first, third])
            self._onboard(third, teachers=[first, second])
            self._under_anothers_name(third, first)
            self._strangers(registry.address)
            self._revoked(third, first)
            self._audited(third)
            command("registry", "backup", str(self._registry), str(self._home / "backup"))
        if self._canaries:
            self._search(self._canaries)

    def _enrol(self, owner: Owner) -> None:
        """Make keys that stay in the owner's folder, send a request, and receive certificates."""

        def work() -> str:
            import_samples(owner.tenant, owner.data)
            run = (self._runs / f"{owner.tenant}.toml").read_text("utf-8")
            if self._canaries:
                self._canaries.plant(owner)
                run = f'adapter = "{self._canaries.control}"\n{run}'
            owner.run_file.write_text(run, "utf-8")
            shutil.copy(self._home / "registry.address", owner.address_file)
            _enrol(owner.tenant, owner.credentials, self._registry)
            return f"sees {_named(owner.sees())}"

        name = f"{owner.tenant} makes keys, is enrolled, and lists what there is"
        self.steps.must(name, "sees none", work)

    def _onboard(self, owner: Owner, *, teachers: list[Owner]) -> None:
        def work() -> str:
            stack = ExitStack()
            self._sites.append(stack)
            self._jobs[owner] = stack.enter_context(self._site(owner))
            report = self._reports[owner] = self._jobs[owner]()
            names = report.fetch_teachers.teachers
            return f"published; taught by {_named(VersionRef.parse(one).tenant for one in names)}"

        name = f"{owner.tenant} is onboarded by a job on its own cluster"
        # An adapter that nothing trained, because the bare encoder is as good, teaches nobody.
        trained = (one for one in teachers if self._reports[one].decide.choice != "bare")
        expected = f"published; taught by {_named(one.tenant for one in trained)}"
        self.steps.must(name, expected, work)

    def _without_consent(self, caller: Owner, sharing: Owner, other: Owner) -> None:
        """`sharing` shares with the caller, `other` does not."""
        hidden, shown = self._version_of(other), self._version_of(sharing)
        absent = hidden.model_copy(update={"version": "0" * 64})

        def fetch(ref: VersionRef) -> None:
            with caller.client() as client:
                client.fetch(ref)

        def learn(ref: VersionRef) -> None:
            with caller.client() as client:
                manifest, payload = client.fetch(shown)
                student = {"tenant": caller.tenant, "teachers": (ref.name,)}
                client.publish(manifest.model_copy(update=student), payload)

        def alike(call: Callable[[VersionRef], None]) -> str:
            told, of_absent = refusal(call, hidden), refusal(call, absent)
            self._emit(f"   {told}")
            if told != of_absent:
                return f"{told} but {of_absent}"
            return f"{told.partition(':')[0]}, in the same words as of an absent one"

        self.steps.take(
            f"{caller.tenant} lists teachers; {other.tenant} does not share with it",
            f"sees {sharing.tenant}",
            lambda: f"sees {_named(caller.sees())}",
        )
        self.steps.take(
            f"{caller.tenant} fetches {other.tenant}'s adapter by its name",
            "NOT_FOUND, in the same words as of an absent one",
            lambda: alike(fetch),
        )
        self.steps.take(
            f"{caller.tenant} publishes with {other.tenant}'s adapter as its teacher",
            "INVALID_MANIFEST, in the same words as of an absent one",
            lambda: alike(learn),
        )

    def _consent(self, owner: Owner, others: list[Owner]) -> None:
        newcomer = others[-1]

        def work() -> str:
            ref = self._version_of(owner)
            with owner.client() as client:
                client.set_consent(ref.tenant, ref.adapter, frozenset(one.tenant for one in others))
            return f"{newcomer.tenant} sees {_named(newcomer.sees())}"

        seen = sorted([owner.tenant, *(one.tenant for one in others[:-1])])
        self.steps.take(
            f"{owner.tenant} shares with {newcomer.tenant} from now on",
            f"{newcomer.tenant} sees {_named(seen)}",
            work,
        )

    def _under_anothers_name(self, caller: Owner, victim: Owner) -> None:
        def work() -> str:
            with caller.client() as client:
                manifest, payload = client.fetch(self._version_of(caller))
                client.publish(manifest.model_copy(update={"tenant": victim.tenant}), payload)
            return "published"

        name = f"{caller.tenant} publishes under {victim.tenant}'s name"
        self.steps.take(name, "NOT_PERMITTED", work)

    def _strangers(self, address: str) -> None:
        """Try in plain text, and with a certificate of another registry's authority."""
        elsewhere, impostor = self._home / "elsewhere", self._home / "impostor"

        def listed(credentials: Path | None) -> str:
            with RegistryClient(address, credentials=credentials) as client:
                return f"sees {_named(one.tenant for one in client.list())}"

        def with_foreign_keys() -> str:
            command("registry", "init", "--root", str(elsewhere))
            _enrol(TENANTS[0], impostor, elsewhere)
            return listed(impostor)

        self.steps.take("someone lists in plain text", "UNAUTHENTICATED", lambda: listed(None))
        self.steps.take(
            f"someone lists as {TENANTS[0]}, by another authority's certificate",
            "UNAUTHENTICATED",
            with_foreign_keys,
        )

    def _revoked(self, owner: Owner, other: Owner) -> None:
        def submit_again() -> str:
            command("registry", "revoke", owner.tenant, "--root", str(self._registry))
            self._jobs[owner]()
            return "published"

        self.steps.take(
            f"{owner.tenant}'s certificates are revoked, and its job is submitted again",
            "UNAUTHENTICATED",
            submit_again,
        )
        self.steps.take(
            f"{other.tenant} goes on as before",
            f"sees {_named(one.tenant for one in self._owners if one != other)}",
            lambda: f"sees {_named(other.sees())}",
        )

    def _audited(self, refused: Owner) -> None:
        def work() -> str:
            command("registry", "audit", "verify", str(self._registry))
            shown = command("registry", "audit", "show", str(self._registry), "--format", "json")
            told = {
                f"{record['caller']} {record['reason']}"
                for record in json.loads(shown)
                if record["kind"] == "refused"
            }
            return f"as it was written; refused: {_named(sorted(told))}"

        caller = f"owner/{refused.tenant}"
        self.steps.take(
            "the audit log is verified, and asked who was refused",
            f"as it was written; refused: {caller} INVALID_MANIFEST, {caller} NOT_PERMITTED",
            work,
        )

    def _search(self, canaries: Canaries) -> None:
        outside = {
            "the messages at the registry's port": self._home / "recorded",
            "the registry's folder": self._registry,
            "the registry's log": self._home / "registry.log",
            "the registry's audit log": self._registry / "audit",
            "the registry's backup": self._home / "backup",
        }

        def found_in(path: Path) -> str:
            found = canaries.found_in(path)
            self._emit(f"   searched {found.files} files, {found.content_bytes / 1e6:.1f} MB")
            return found.told

        for place, path in outside.items():
            found = functools.partial(found_in, path)
            self.steps.take(f"canaries in {place}", canaries.expected_in(), found)
        for owner in self._owners:
            found, expected = functools.partial(found_in, owner.folder), canaries.expected_in(owner)
            self.steps.take(f"canaries in the folder of {owner.tenant}", expected, found)

    def _version_of(self, owner: Owner) -> VersionRef:
        return VersionRef.parse(self._reports[owner].publish.name)


def _enrol(tenant: str, credentials: Path, registry: Path) -> None:
    """Enrol the tenant: it and the operator send each other one file."""
    command("owner", "keygen", str(credentials), "--tenant", tenant)
    command(
        *("registry", "enrol", tenant, "--root", str(registry)),
        *("--request", str(credentials / "request.pem")),
        *("--out", str(credentials / "certificates.pem")),
    )


def _named(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _made(root: Path) -> Path:
    try:
        root.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"cannot make a new folder {root}: {error.strerror}") from None
    return root.absolute()
