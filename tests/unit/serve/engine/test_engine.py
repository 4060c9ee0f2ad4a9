import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.errors import (
    EncoderMismatchError,
    InvalidPayloadError,
    ServingError,
    StoreError,
    UnknownTenantError,
)
from adapterdistill.evaluation.scorer import pack_scorer
from adapterdistill.serve.engine.engine import Engine, LiveTenant, SearchAnswer, SearchItem
from adapterdistill.store.bundle import write_bundle
from adapterdistill.store.release import set_live, take_down
from tests.random_scorers import random_scorer
from tests.random_variants import VARIANTS, make_variant_tenant
from tests.serving_store import (
    MadeTenant,
    make_tenant,
    put_live,
    save_tiny_encoder,
    stored_file,
    write_damaged_release,
)

TEXTS = [
    "where is my parcel",
    "hi",
    "can I pay by card at the counter?",
    "opening hours",
    "refund 7",
]


def serve_tenants(store: Path, encoder: Encoder, made: Sequence[MadeTenant]) -> Engine:
    for tenant in made:
        put_live(store, tenant)
    engine = Engine(encoder, store, retry_refused_s=0, capacity=2)
    engine.refresh()
    return engine


def answers(engine: Engine, items: Sequence[SearchItem]) -> list[SearchAnswer]:
    outcomes = engine.search(items)
    assert all(isinstance(outcome, SearchAnswer) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, SearchAnswer)]


def assert_answers_as(answer: SearchAnswer, made: MadeTenant, encoder: Encoder, text: str) -> None:
    expected = made.expected(encoder, text)
    assert (answer.tenant, answer.version) == (made.tenant, made.bundle.manifest.version)
    assert answer.variant == (made.bundle.variant.proven.kind if made.bundle.variant else "adapter")
    assert [r.faq_id for r in answer.ranked] == [faq_id for faq_id, _ in expected][
        : len(answer.ranked)
    ]
    for ranked, (_, score) in zip(answer.ranked, expected, strict=False):
        assert ranked.score == pytest.approx(score, abs=2e-5)


def test_mixed_batch_equals_each_adapter_alone(store: Path, encoder: Encoder) -> None:
    made = [
        make_tenant(encoder, f"tenant-{n}", seed=n, num_faqs=3 + n, bottleneck_size=4 + n)
        for n in range(7)
    ]
    engine = serve_tenants(store, encoder, made)
    asked = [(made[n % 7], TEXTS[n % len(TEXTS)]) for n in range(40)]
    items = [SearchItem(tenant.tenant, text, top_k=50) for tenant, text in asked]
    for answer, (tenant, text) in zip(answers(engine, items), asked, strict=True):
        assert len(answer.ranked) == len(tenant.bundle.faqs)
        assert_answers_as(answer, tenant, encoder, text)


def test_tenants_with_and_without_a_scorer_share_a_batch(store: Path, encoder: Encoder) -> None:
    made = [
        make_tenant(encoder, f"tenant-{n}", seed=n, num_faqs=3 + n, scorer=n % 2 == 0)
        for n in range(6)
    ]
    engine = serve_tenants(store, encoder, made)
    asked = [(made[n % 6], TEXTS[n % len(TEXTS)]) for n in range(30)]
    items = [SearchItem(tenant.tenant, text, top_k=50) for tenant, text in asked]
    found = answers(engine, items)
    for answer, (tenant, text) in zip(found, asked, strict=True):
        assert_answers_as(answer, tenant, encoder, text)
        assert all(faq.views is None for faq in answer.ranked)
    explained = answers(engine, [replace(item, explain=True) for item in items])
    for plain, answer, (tenant, _) in zip(found, explained, asked, strict=True):
        names = ["cosine"]
        if tenant.bundle.scorer is not None:
            names = ["cosine", "head", "characters", "answers"]
        assert [list(faq.views or ()) for faq in answer.ranked] == [names] * len(plain.ranked)
        assert [faq.faq_id for faq in answer.ranked] == [faq.faq_id for faq in plain.ranked]
        assert plain.decided_by is None
        assert answer.decided_by in ("cosine", "head", "characters", "answers")


def test_a_scorer_that_does_not_fit_its_bundle_is_refused(store: Path, encoder: Encoder) -> None:
    made = make_tenant(encoder, "acme", seed=1, scorer=True)
    whole = made.bundle.scorer
    assert whole is not None
    old = make_tenant(encoder, "acme", seed=2)
    for wrong, words in (
        (pack_scorer(random_scorer(4, encoder.hidden_size, seed=1)), r"prototypes are \(4, "),
        (pack_scorer(random_scorer(5, encoder.hidden_size + 1, seed=1)), "embedding size"),
        (whole[:-1], "not valid safetensors"),
        (made.bundle.adapter_payload, "not a list of texts"),
    ):
        engine = serve_tenants(store, encoder, [old])
        put_live(store, replace(made, bundle=replace(made.bundle, scorer=wrong)))
        with pytest.raises(ServingError, match=words):
            raise engine.refresh().refused["acme"]
        [answer] = answers(engine, [SearchItem("acme", "hi")])
        assert_answers_as(answer, old, encoder, "hi")


