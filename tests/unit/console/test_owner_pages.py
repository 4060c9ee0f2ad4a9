"""An owner's pages: what they show, and that each change is that of the command."""

import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from adapterdistill.console.owner import REPORT_POLICY, Owner
from adapterdistill.console.progress import read_progress
from adapterdistill.data import TenantDataset
from adapterdistill.feedback import opened
from adapterdistill.library import load
from adapterdistill.serve.http.schema import TenantStatus
from adapterdistill.store.release import Candidate, bundles_of, read_release
from tests.serving_store import write_damaged_release
from tests.unit.console.conftest import KEPT, Browser, answering, browser_of, text_of


def run_folder(owner: Owner) -> Path:
    [folder] = (owner.workspace / "acme" / "runs").iterdir()
    return folder


def unfinished(owner: Owner) -> Path:
    """Another run, which has finished two stages a while ago."""
    kept = run_folder(owner)
    folder = kept.with_name("0123456789abcdef")
    (folder / "stages").mkdir(parents=True)
    for name in ("validated.json", "fetched.json"):
        shutil.copy(kept / "stages" / name, folder / "stages" / name)
        os.utime(folder / "stages" / name, (1e9, 1e9))
    (folder / "lock").touch()
    os.utime(folder, (1e9, 1e9))
    return folder


@pytest.fixture
def bundles(owner: Owner) -> tuple[str, str]:
    """The live bundle and the other one."""
    live = read_release(owner.store, "acme").bundle
    [other] = [name for name, _ in bundles_of(owner.store, "acme") if name != live]
    return live, other


def test_the_overview_has_the_run_the_live_bundle_and_the_questions(
    browser: Browser, owner: Owner, bundles: tuple[str, str]
) -> None:
    shown = text_of(browser.get("/"))
    assert run_folder(owner).name in shown and "finished" in shown and "went live" in shown
    assert f"{bundles[0][:12]}{bundles[0][64:]}" in shown
    assert "Questions without a label 2" in shown


def test_an_empty_workspace_says_what_begins_a_run(tmp_path: Path) -> None:
    browser = browser_of(Owner(tmp_path / "none", tmp_path / "nothing"))
    assert "adapterdistill onboard" in text_of(browser.get("/"))
    assert "no run yet" in text_of(browser.get("/runs"))
    assert "Nothing is served yet" in text_of(browser.get("/ask"))
    assert browser.get("/releases").status_code == browser.get("/questions").status_code == 200


def test_a_finished_run_shows_the_lines_that_the_command_prints(
    browser: Browser, owner: Owner
) -> None:
    name = run_folder(owner).name
    shown = text_of(browser.get(f"/runs/acme/{name}"))
    assert "9 of 9" in shown and "The run has finished. The" in shown
    assert "5 FAQs, 15 train, 5 valid, 5 test" in shown and "best of 4 steps is" in shown
    listed = text_of(browser.get("/runs"))
    assert name in listed and "9 of 9" in listed and "No run is at work" in listed


def test_a_run_is_at_work_as_long_as_a_process_holds_its_lock(
    browser: Browser, owner: Owner
) -> None:
    folder = unfinished(owner)
    path = f"/runs/acme/{folder.name}"
    assert "No process works on the run" in text_of(browser.get(path))
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shown = text_of(browser.get(path))
        assert "2 of 9 stages are done, extract is at work." in shown
        row = {"stage": "extract", "step": 23, "loss": 0.4123}
        (folder / "tracking.jsonl").write_text(json.dumps(row) + "\n")
        os.utime(folder, (1e9, 1e9))
        shown = text_of(browser.get(path))
        assert "extract is at work (gradient step 23, loss 0.4123)." in shown
        listed = text_of(browser.get("/runs"))
        assert f"acme {folder.name} is running: 2 of 9 stages are done." in listed
    assert "No process works on the run" in text_of(browser.get(path))


def test_the_page_of_a_run_is_told_only_of_changes(browser: Browser, owner: Owner) -> None:
    folder = unfinished(owner)
    for path in (f"/runs/acme/{folder.name}", "/runs"):
        page = browser.get(path)
        again = page.text.split('hx-get="')[1].split('"')[0]
        assert again.startswith(f"{path}?seen=")
        assert browser.get(again, **{"HX-Request": "true"}).status_code == 204
    shutil.copy(run_folder_of(owner, "extracted.json"), folder / "stages" / "extracted.json")
    part = browser.get(again, **{"HX-Request": "true"})
    assert part.status_code == 200 and "3 of 9" in part.text
    assert "<html" not in part.text and 'hx-swap-oob="innerHTML"' in part.text


