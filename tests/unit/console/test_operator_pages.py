"""An operator's pages: what they show, what they never hold, and that changes are the commands'."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from adapterdistill.actors.publishing import EMBEDDED_REGISTRY
from adapterdistill.config import OnboardConfig
from adapterdistill.console.app import build
from adapterdistill.console.guard import Access
from adapterdistill.console.lineage import Lineage, picture, read_lineage
from adapterdistill.console.operator import LINKS, Operator, add_operator
from adapterdistill.console.pages import Pages
from adapterdistill.manifest import Manifest, VersionRef
from tests.contract.running_registry import Running
from tests.contract.test_quarantine import adapter, publish_crowd, too_strong
from tests.unit.console.conftest import HOST, ORIGIN, Browser, answering, text_of
from tests.unit.console.test_owner_pages import STATUS

PATHS = ("/", "/versions", "/quarantine", "/audit", "/metrics")
METRICS = """\
# HELP adapterdistill_requests_total Requests by outcome.
# TYPE adapterdistill_requests_total counter
adapterdistill_requests_total{outcome="OK",replica="r"} 7
# HELP adapterdistill_request_seconds Of answered searches.
# TYPE adapterdistill_request_seconds histogram
adapterdistill_request_seconds_bucket{le="+Inf",replica="r"} 4
adapterdistill_request_seconds_count{replica="r"} 4
adapterdistill_request_seconds_sum{replica="r"} 2
# HELP adapterdistill_tenant_drift_psi Population stability index.
# TYPE adapterdistill_tenant_drift_psi gauge
adapterdistill_tenant_drift_psi{tenant="cooper",replica="r"} 0.51
# HELP adapterdistill_tenant_drifted Whether it is large.
# TYPE adapterdistill_tenant_drifted gauge
adapterdistill_tenant_drifted{tenant="cooper",replica="r"} 1
# HELP python_info Of the process.
# TYPE python_info gauge
python_info 1
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "registry")
    yield running
    running.close()


@pytest.fixture
def family(registry: Running) -> list[Manifest]:
    """Teacher, student and its student, each of another tenant."""
    made: list[Manifest] = []
    for seed, tenant in enumerate(("baker", "cooper", "dyer")):
        names = [made[-1].ref.name] if made else []
        manifest, payload = adapter(seed, tenant=tenant, teachers=names)
        registry.client.publish(manifest, payload)
        made.append(manifest)
    return made


def browser_of(operator: Operator) -> Browser:
    access = Access(frozenset({HOST}))
    pages, router = Pages("Operator", LINKS, access), APIRouter()
    add_operator(router, operator, pages)
    client = TestClient(build(pages, router, access), base_url=ORIGIN)
    client.cookies.set(access.cookie, access.session)
    return Browser(client, access)


@pytest.fixture
def operator(registry: Running) -> Operator:
    return Operator(registry.address, root=registry.root)


def path_of(ref: VersionRef) -> str:
    return f"/versions/{ref.tenant}/{ref.adapter}/{ref.version}"


@pytest.fixture
def endpoint() -> Iterator[tuple[str, dict[str, int]]]:
    """An endpoint that answers for `cooper`, and statuses for it to give by path."""
    statuses: dict[str, int] = {}
    known = {"/metrics": METRICS.encode(), "/v1/tenants/cooper": json.dumps(STATUS).encode()}
    refusal = {"reason": "UNKNOWN_TENANT", "message": "no adapter is live"}

    def answer(path: str, token: str | None) -> tuple[int, bytes]:
        status = statuses.get(path, 200 if path in known else 404)
        return status, known[path] if status == 200 else json.dumps(refusal).encode()

    with answering(answer) as address:
        yield address, statuses


@pytest.fixture
def planted(finished: OnboardConfig, tmp_path: Path) -> Iterator[Running]:
    """The registry of a tenant whose every text holds a planted word."""
    shutil.copytree(Path(finished.workspace) / EMBEDDED_REGISTRY, tmp_path / "planted")
    running = Running(tmp_path / "planted")
    yield running
    running.close()


def test_tenants_are_shown_with_health_error_and_drift(
    operator: Operator, family: list[Manifest], endpoint: tuple[str, dict[str, int]]
) -> None:
    address, statuses = endpoint
    browser = browser_of(replace(operator, serving=address))
    shown = text_of(browser.get("/"))
    assert "3 tenants have published adapters" in shown
    assert f"baker 1 {family[0].version[:12]} active fails : no adapter is live" in shown
    assert f"cooper 1 {family[1].version[:12]} active ok 12.5% (bound 25.0%) 10.0%" in shown
    assert "drifted, 0.40" in shown
    statuses["/v1/tenants/cooper"] = 401  # the token opens the metrics alone
    assert "drifted, 0.51" in text_of(browser.get("/"))
    gone = browser_of(replace(operator, serving="http://127.0.0.1:1"))
    assert "nothing listens there" in text_of(gone.get("/"))
    assert "start it with --serving URL" in text_of(browser_of(operator).get("/"))


def test_versions_are_listed_and_one_is_drawn_among_its_relatives(
    operator: Operator, family: list[Manifest]
) -> None:
    browser = browser_of(operator)
    listed = text_of(browser.get("/versions"))
    assert all(one.version[:12] in listed for one in family)
    only = text_of(browser.get("/versions?tenant=baker"))
    assert family[0].version[:12] in only and family[1].version[:12] not in only
    page = browser.get(path_of(family[1].ref)).text
    for one in family:
        assert f'<a href="{path_of(one.ref)}"' in page
    assert page.count('class="edge"') == 2 and page.count("node this") == 1


