"""`registry revoke`: what becomes of an owner's versions, and the authority's own audit log."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from adapterdistill.cli import app
from adapterdistill.errors import AdapterDistillError, AuditBrokenError, ConfigError, IntegrityError
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.upkeep.fsck import fsck
from tests.contract.running_registry import Running
from tests.unit.registry.samples import sample

LOG = Path("root/authority/audit/log.jsonl")
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def one(line: str) -> Result:
        result = CliRunner().invoke(app, line.split())
        if isinstance(result.exception, AdapterDistillError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    one("registry init --root root")
    one("owner keygen acme --tenant acme")
    one("registry enrol acme --root root --request acme/request.pem --out acme/certificates.pem")
    return one


@pytest.fixture
def registry(run: Run) -> Iterator[Running]:
    """A registry with two versions of acme."""
    running = Running(Path("root"))
    with RegistryClient(running.address, timeout_s=10, credentials=Path("acme")) as acme:
        for seed in (1, 2):
            acme.publish(*sample(seed))
    yield running
    running.close()


def states(registry: Running) -> list[tuple[str, str]]:
    published = [registry.client.describe(sample(seed)[0].ref) for seed in (1, 2)]
    return [(one.state, one.state_reason) for one in published]


def lines(run: Run) -> list[dict[str, str]]:
    shown = json.loads(run("registry audit show root/authority --format json").stdout)
    return [one for one in shown if one["kind"] in ("enrolled", "revoked")]


def test_revoking_an_owner_lists_what_stays_published_and_says_how_to_withdraw_it(
    run: Run, registry: Running
) -> None:
    result = run("registry revoke acme --root root")
    names = [sample(seed)[0].ref.name for seed in (1, 2)]
    assert [line.split(":")[0] for line in result.stderr.splitlines()[:2]] == names
    assert "registry revoke acme --root root --withdraw --address" in result.stderr
    assert states(registry) == [("active", "")] * 2


def test_fsck_notes_the_versions_of_a_revoked_owner_until_they_are_withdrawn(
    run: Run, registry: Running
) -> None:
    assert fsck(registry.root).notes == ()
    run("registry revoke acme --root root")
    checked = fsck(registry.root)
    assert checked.findings == ()
    assert {one.kind for one in checked.notes} == {"signer_revoked"}
    assert len(checked.notes) == 2
    said = run("registry fsck root").stdout
    assert said.count("note: signer_revoked: tenants/acme/") == 2 and "no faults" in said
    run(f"registry revoke acme --root root --withdraw --address {registry.address}")
    assert fsck(registry.root).notes == ()


def test_an_owner_is_revoked_and_its_versions_withdrawn_in_one_call(
    run: Run, registry: Running
) -> None:
    command = f"registry revoke acme --root root --withdraw --address {registry.address}"
    result = run(f"{command} --reason left --format json")
    assert all(one["revoked"] for one in json.loads(result.stdout))
    assert result.stderr.count(": withdrawn") == 2
    assert states(registry) == [("withdrawn", "left")] * 2
    assert "acme has no version to withdraw" in run(command).stderr
    assert "acme has nothing published" in run("registry revoke acme --root root").stderr


def test_an_authority_apart_from_the_registry_names_the_commands(run: Run) -> None:
    assert "registry list --tenant acme" in run("registry revoke acme --root root").stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("acme --withdraw", "Give --address"),
        ("operator --role operator --withdraw", "--withdraw is for an owner"),
        ("--serial 1f --withdraw", "--withdraw is for an owner"),
    ],
)
def test_a_withdrawal_that_cannot_be_made_is_refused_before_anything_is_revoked(
    run: Run, options: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        run(f"registry revoke {options} --root root")
    listed = json.loads(run("registry certificates --root root --format json").stdout)
    assert not any(one["revoked"] for one in listed)


def test_enrolments_and_revocations_are_lines_of_the_authority_s_audit_log(run: Run) -> None:
    run("registry revoke acme --root root")
    run("registry revoke acme --root root")  # changes nothing, and is no second line
    told = [(one["kind"], one["name"], one["use"]) for one in lines(run)]
    assert [one[:2] for one in told[::2]] == [
        ("enrolled", "operator/operator"),
        ("enrolled", "owner/acme"),
        ("revoked", "owner/acme"),
    ]
    assert len(told) == len({*told}) == 6
    issued = json.loads(run("registry certificates --root root --format json").stdout)
    assert {one["serial"] for one in lines(run)} == {one["serial"] for one in issued}
    public = "--public-key root/authority/audit/public.pem"
    assert "unchanged" in run(f"registry audit verify root/authority {public}").stdout
    assert "revoked" in run("registry audit show root/authority").stdout


def test_a_changed_line_of_the_authority_s_log_is_found(run: Run, registry: Running) -> None:
    LOG.write_bytes(LOG.read_bytes().replace(b"owner/acme", b"owner/evil"))
    with pytest.raises(AuditBrokenError, match="edited"):
        run("registry audit verify root/authority")
    with pytest.raises(IntegrityError, match="1 findings"):
        run("registry fsck root")


def test_a_line_that_a_crash_cut_short_is_repaired(run: Run) -> None:
    LOG.write_bytes(LOG.read_bytes() + b'{"expires":"2027-01-01T00:00:00+00:00","kind":"enro')
    run("registry revoke acme --root root")
    assert [one["kind"] for one in lines(run)][-2:] == ["revoked", "revoked"]
    run("registry audit verify root/authority")