def run_folder_of(owner: Owner, record: str) -> Path:
    [file] = [
        path / "stages" / record
        for path in (owner.workspace / "acme" / "runs").iterdir()
        if (path / "bundled.json").exists() or (path / "stages" / "bundled.json").exists()
    ]
    return file


def test_trainings_are_plotted_with_their_ends(browser: Browser, owner: Owner) -> None:
    folder = run_folder(owner)
    path = f"/runs/acme/{folder.name}"
    file = folder / "tracking.jsonl"
    file.unlink()
    assert "<svg" not in browser.get(path).text  # a run without such a file
    rows = [{"stage": "extract", "step": n, "loss": 2.5 - n / 1000} for n in range(1, 1001)]
    rows += [{"stage": "extract", "step": 0, "held_out_score": 1}, {"stage": "x", "loss": 3.0}]
    lines = [json.dumps(row) for row in rows]
    file.write_text("\n".join([*lines, "[]", '{"stage": "extr']))
    page = browser.get(path).text
    assert page.count("<svg") == 1  # a plot of one point would say nothing
    assert "extract: loss by gradient step: 2.499 at step 1, 1.5 at step 1000" in page
    assert all(f">{end}<" in page for end in ("2.499", "1.5", "step 1", "step 1000"))
    assert len(page.split('points="')[1].split('"')[0].split()) < 400
    rows = [{"stage": "<b>", "step": n, "held_out_score": 0.5} for n in (3, 3)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert "<b>" not in browser.get(path).text


def test_the_newest_run_comes_first(owner: Owner) -> None:
    old = unfinished(owner).name
    assert [run.name for run in read_progress(owner.workspace, "acme")][-1] == old


def test_the_report_is_the_commands_page_under_a_policy_without_scripts(
    browser: Browser, owner: Owner
) -> None:
    folder = run_folder(owner)
    found = browser.get(f"/runs/acme/{folder.name}/report")
    assert found.text == (folder / "report.html").read_text("utf-8")
    assert found.headers["content-security-policy"] == REPORT_POLICY
    assert "script-src" not in REPORT_POLICY and "sandbox" in REPORT_POLICY
    assert "zanzibar" in found.text
    assert "zanzibar" not in browser.get(f"/runs/acme/{folder.name}/report?texts=false").text
    other = unfinished(owner).name
    compared = browser.get(f"/runs/acme/{folder.name}/report?compare={other}")
    assert f"Compared with run {other}" in compared.text
    assert browser.get(f"/runs/acme/{folder.name}/report?compare=zz").status_code == 422


def test_a_candidate_goes_all_the_way_and_back(
    browser: Browser, owner: Owner, bundles: tuple[str, str]
) -> None:
    live, other = bundles
    page = browser.post("/releases/acme/try", bundle=other, mode="shadow", percent="50")
    assert "tried as a shadow on 50.0%" in text_of(page)
    expected = Candidate(bundle=other, share=0.5, mode="shadow")
    assert read_release(owner.store, "acme").candidate == expected
    browser.post("/releases/acme/try", bundle=other, mode="canary", percent="2.5")
    expected = Candidate(bundle=other, share=0.025, mode="canary")
    assert read_release(owner.store, "acme").candidate == expected
    assert "is live now" in text_of(browser.post("/releases/acme/promote"))
    release = read_release(owner.store, "acme")
    assert (release.bundle, release.before, release.candidate) == (other, live, None)
    assert "was rolled back at" in text_of(browser.post("/releases/acme/rollback"))
    release = read_release(owner.store, "acme")
    assert release.bundle == live and release.rolled_back_at(other) is not None
    browser.post("/releases/acme/try", bundle=other, mode="canary", percent="10")
    assert "no longer tried" in text_of(browser.post("/releases/acme/drop"))
    assert read_release(owner.store, "acme").candidate is None


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        ("promote", {}, "there is no candidate"),
        ("drop", {}, "there is no candidate"),
        ("rollback", {}, "nothing to roll back to"),
        ("try", {"mode": "canary", "percent": "10"}, "Choose one of the tenant's bundles"),
        ("try", {"mode": "canary", "percent": "10", "bundle": "../../x"}, "Choose one of"),
        ("try", {"mode": "live", "percent": "10", "bundle": "live"}, "Choose canary or shadow"),
        ("try", {"mode": "shadow", "percent": "ten", "bundle": "other"}, "from 0 to 100"),
        ("try", {"mode": "shadow", "percent": "101", "bundle": "other"}, "from 0 to 1"),
        ("try", {"mode": "shadow", "percent": "nan", "bundle": "other"}, "from 0 to 1"),
        ("try", {"mode": "shadow", "percent": "10", "bundle": "live"}, "is live already"),
        ("try", {"mode": "shadow", "percent": "1", "bundle": "f" * 64 + "-" + "0" * 12}, "acme"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused_in_a_sentence(
    browser: Browser,
    owner: Owner,
    bundles: tuple[str, str],
    path: str,
    fields: dict[str, str],
    said: str,
) -> None:
    before = read_release(owner.store, "acme")
    named = dict(zip(("live", "other"), bundles, strict=True))
    sent = {
        key: named.get(value, value) if key == "bundle" else value for key, value in fields.items()
    }
    found = browser.post(f"/releases/acme/{path}", **sent)
    assert 400 <= found.status_code < 500 and said in text_of(found)
    assert "This cannot be done" in found.text and read_release(owner.store, "acme") == before


def test_a_damaged_release_is_told_and_the_other_pages_stay(browser: Browser, owner: Owner) -> None:
    write_damaged_release(owner.store, "acme", "{")
    for path in ("/", "/releases"):
        found = browser.get(path)
        assert found.status_code == 200 and "live/acme.json is damaged" in text_of(found)
    found = browser.get("/releases/acme")
    assert found.status_code == 409 and "live/acme.json is damaged." in text_of(found)


def test_kept_questions_are_labelled_as_the_command_does(browser: Browser, owner: Owner) -> None:
    page = browser.get("/questions/acme")
    assert KEPT not in page.text and "do you mend a &lt;b&gt;kite&lt;/b&gt;?" in page.text
    first, second = (hashlib.sha256(text.encode()).hexdigest() for text in (KEPT, "odd"))
    assert page.text.index(first) < page.text.index(second)  # said to be wrong
    told = browser.post("/questions/acme/label", question=first, right="faq:faq-0")
    assert "The label is kept" in text_of(told) and "1 without a label, 1 with one" in text_of(told)
    browser.post("/questions/acme/label", question=second, right="none")
    with opened(owner.store, "acme") as feedback:
        labels = {one.text: one.label for one in feedback.questions()}
    assert labels == {KEPT: "faq-0", "odd": ""}
    assert owner.data is not None
    assert "2 questions were added" in text_of(browser.post("/questions/acme/export"))
    added = {one.text: (one.faq_id, one.split) for one in TenantDataset.open(owner.data).queries()}
    assert (added[KEPT], added["odd"]) == (("faq-0", "train"), (None, "train"))
    assert "No question waits" in text_of(browser.get("/questions/acme"))


@pytest.mark.parametrize(
    ("question", "right", "said"),
    [
        (KEPT, "", "Choose the FAQ"),
        (KEPT, "faq:no-such", "Choose the FAQ"),
        (KEPT, "other", "Choose the FAQ"),
        ("never asked", "none", "no longer kept"),
    ],
)
def test_a_label_that_means_nothing_is_refused(
    browser: Browser, question: str, right: str, said: str
) -> None:
    key = hashlib.sha256(question.encode()).hexdigest()
    found = browser.post("/questions/acme/label", question=key, right=right)
    assert 400 <= found.status_code < 500 and said in text_of(found)


def test_labels_cannot_be_exported_without_a_folder_of_data(owner: Owner) -> None:
    browser = browser_of(replace(owner, data=None))
    assert "adapterdistill feedback export" in text_of(browser.get("/questions/acme"))
    found = browser.post("/questions/acme/export")
    assert found.status_code == 422 and "give --config" in text_of(found)


def test_a_question_is_answered_by_the_bundle_with_what_each_view_says(
    browser: Browser, owner: Owner, bundles: tuple[str, str]
) -> None:
    model = load(owner.store / "acme", encoder=owner.encoder, dtype=owner.dtype)
    expected = model.search("where is <i>kite</i>", explain=True)
    for headers, whole in (({}, True), ({"HX-Request": "true"}, False)):
        fields = {"csrf": browser.access.csrf, "tenant": "acme", "question": "where is <i>kite</i>"}
        found = browser.client.post(
            "/ask", data=fields, headers={"Origin": "http://127.0.0.1:8765", **headers}
        )
        assert ("<html" in found.text) is whole
        shown = text_of(found)
        assert "where is <i>kite</i>" in shown and bundles[0][:12] in shown
        for faq in expected.ranked:
            assert f"{faq.question} {faq.faq_id} {faq.score:.3f}" in shown
        for view in expected.ranked[0].views:
            assert f'<th scope="col" class="number">{view}</th>' in found.text
        assert f"The view {expected.decided_by} puts it furthest ahead" in shown
    found = browser.post("/ask", tenant="acme", question="kite", alias="canary")
    assert found.status_code == 404 and "no candidate" in text_of(found)
    browser.post("/releases/acme/try", bundle=bundles[1], mode="canary", percent="10")
    found = browser.post("/ask", tenant="acme", question="kite", alias="canary")
    assert bundles[1][:12] in text_of(found)


@pytest.mark.parametrize("question", ["", "  ", "x" * 2001])
def test_a_question_without_text_or_without_end_is_refused(browser: Browser, question: str) -> None:
    found = browser.post("/ask", tenant="acme", question=question)
    assert found.status_code == 422 and "1 to 2000 characters" in text_of(found)
    assert browser.post("/ask", tenant="brook", question="hi").status_code == 404


STATUS = {
    "tenant": "acme",
    "adapter": {"name": "faq", "version": "ab" * 32, "form": "adapter", "alias": "live"},
    "encoder": "tiny",
    "num_faqs": 5,
    "threshold": 0.3,
    "quality": {
        "queries": 40,
        "share_answered": 0.9,
        "expected_error": 0.125,
        "expected_error_bound": 0.25,
    },
    "drift": {
        "queries": 77,
        "share_abstained": 0.1,
        "psi": 0.4,
        "expected_psi": 0.1,
        "drifted": True,
    },
    "candidate": {
        "version": "cd" * 32,
        "mode": "shadow",
        "share": 1.0,
        "state": "served",
        "comparison": {
            "queries": 30,
            "same_best": 0.9,
            "same_abstention": 0.8,
            "mean_score_difference": 0.021,
        },
    },
}


def test_a_release_shows_the_endpoints_figures(owner: Owner) -> None:
    sent: list[str | None] = []
    answers: list[tuple[int, object]] = [(200, STATUS)]

    def answer(path: str, token: str | None) -> tuple[int, bytes]:
        assert path == "/v1/tenants/acme"
        sent.append(token)
        return answers[-1][0], json.dumps(answers[-1][1]).encode()

    with answering(answer) as address:
        browser = browser_of(replace(owner, serving=address, token="adt_secret"))
        page = browser.get("/releases/acme")
        shown = text_of(page)
        assert sent == ["Bearer adt_secret"] and "adt_secret" not in page.text
        assert "12.5% (95% bound 25.0%, 40 held-out queries)" in shown
        assert "drifted (index 0.40)" in shown and "recent queries 77" in shown
        assert "questions that both answered 30" in shown and "the same FAQ first 90.0%" in shown
        answers.append((401, {"reason": "UNAUTHENTICATED", "message": "a valid token is needed"}))
        assert "a valid token is needed" in text_of(browser.get("/releases/acme"))
        for status in (200, 500):
            answers.append((status, ["something else"]))
            assert "is not an AdapterDistill server" in text_of(browser.get("/releases/acme"))


def test_the_endpoints_answer_here_has_the_fields_of_a_real_one() -> None:
    assert TenantStatus.model_validate(STATUS).model_dump(mode="json") == STATUS


def test_what_nobody_expected_is_told_without_its_details(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("zanzibar")

    monkeypatch.setattr("adapterdistill.console.starting.read_progress", fail)
    browser = browser_of(owner)
    client = TestClient(
        browser.client.app, base_url=str(browser.client.base_url), raise_server_exceptions=False
    )
    client.cookies.set(browser.access.cookie, browser.access.session)
    found = client.get("/runs")
    assert found.status_code == 500 and "The console failed" in text_of(found)
    assert "zanzibar" not in found.text and "content-security-policy" in found.headers


def test_an_endpoint_out_of_reach_is_told_in_a_sentence(owner: Owner) -> None:
    browser = browser_of(replace(owner, serving="http://127.0.0.1:1"))
    found = browser.get("/releases/acme")
    assert found.status_code == 200 and "nothing listens there" in text_of(found)
    found = browser.post("/ask", tenant="acme", question="hi")
    assert found.status_code == 409 and "No answer from http://127.0.0.1:1" in text_of(found)
