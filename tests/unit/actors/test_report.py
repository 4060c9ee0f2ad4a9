"""The report of a run: what is on the page, what is not, and who may read it."""

import json
import shutil
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy.stats import binomtest

from adapterdistill import cli
from adapterdistill.actors.report.costs import bins, choices, cost_at, curve, wilson
from adapterdistill.actors.report.differences import difference
from adapterdistill.actors.report.findings import Findings
from adapterdistill.actors.report.findings import Query as Ranked
from adapterdistill.actors.report.page import shown
from adapterdistill.actors.report.plots import reliability, thresholds
from adapterdistill.actors.report.runs import Run, read_runs
from adapterdistill.confidence import Calibration
from adapterdistill.config import OnboardConfig
from adapterdistill.data import Faq, Query
from adapterdistill.data.dataset import write_tenant
from adapterdistill.errors import NotServedError
from tests.contract.running_registry import Running
from tests.owner_runs import run_of, run_through
from tests.unit.actors.test_what_is_served import (
    OUTSIDE,
    WORDS,
    Arriving,
    arriving,
    queries_of,
)

__all__ = ["arriving"]

HOSTILE = '<script>alert("x")</script><img src=x onerror=y> {{ 7 * 7 }} \N{RIGHT-TO-LEFT OVERRIDE}'
ASKS = {"script", "link", "img", "iframe", "object", "embed", "form", "input", "a", "base", "audio"}
"""Elements that run code, or ask for a file."""


class Elements(HTMLParser):
    """Collects a page's elements, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def of_tenant(config: OnboardConfig) -> Path:
    return Path(config.workspace) / config.tenant


def mistaken(split: str) -> list[Query]:
    """Queries, every last one of a word labelled with the FAQ of the next word."""
    return queries_of(4, split, lambda word, n: ((word + (n == 3)) % len(WORDS),))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_folder: Path) -> OnboardConfig:
    """The config of a tenant's second run, of rows that hold markup; both have finished."""
    home = tmp_path_factory.mktemp("hostile")
    registry = Running(home / "registry")
    config = run_of(home, "fletcher", encoder=tiny_encoder_folder, registry=registry.address)
    planted = [
        Query("bad-1", f"refund refund {HOSTILE}", "faq-3", "valid"),
        Query("bad-2", f"zyx {HOSTILE}", None, "unlabelled"),
        *(Query(f"out-{n}", text, None, "train") for n, text in enumerate(OUTSIDE)),
    ]
    faqs = [Faq(f"faq-{n}", word, None) for n, word in enumerate(WORDS)]
    for more in ([], [*planted, *queries_of(2, "test")]):
        shutil.rmtree(config.data, ignore_errors=True)
        write_tenant(Path(config.data), faqs, [*mistaken("train"), *mistaken("valid"), *more])
        run_through(config)
    registry.close()
    return config


