"""What a run serves, what it refuses to serve, and what moves prototypes and threshold.

The tenants' texts repeat the FAQ's own word, which even the tiny encoder tells apart.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterdistill.actors.judging import PERHAPS_OUT_OF_SCOPE, _held
from adapterdistill.actors.onboarding import OnboardReport
from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.data import Faq, Query
from adapterdistill.data.dataset import write_tenant
from adapterdistill.distill.averaging import MovedAverage
from adapterdistill.distill.labels import labels_of
from adapterdistill.errors import NotServedError
from adapterdistill.evaluation.arrival import Judged
from adapterdistill.evaluation.scorer import HeldOutScores, Scores, unpack_scorer
from adapterdistill.evaluation.tenant_texts import TenantTexts
from adapterdistill.manifest import VersionRef
from adapterdistill.store.bundle import Bundle, read_bundle
from adapterdistill.store.release import live_bundle
from tests.contract.running_registry import Running
from tests.owner_runs import run_of, run_through
from tests.random_scorers import random_scorer
from tests.tiny_encoders import random_adapter

WORDS = ("refund", "parking", "password", "opening", "voucher", "invoice")
Arriving = Callable[..., OnboardConfig]
OUTSIDE = tuple(f"{word[:3]} please tell {letter}" for word in WORDS for letter in "bc")
"""Near the FAQs, and about something else."""


def queries_of(
    count: int, split: str, right: Callable[[int, int], Sequence[int]] = lambda word, n: (word,)
) -> list[Query]:
    """`count` queries of each word; `right` says which FAQs answer the n-th of a word."""
    found = []
    for word, text in enumerate(WORDS):
        for n in range(count):
            faq, *further = (f"faq-{place}" for place in right(word, n))
            found.append(
                Query(
                    f"{split}-{text}-{n}",
                    f"{text} {text} {'abcdefghijkl'[n]}{split[0]}",
                    None if split == "unlabelled" else faq,
                    split,
                    () if split == "unlabelled" else tuple(further),
                )
            )
    return found


@pytest.fixture
def arriving(tmp_path: Path, tiny_encoder_folder: Path, registry: Running) -> Arriving:
    """Write a tenant of one FAQ a word, in a folder `home`, and give the config of its run."""

    def make(
        home: str, *queries: Query, run: dict[str, Any] | None = None, outside: Sequence[str] = ()
    ) -> OnboardConfig:
        faqs = [Faq(f"faq-{n}", word, None) for n, word in enumerate(WORDS)]
        out = [Query(f"out-{n}", text, None, "train") for n, text in enumerate(outside)]
        write_tenant(tmp_path / home / "data" / "fletcher", faqs, [*queries, *out])
        config = run_of(
            tmp_path / home,
            "fletcher",
            encoder=tiny_encoder_folder,
            registry=registry.address,
            **(run or {}),
        )
        return config.model_copy(update={"serving_store": str(tmp_path / "serving")})

    return make


def bundle_of(config: OnboardConfig, report: OnboardReport) -> Bundle:
    return read_bundle(Path(config.serving_store), config.tenant, report.bundle.bundle)


def ruinous(encoder: Encoder) -> BottleneckAdapter:
    """An adapter under which all texts look alike."""
    adapter = random_adapter(encoder, seed=9, bottleneck_size=4, scale=0.01)
    with torch.no_grad():
        adapter.up_bias += 1000 * torch.randn(
            adapter.hidden_size, generator=torch.Generator().manual_seed(0)
        )
    return adapter


def test_a_reference_that_ruins_the_ranking_is_not_served(
    arriving: Arriving, registry: Running, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = ruinous(tiny_encoder)
    monkeypatch.setattr(MovedAverage, "deployed", lambda _: spoilt)
    report, _ = run_through(arriving("a", *queries_of(6, "train")))
    found, choice = report.evaluate, report.decide.choice
    assert found.folds == 2 and found.rows == 36
    assert found.candidates["distilled"].difference == 0.0  # it is what others are compared with
    assert choice != "distilled" and "cross-entropy -" in report.decide.reason
    served, ruined = (
        found.candidates[name].held_out["mrr"].value for name in (choice, "distilled")
    )
    assert served > ruined
    payload = registry.client.fetch(VersionRef.parse(report.publish.name))[1]
    assert float(unpack_adapter(payload).up_bias.detach().abs().max()) < 10


def test_a_quarantined_adapter_is_served_only_once_it_is_released(
    arriving: Arriving, registry: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = arriving("a", *queries_of(2, "train"))
    store = Path(config.serving_store)
    live = run_through(config)[0].bundle.bundle
    unlike = arriving("b", *queries_of(3, "train"))
    with monkeypatch.context() as patch:
        patch.setattr(
            "adapterdistill.registry.server.service.outlier_reasons", lambda *_: ("strongest",)
        )
        for _ in range(2):  # submitted again, it is refused again
            with pytest.raises(NotServedError, match=r"in quarantine.*operator.*submit") as refused:
                run_through(unlike)
    assert (refused.value.exit_code, refused.value.reason) == (13, "NOT_SERVED")
    assert live_bundle(store, "fletcher") == live
    [version] = [
        manifest.ref
        for manifest in registry.client.list(tenant="fletcher", latest_only=False)
        if registry.client.describe(manifest.ref).state == "quarantined"
    ]
    registry.client.release_from_quarantine(version)
    report, _ = run_through(unlike)
    assert report.publish.name == version.name and not report.publish.quarantined
    assert live_bundle(store, "fletcher") == report.bundle.bundle != live


def test_rankings_at_chance_level_are_not_served_and_the_message_says_what_to_do(
    arriving: Arriving,
) -> None:
    config = arriving("a", *queries_of(2, "train"))
    live = run_through(config)[0].bundle.bundle
    shuffled = queries_of(5, "train", lambda word, n: ((word + n + 1) % len(WORDS),))
    with pytest.raises(NotServedError, match="no better than by chance") as refused:
        run_through(arriving("b", *shuffled))
    assert refused.value.exit_code == 13
    said = str(refused.value)
    assert "of 30 held-out queries" in said and "among 6 FAQs" in said
    assert "faq_id" in said and "adapterdistill data describe" in said
    assert not [word for word in (*WORDS, "faq-", "train-") if word in said]
    assert live_bundle(Path(config.serving_store), "fletcher") == live


def test_unlabelled_queries_refine_the_served_prototypes(arriving: Arriving) -> None:
    labelled = queries_of(2, "train")
    bundles = []
    for home, more in (("a", []), ("b", queries_of(4, "unlabelled"))):
        config = arriving(home, *labelled, *more)
        bundles.append(bundle_of(config, run_through(config)[0]))
    plain, refined = bundles
    assert plain.manifest.version == refined.manifest.version
    assert not torch.equal(plain.vectors, refined.vectors)
    torch.testing.assert_close(refined.vectors.norm(dim=1), torch.ones(len(WORDS)))


def test_unlabelled_queries_that_nobody_can_answer_are_listed_for_their_owner(
    arriving: Arriving,
) -> None:
    strange = [Query(f"strange-{n}", f"zyx {n} qwv", None, "unlabelled") for n in range(3)]
    config = arriving("a", *queries_of(4, "train"), *queries_of(2, "unlabelled"), *strange)
    report, lines = run_through(config)
    file = Path(config.workspace) / "fletcher" / PERHAPS_OUT_OF_SCOPE
    listed = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    assert len(listed) == report.evaluate.perhaps_out_of_scope
    assert {"zyx 0 qwv", "zyx 1 qwv", "zyx 2 qwv"} <= set(listed)
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"{len(listed)} unlabelled queries may be out of scope" in "".join(lines)
    assert not any("zyx" in line for line in lines)
    # A later run without such queries leaves no old list.
    run_through(
        arriving("b", *queries_of(4, "train")).model_copy(update={"workspace": config.workspace})
    )
    assert file.read_text() == ""


def test_own_out_of_scope_examples_move_the_threshold(arriving: Arriving) -> None:
    wordy = [
        Query(
            f"{word}-{n}", f"{word} {'please tell me about it'[: 6 * n + 6]}", f"faq-{faq}", "train"
        )
        for faq, word in enumerate(WORDS)
        for n in range(4)
    ]
    reports = [
        run_through(arriving(home, *wordy, outside=outside))[0]
        for home, outside in (("a", ()), ("b", OUTSIDE))
    ]
    plain, taught = (report.evaluate for report in reports)
    assert reports[0].publish.name == reports[1].publish.name
    assert plain.calibration is not None and taught.calibration is not None
    assert (plain.calibration.rows, taught.calibration.rows) == (24, 24 + len(OUTSIDE))
    assert taught.threshold > plain.threshold


def test_fewer_wrong_answers_cost_a_higher_threshold_also_in_a_run_done_before(
    arriving: Arriving,
) -> None:
    mixed = queries_of(4, "train", lambda word, n: ((word + (n == 3)) % len(WORDS),))
    config = arriving("a", *mixed)
    release = config.release.model_copy(update={"max_wrong_answers": 0.01})
    strict = config.model_copy(update={"release": release})
    free, bounded = (run_through(one)[0] for one in (config, strict))
    assert free.publish.name == bounded.publish.name
    assert bounded.bundle.threshold > free.bundle.threshold
    assert bundle_of(strict, bounded).threshold == bounded.bundle.threshold


def test_test_figures_count_every_right_faq(arriving: Arriving, tiny_encoder_folder: Path) -> None:
    def both(word: int, n: int) -> tuple[int, int]:
        return ((word + 1) % len(WORDS), word)

    test = queries_of(3, "test", both)
    config = arriving("a", *queries_of(2, "train"), *test)
    report, _ = run_through(config)
    bundle = bundle_of(config, report)
    assert bundle.scorer is not None
    encoder = load_encoder(str(tiny_encoder_folder), dtype="float32")
    texts = [query.text for query in test]
    vectors = encoder.embed_texts(texts, unpack_adapter(bundle.adapter_payload))
    total = unpack_scorer(bundle.scorer)(vectors, texts).total
    first, either = 0, 0
    for scores, query in zip(total.tolist(), test, strict=True):
        best = f"faq-{scores.index(max(scores))}"
        first += best == query.faq_id
        either += best in query.faq_ids
    assert first < either
    found = report.evaluate.candidates[report.decide.choice].test["top1"]
    assert (found.value, found.count) == (pytest.approx(either / 18, abs=1e-6), 18)


def test_held_out_figures_count_every_right_faq() -> None:
    right = labels_of([[0], [2, 1], [1]])
    texts = TenantTexts(
        ("a b", "b c", "c d"), ("x", "y", "z"), torch.tensor([0, 2, 1]), right=right
    )
    total = torch.tensor([[0.1, 0.9, 0.2], [0.1, 0.9, 0.2], [0.5, 0.4, 0.3]])
    none, rows = torch.zeros(0), torch.tensor([3, 4, 5])
    held = HeldOutScores(rows, texts.faqs, Scores(total, {}))
    scorer = random_scorer(3, 4, seed=0)
    judged = Judged(scorer, held, none, none, none, lambda _: held)
    assert _held(judged, texts).ranks.tolist() == [3, 1, 2]