def test_the_wrong_adapter_would_be_noticed(store: Path, encoder: Encoder) -> None:
    """Control for the test above: another tenant's adapter gives clearly different scores."""
    one, two = (make_tenant(encoder, name, seed=seed) for name, seed in (("one", 1), ("two", 2)))
    engine = serve_tenants(store, encoder, [one, two])
    impostor = MadeTenant("one", two.adapter, one.bundle)
    for text in TEXTS:
        [answer] = answers(engine, [SearchItem("one", text, top_k=50)])
        wrong = dict(impostor.expected(encoder, text))
        assert max(abs(r.score - wrong[r.faq_id]) for r in answer.ranked) > 0.05


def test_a_batch_of_all_variants_equals_each_tenant_alone(store: Path, encoder: Encoder) -> None:
    made = [make_tenant(encoder, f"tenant-{n}", seed=n, bottleneck_size=4 + n) for n in range(3)]
    for n, form in enumerate([*VARIANTS, *VARIANTS]):
        made.append(make_variant_tenant(encoder, f"tenant-{form}-{n}", form, seed=10 + n))
    engine = serve_tenants(store, encoder, made)
    asked = [(made[(5 * n) % 9], TEXTS[n % len(TEXTS)]) for n in range(60)]
    items = [SearchItem(tenant.tenant, text, top_k=50) for tenant, text in asked]
    for answer, (tenant, text) in zip(answers(engine, items), asked, strict=True):
        assert_answers_as(answer, tenant, encoder, text)
    # Forms alone, without one adapter among them, and each form's scores as no other's.
    forms = [tenant for tenant in made if tenant.bundle.variant]
    for answer, tenant in zip(
        answers(engine, [SearchItem(tenant.tenant, "hi", top_k=50) for tenant in forms]),
        forms,
        strict=True,
    ):
        assert_answers_as(answer, tenant, encoder, "hi")
        plain = replace(tenant, adapter=unpack_adapter(tenant.bundle.adapter_payload))
        others = [replace(tenant, adapter=o.adapter) for o in forms if o is not tenant]
        for impostor in (plain, *others):
            wrong = dict(impostor.expected(encoder, "hi"))
            assert max(abs(r.score - wrong[r.faq_id]) for r in answer.ranked) > 0.02


@pytest.mark.parametrize("form", VARIANTS)
def test_a_form_that_is_not_what_its_bundle_says_is_refused(
    store: Path, encoder: Encoder, form: str
) -> None:
    made = make_variant_tenant(encoder, "acme", form, seed=1)
    bundled = made.bundle.variant
    assert bundled is not None
    old = make_tenant(encoder, "acme", seed=2)
    other = make_variant_tenant(encoder, "acme", form, seed=3).bundle.variant
    assert other is not None
    kind = "conditional" if form != "conditional" else "multitask_kd"
    renamed = bundled.proven.model_copy(update={"kind": kind})
    for wrong, error in (
        (replace(bundled, payload=other.payload), EncoderMismatchError),
        (replace(bundled, proven=renamed), ServingError),
        (replace(bundled, payload=made.bundle.adapter_payload), InvalidPayloadError),
    ):
        engine = serve_tenants(store, encoder, [old])
        put_live(store, replace(made, bundle=replace(made.bundle, variant=wrong)))
        assert isinstance(engine.refresh().refused["acme"], error)
        [answer] = answers(engine, [SearchItem("acme", "hi")])
        assert_answers_as(answer, old, encoder, "hi")


def test_a_tenant_moves_between_its_adapter_and_a_variant(store: Path, encoder: Encoder) -> None:
    plain = make_tenant(encoder, "acme", seed=1)
    light = make_variant_tenant(encoder, "acme", "transformer", seed=1)
    engine = serve_tenants(store, encoder, [plain])
    for made in (light, plain):
        put_live(store, made)
        engine.refresh()
        [answer] = answers(engine, [SearchItem("acme", "hi")])
        assert_answers_as(answer, made, encoder, "hi")