def test_the_picture_has_every_relative_and_who_taught_whom(
    registry: Running, family: list[Manifest]
) -> None:
    found = read_lineage(registry.client, family[2].ref)
    refs = [one.ref for one in family]
    assert dict(found.levels) == {refs[2]: 0, refs[1]: -1, refs[0]: -2} and found.left_out == 0
    assert sorted(found.edges, key=str) == sorted([(refs[0], refs[1]), (refs[1], refs[2])], key=str)


def test_a_long_name_is_cut_in_the_picture_and_whole_in_its_label() -> None:
    ref = VersionRef(tenant="t" * 60, adapter="faq", version="a" * 64)
    drawn = picture(Lineage({ref: 0}, (), 0))
    assert f">{'t' * 21}…<" in drawn and f'aria-label="{ref.tenant} faq' in drawn


def test_a_version_is_released_from_quarantine_and_withdrawn_as_by_the_commands(
    registry: Running, operator: Operator, family: list[Manifest]
) -> None:
    publish_crowd(registry, 3)
    strong, payload = too_strong(50, tenant="strong")
    registry.client.publish(strong, payload)
    browser = browser_of(operator)
    assert strong.version[:12] in text_of(browser.get("/quarantine"))
    assert "strongest layer" in text_of(browser.get(path_of(strong.ref)))
    assert "may teach now" in text_of(browser.post(f"{path_of(strong.ref)}/release"))
    assert registry.client.describe(strong.ref).state == "active"
    assert "There is none" in text_of(browser.get("/quarantine"))
    again = browser.post(f"{path_of(strong.ref)}/release")
    assert again.status_code < 500 and again.status_code != 403
    path = path_of(family[0].ref)
    refused = browser.post(f"{path}/withdraw", reason="  ")
    assert refused.status_code == 422 and "Give the reason" in text_of(refused)
    told = text_of(browser.post(f"{path}/withdraw", reason="a <b>wrong</b> licence"))
    assert "withdrawn for ever" in told and "a <b>wrong</b> licence" in told
    assert registry.client.describe(family[0].ref).state == "withdrawn"
    student = text_of(browser.get(path_of(family[2].ref)))
    assert f"It learnt from a version that is withdrawn: {family[0].ref.name}" in student


def test_the_audit_log_is_verified_and_shown(
    registry: Running, operator: Operator, family: list[Manifest], tmp_path: Path
) -> None:
    key = tmp_path / "public.pem"
    key.write_bytes((registry.root / "audit" / "public.pem").read_bytes())
    shown = text_of(browser_of(operator).get("/audit"))
    assert "are unchanged" in shown and family[2].ref.name in shown and "log itself names" in shown
    trusting = browser_of(replace(operator, public_keys=(key,)))
    assert "signed by the given keys" in text_of(trusting.get("/audit"))
    log = registry.root / "audit" / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"baker", b"maker", 1))
    assert "The log was changed. line" in text_of(trusting.get("/audit"))


def test_metrics_are_numbers_by_name(
    operator: Operator, endpoint: tuple[str, dict[str, int]]
) -> None:
    browser = browser_of(replace(operator, serving=endpoint[0], metrics="http://127.0.0.1:1"))
    shown = text_of(browser.get("/metrics"))
    assert "requests outcome OK, replica r 7 Requests by outcome." in shown
    assert "request_seconds: number replica r 4" in shown
    assert "request_seconds: mean replica r 0.5" in shown
    assert "python_info" not in shown and "nothing listens there" in shown
    assert "start it with --metrics URL" in text_of(browser_of(operator).get("/metrics"))


def test_what_the_console_was_not_told_of_is_said_with_the_option() -> None:
    browser = browser_of(Operator())
    for path, option in (("/", "--registry"), ("/versions", "--registry"), ("/audit", "--root")):
        found = browser.get(path)
        assert found.status_code == 422 and f"start it with {option}" in text_of(found)


def test_a_registry_out_of_reach_is_told_in_a_sentence(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapterdistill.console.operator._TIMEOUT_S", 0.3)
    browser = browser_of(replace(operator, registry="127.0.0.1:1"))
    found = browser.get("/versions")
    assert found.status_code == 502 and "127.0.0.1:1" in text_of(found)


@pytest.mark.parametrize("version", ["x", "..", "a" * 63, "a" * 64])
def test_a_version_that_is_not_there_leads_nowhere(operator: Operator, version: str) -> None:
    browser = browser_of(operator)
    for path in (f"/versions/acme/faq/{version}", f"/versions/%2e%2e/faq/{version}"):
        assert browser.get(path).status_code == 404
    assert browser.get("/versions?tenant=..").status_code == 422


def test_no_page_of_an_operator_holds_a_text_of_a_tenant(
    planted: Running, endpoint: tuple[str, dict[str, int]]
) -> None:
    places = Operator(planted.address, root=planted.root, serving=endpoint[0])
    browser = browser_of(places)
    [manifest] = planted.client.list()
    for path in (*PATHS, path_of(manifest.ref)):
        found = browser.get(path)
        assert found.status_code == 200 and "zanzibar" not in found.text.lower()
    for path in ("/ask", "/questions/acme", "/runs", "/releases/acme"):
        assert browser.get(path).status_code == 404