def ran(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", *args])
    printed = capfd.readouterr()
    return int(ended.value.code or 0), printed.out + printed.err


def test_texts_of_strangers_are_shown_and_never_markup(hostile: OnboardConfig) -> None:
    page = (of_tenant(hostile) / "report.html").read_text()
    found = Elements(page)
    assert 'alert("x")' in found.text and "{{ 7 * 7 }}" in found.text
    assert not found.names & ASKS and "49" not in found.text.split("{{ 7 * 7 }}")[0][-9:]
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page
    assert shown("a\x07b\n\N{ZERO WIDTH JOINER}") == "a\ufffdb\n\N{ZERO WIDTH JOINER}"


def test_the_page_asks_for_nothing_and_forbids_it(hostile: OnboardConfig) -> None:
    page = (of_tenant(hostile) / "report.html").read_text()
    found = Elements(page)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in found.attributes
    assert not {name for name, _ in found.attributes} & {"src", "href", "srcset", "action", "data"}
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style and "//" not in style
    assert "prefers-color-scheme: dark" in style


def test_the_page_says_what_was_decided_what_fails_and_what_to_label(
    hostile: OnboardConfig,
) -> None:
    text = Elements((of_tenant(hostile) / "report.html").read_text()).text
    run = read_runs(Path(hostile.workspace), "fletcher")[0]
    assert run.findings is not None and " live, because " in text
    wrong = [one for one in run.findings.held_out if one.right and not one.is_right]
    assert wrong and all(one.text.split(HOSTILE)[0] in text for one in wrong)
    for heading in (
        *("Accuracy", "Teachers", "Held-out queries that fail", "FAQs that overlap"),
        *("What to label next", "What each choice costs", "Seconds and memory"),
    ):
        assert heading in text
    for name in (
        "bare encoder, questions alone",
        "own adapter",
        "bare encoder with head",
        "(served)",
    ):
        assert name in text
    assert "zyx" in text  # an unlabelled query near the threshold


def test_only_the_owner_may_read_what_holds_texts(hostile: OnboardConfig) -> None:
    run = read_runs(Path(hostile.workspace), "fletcher")[0].folder
    files = [run / name for name in ("findings.json", "report.html", "report.json")]
    for file in (*files, of_tenant(hostile) / "report.html"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    figures = (run / "report.json").read_text()
    assert not [word for word in (*WORDS, "faq-", "script") if word in figures]
    assert json.loads(figures)["run"] == run.name


def test_without_texts_neither_queries_nor_ids_are_on_the_page(
    hostile: OnboardConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shown.html"
    workspace = ("--workspace", hostile.workspace)
    code, printed = ran(capfd, "fletcher", *workspace, "--no-texts", "--out", str(out))
    assert (code, printed.strip()) == (0, str(out))
    page = out.read_text()
    assert not [word for word in (*WORDS, "faq-", "alert", "zyx", "please") if word in page]
    assert "FAQ 3" in page and " live, because " in page


def test_every_run_keeps_its_report_and_is_compared_with_the_version_before(
    hostile: OnboardConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    newest, oldest = read_runs(Path(hostile.workspace), "fletcher")
    assert all((run.folder / "report.json").is_file() for run in (newest, oldest))
    text = Elements((of_tenant(hostile) / "report.html").read_text()).text
    assert f"Compared with run {oldest.name}" in text
    workspace = ("--workspace", hostile.workspace)
    code, printed = ran(capfd, "fletcher", *workspace, "--format", "json")
    compared = json.loads(printed)["compared"]
    assert code == 0 and compared["with"] == oldest.name
    assert compared["changes"]["queries out of scope"] == {"before": "0", "now": str(len(OUTSIDE))}
    code, printed = ran(
        capfd, f"fletcher/{oldest.name[:8]}", *workspace, "--compare", newest.name[:8]
    )
    assert (code, printed.strip()) == (0, str(oldest.folder / "report.html"))
    assert f"Compared with run {newest.name}" in (oldest.folder / "report.html").read_text()


def test_queries_that_were_mended_or_broken_are_told_by_their_texts() -> None:
    def run(*queries: Ranked) -> Run:
        findings = Findings(faqs=(), held_out=queries, unsure=(), pairs=(), usual_cosine=None)
        return Run("acme", Path("0123"), {}, findings, None)

    before = run(ranked(0.5, False, "a"), ranked(0.5, True, "b"), ranked(0.5, True, "c"))
    found = difference(run(ranked(0.5, True, "a"), ranked(0.5, False, "b")), before)
    assert (found.mended, found.broken, found.compared) == (("a",), ("b",), 2)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("nobody", [], "holds no run of tenant 'nobody'"),
        ("../..", [], "holds no run of tenant"),
        ("fletcher/zz", [], "no run matches 'zz': there are"),
        ("fletcher/", [], "no run matches ''"),
        ("fletcher", ["--compare", "zz"], "no run matches 'zz'"),
        ("fletcher", ["--out", "nowhere/at/all.html"], "cannot write nowhere/at/all.html"),
    ],
)
def test_a_wrong_name_is_said_with_what_there_is(
    hostile: OnboardConfig,
    capfd: pytest.CaptureFixture[str],
    name: str,
    more: list[str],
    words: str,
) -> None:
    code, printed = ran(capfd, name, "--workspace", hostile.workspace, *more)
    assert code == 2 and words in printed and printed.startswith("error [INVALID_CONFIG]")


def test_a_run_that_is_not_served_has_a_report_that_says_so(arriving: Arriving) -> None:
    config = arriving("a", *queries_of(5, "train", lambda word, n: ((word + n + 1) % len(WORDS),)))
    with pytest.raises(NotServedError):
        run_through(config)
    text = Elements((of_tenant(config) / "report.html").read_text()).text
    assert "it is not served, because the held-out queries are ranked no better" in text


def test_a_run_without_held_out_rows_has_a_page_without_plots(arriving: Arriving) -> None:
    config = arriving("a")
    run_through(config)
    page = (of_tenant(config) / "report.html").read_text()
    assert "<svg" not in page and "No row was held out" in page


def ranked(score: float, right: bool | None, text: str = "") -> Ranked:
    """A query; `right` None: it is out of scope."""
    return Ranked(text=text, right=() if right is None else (0,), found=int(not right), score=score)


QUERIES = [
    *(ranked(n / 40, right=n % 5 != 0) for n in range(40)),
    *(ranked(n / 40 + 0.01, None) for n in range(0, 20, 2)),
]


@pytest.mark.parametrize("cut", [-1.0, 0.0, 0.21, 0.5, 0.99, 2.0])
def test_costs_equal_a_plain_count(cut: float) -> None:
    inside = [one for one in QUERIES if one.right]
    outside = [one for one in QUERIES if not one.right]
    found = cost_at(QUERIES, cut)
    kept = [one for one in QUERIES if not one.score < cut]
    assert found.answered == pytest.approx(len([q for q in inside if q.score >= cut]) / 40)
    assert found.answers == len(kept)
    assert found.wrong == len([q for q in kept if q.right != (q.found,)])
    assert found.turned_away == pytest.approx(len([q for q in outside if q.score < cut]) / 10)
    if kept:
        exact = binomtest(found.wrong, found.answers).proportion_ci(0.9, "exact")
        assert found.wrong_bound == pytest.approx(float(exact.high), abs=1e-6)


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (5, 5), (3, 7), (70, 100)])
def test_intervals_are_those_of_wilson(right: int, rows: int) -> None:
    found, expected = (
        wilson(right / rows, rows),
        binomtest(right, rows).proportion_ci(0.95, "wilson"),
    )
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_choices_turn_more_away_the_fewer_wrong_answers_they_accept() -> None:
    found = choices(QUERIES, 0.3)
    assert [one.accepts for one in found if one.threshold == 0.3] == [None]
    accepting = sorted((one for one in found if one.accepts), key=lambda one: one.accepts or 0)
    assert [one.answered for one in accepting] == sorted(one.answered for one in accepting)
    assert choices([ranked(0.5, None)], 0.3) == []


def test_no_plot_has_one_point_only() -> None:
    same = [ranked(0.5, right=True)] * 8
    calibration = Calibration(
        slope=1, intercept=0, rows=8, answered=8, wrong=0, error_bound=0.4, edges=(), counts=()
    )
    assert thresholds(curve(same), 0.5, "") is None
    assert reliability(bins(same, calibration), "") is None


def test_a_plot_s_title_cannot_break_out_of_it() -> None:
    drawn = thresholds(curve(QUERIES), 0.5, "</title><script>")
    assert drawn is not None and "<script>" not in drawn and "&lt;script&gt;" in drawn