def test_top_k_is_each_item_s_own(store: Path, encoder: Encoder) -> None:
    made = make_tenant(encoder, "acme", seed=1)
    engine = serve_tenants(store, encoder, [made])
    found = answers(engine, [SearchItem("acme", "hello", k) for k in (1, 3, 50)])
    assert [len(answer.ranked) for answer in found] == [1, 3, 5]
    assert found[0].ranked == found[2].ranked[:1]


def test_an_unknown_tenant_fails_alone(store: Path, encoder: Encoder) -> None:
    made = make_tenant(encoder, "acme", seed=1)
    engine = serve_tenants(store, encoder, [made])
    first, unknown, last = engine.search(
        [SearchItem("acme", "hi"), SearchItem("nobody", "hi"), SearchItem("acme", "opening hours")]
    )
    assert isinstance(unknown, UnknownTenantError)
    assert isinstance(first, SearchAnswer) and isinstance(last, SearchAnswer)
    assert_answers_as(first, made, encoder, "hi")
    assert_answers_as(last, made, encoder, "opening hours")
    assert engine.search([]) == []


def test_there_is_no_answer_from_the_bare_encoder(store: Path, encoder: Encoder) -> None:
    engine = Engine(encoder, store)
    [outcome] = engine.search([SearchItem("acme", "hi")])
    assert isinstance(outcome, UnknownTenantError)


def test_rows_without_an_adapter_can_be_asked_for_to_compare(store: Path, encoder: Encoder) -> None:
    form = make_variant_tenant(encoder, "two", next(iter(VARIANTS)), seed=2)
    made = [make_tenant(encoder, "one", seed=1), form]
    engine = serve_tenants(store, encoder, made)
    one, two = (engine.admit(tenant.tenant) for tenant in made)
    assert isinstance(one, LiveTenant) and isinstance(two, LiveTenant)
    found = engine.embed(TEXTS, [one, None, two, None, one])
    bare = encoder.embed_ids(encoder.tokenize(TEXTS))
    for row, live in enumerate([one, None, two, None, one]):
        alone = engine.embed([TEXTS[row]], [live])[0]
        torch.testing.assert_close(found[row], alone, rtol=0, atol=1e-5)
        assert (live is None) == bool((found[row] - bare[row]).abs().max() < 1e-5)


def test_a_new_version_and_a_withdrawn_tenant_need_no_restart(
    store: Path, encoder: Encoder
) -> None:
    old, new = make_tenant(encoder, "acme", seed=1), make_tenant(encoder, "acme", seed=2)
    other = make_tenant(encoder, "other", seed=3)
    engine = serve_tenants(store, encoder, [old, other])
    put_live(store, new)
    take_down(store, "other")
    changed = engine.refresh()
    assert (changed.loaded, changed.dropped, changed.refused) == (("acme",), ("other",), {})
    outcomes = engine.search([SearchItem("acme", "hi"), SearchItem("other", "hi")])
    assert isinstance(outcomes[0], SearchAnswer) and isinstance(outcomes[1], UnknownTenantError)
    assert_answers_as(outcomes[0], new, encoder, "hi")
    again = engine.refresh()
    assert (again.loaded, again.dropped, again.refused) == ((), (), {})


def test_rolling_back_is_pointing_at_the_old_bundle(store: Path, encoder: Encoder) -> None:
    old, new = make_tenant(encoder, "acme", seed=1), make_tenant(encoder, "acme", seed=2)
    engine = serve_tenants(store, encoder, [old, new])
    set_live(store, "acme", write_bundle(store, old.bundle))
    engine.refresh()
    [answer] = answers(engine, [SearchItem("acme", "hi")])
    assert_answers_as(answer, old, encoder, "hi")


@pytest.mark.parametrize(
    "file", ["bundle.json", "adapter.safetensors", "faqs.parquet", "index.safetensors"]
)
def test_a_corrupted_bundle_is_refused_and_the_old_version_stays(
    store: Path, encoder: Encoder, file: str
) -> None:
    old, new = make_tenant(encoder, "acme", seed=1), make_tenant(encoder, "acme", seed=2)
    fresh = make_tenant(encoder, "fresh", seed=3)
    engine = serve_tenants(store, encoder, [old])
    damaged = stored_file(store, "acme", put_live(store, new), file)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    put_live(store, fresh)
    changed = engine.refresh()
    assert changed.loaded == ("fresh",)
    assert isinstance(changed.refused["acme"], ServingError)
    [answer] = answers(engine, [SearchItem("acme", "hi")])
    assert_answers_as(answer, old, encoder, "hi")


def test_a_damaged_pointer_leaves_the_tenant_live(store: Path, encoder: Encoder) -> None:
    made = make_tenant(encoder, "acme", seed=1)
    engine = serve_tenants(store, encoder, [made])
    write_damaged_release(store, "acme", "{")
    assert isinstance(engine.refresh().refused["acme"], ServingError)
    [answer] = answers(engine, [SearchItem("acme", "hi")])
    assert_answers_as(answer, made, encoder, "hi")


def test_a_vanished_store_leaves_everything_live(store: Path, encoder: Encoder) -> None:
    engine = serve_tenants(store, encoder, [make_tenant(encoder, "acme", seed=1)])
    store.rename(store.with_name("elsewhere"))
    with pytest.raises(StoreError):
        engine.refresh()
    assert answers(engine, [SearchItem("acme", "hi")])


def test_another_encoder_s_adapter_is_refused(
    store: Path, encoder: Encoder, tmp_path: Path
) -> None:
    folder = save_tiny_encoder(tmp_path / "other-encoder", seed=1)
    other = load_encoder(str(folder), dtype="float32")
    put_live(store, make_tenant(other, "acme", seed=1))
    refused = Engine(encoder, store).refresh().refused
    assert isinstance(refused["acme"], EncoderMismatchError)


def test_an_adapter_that_is_not_what_its_manifest_measured_is_refused(
    store: Path, encoder: Encoder
) -> None:
    made = make_tenant(encoder, "acme", seed=1)
    golden = made.bundle.manifest.golden
    moved = golden.model_copy(update={"distances": tuple(0.0 for _ in golden.distances)})
    lying = made.bundle.manifest.model_copy(update={"golden": moved})
    put_live(store, MadeTenant("acme", made.adapter, replace(made.bundle, manifest=lying)))
    assert isinstance(Engine(encoder, store).refresh().refused["acme"], EncoderMismatchError)


def test_a_refused_bundle_is_not_tried_again_at_once(store: Path, encoder: Encoder) -> None:
    damaged = put_live(store, make_tenant(encoder, "acme", seed=1))
    stored_file(store, "acme", damaged, "faqs.parquet").write_bytes(b"")
    engine = Engine(encoder, store, retry_refused_s=3600)
    assert engine.refresh().refused.keys() == {"acme"}
    assert engine.refresh().refused == {}
    put_live(store, make_tenant(encoder, "acme", seed=2))
    assert engine.refresh().loaded == ("acme",)


def test_a_tenant_abstains_below_its_threshold(store: Path, encoder: Encoder) -> None:
    plain = make_tenant(encoder, "acme", seed=1)
    top = plain.expected(encoder, "hi")[0][1]
    made = [
        make_tenant(encoder, name, seed=1, threshold=threshold)
        for name, threshold in (("never", -1.0), ("below", top - 0.01), ("above", top + 0.01))
    ]
    found = answers(
        serve_tenants(store, encoder, made), [SearchItem(tenant.tenant, "hi") for tenant in made]
    )
    assert [answer.abstained for answer in found] == [False, False, True]
    assert all(answer.ranked for answer in found)  # the ranking is shown, abstaining is advice


def test_threads_and_reloads_never_mix_tenants_or_versions(store: Path, encoder: Encoder) -> None:
    versions = {
        tenant: [make_tenant(encoder, tenant, seed=10 * n + v, num_faqs=4) for v in range(2)]
        for n, tenant in enumerate(["ash", "birch", "cedar", "doum"])
    }
    reference = {
        (tenant, made.bundle.manifest.version, text): made.expected(encoder, text)
        for tenant, both in versions.items()
        for made in both
        for text in TEXTS
    }
    ids = {t: [put_live(store, made) for made in both] for t, both in versions.items()}
    engine = Engine(encoder, store, capacity=4)
    engine.refresh()
    wrong: list[str] = []
    seen: set[str] = set()

    def search(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(200):
            items = [
                SearchItem(draw.choice(list(versions)), draw.choice(TEXTS), top_k=4)
                for _ in range(draw.randint(1, 6))
            ]
            for item, outcome in zip(items, engine.search(items), strict=True):
                if not isinstance(outcome, SearchAnswer):
                    wrong.append(f"{item.tenant}: {outcome}")
                    continue
                seen.add(outcome.version)
                expected = reference[item.tenant, outcome.version, item.text]
                found = [(r.faq_id, r.score) for r in outcome.ranked]
                if [f for f, _ in found] != [f for f, _ in expected] or any(
                    abs(a - b) > 2e-5 for (_, a), (_, b) in zip(found, expected, strict=True)
                ):
                    wrong.append(f"{item.tenant}: answered with another adapter or index")

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    turn = 0
    while any(thread.is_alive() for thread in threads):
        turn += 1
        for tenant in versions:
            set_live(store, tenant, ids[tenant][turn % 2])
        engine.refresh()
        time.sleep(0.001)
    assert wrong == [] and turn > 3 and len(seen) == 8, "too few reloads"
