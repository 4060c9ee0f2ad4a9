"""Several encoders in one engine: each bundle on its own, loaded when needed, within a bound."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.errors import EncoderError, EncoderMismatchError, ServingError
from adapterdistill.serve.engine.adapter_bank import AdapterBank
from adapterdistill.serve.engine.engine import Engine, SearchAnswer, SearchItem
from adapterdistill.serve.engine.live import Alias, LiveTenant
from adapterdistill.store.release import promote, put_up, roll_back, set_live
from tests.serving_store import MadeTenant, make_tenant, put_live
from tests.tiny_encoders import save_tiny_encoder
from tests.unit.serve.engine.test_candidates import try_out
from tests.unit.serve.engine.test_engine import TEXTS, assert_answers_as

Serve = Callable[..., Engine]
MIB = 2**20


class Told:
    """An encoder that may be loaded, and how often it was."""

    def __init__(self, encoder: Encoder, error: Exception | None = None) -> None:
        self.encoder, self.error, self.loads = encoder, error, 0

    def __call__(self) -> Encoder:
        self.loads += 1
        if self.error is not None:
            raise self.error
        return self.encoder


@pytest.fixture(scope="session")
def wide_encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """An encoder of another width and depth."""
    folder = tmp_path_factory.mktemp("others") / "wide-encoder"
    settings = {"hidden_size": 48, "num_hidden_layers": 3}
    return load_encoder(str(save_tiny_encoder(folder, seed=2, **settings)), dtype="float32")


def ask(engine: Engine, tenant: str, alias: Alias = "live") -> SearchAnswer:
    found = engine.admit(tenant, alias)
    held = found.result(30) if isinstance(found, Future) else found
    [answer] = engine.search([SearchItem(tenant, "hi", 50, held, alias)])
    assert isinstance(answer, SearchAnswer)
    return answer


def mib(*encoders: Encoder) -> float:
    return sum(AdapterBank(encoder).encoder_bytes for encoder in encoders) / MIB


def test_tenants_of_three_encoders_of_two_shapes_answer_in_one_batch_each_as_itself(
    store: Path, encoder: Encoder, other_encoder: Encoder, wide_encoder: Encoder
) -> None:
    encoders = [encoder, other_encoder, wide_encoder]
    made = [make_tenant(encoders[n % 3], f"tenant-{n}", seed=n) for n in range(6)]
    for one in made:
        put_live(store, one)
    others = {one.ref.name: Told(one) for one in encoders[1:]}
    engine = Engine(encoder, store, others=others)
    assert engine.refresh().refused == {}
    items = [SearchItem(made[n % 6].tenant, text, 50) for n, text in enumerate(TEXTS * 6)]
    for n, (item, answer) in enumerate(zip(items, engine.search(items), strict=True)):
        assert isinstance(answer, SearchAnswer)
        assert_answers_as(answer, made[n % 6], encoders[n % 3], item.text)
    assert [told.loads for told in others.values()] == [1, 1]
    assert [one.tenants_in_memory for one in engine.encoders] == [2, 2, 2]
    assert engine.num_slots - engine.num_free_slots == 6
    held = [engine.admit(one.tenant) for one in made]
    with pytest.raises(ValueError, match="different encoders"):
        engine.embed(["a", "b"], held[:2])  # type: ignore[arg-type]
    found = engine.embed(["hi"], [held[1]])  # type: ignore[list-item]
    expected = other_encoder.embed_texts(["hi"], made[1].adapter)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_an_encoder_is_loaded_when_a_bundle_first_needs_it_and_once(
    store: Path, encoder: Encoder, other_encoder: Encoder, wide_encoder: Encoder
) -> None:
    told = {"elsewhere/other-encoder": Told(other_encoder), "a/name": Told(wide_encoder)}
    put_live(store, make_tenant(encoder, "acme", seed=1))
    engine = Engine(encoder, store, others=told)
    engine.refresh()
    assert [one.loads for one in told.values()] == [0, 0]
    assert engine.banks.not_loaded == ("other-encoder", "name")
    put_live(store, make_tenant(other_encoder, "first", seed=2))
    put_live(store, make_tenant(other_encoder, "second", seed=3))
    assert engine.refresh().loaded == ("first", "second")
    # The one of that name is tried first; digests decide, so another name is found, too.
    assert [one.loads for one in told.values()] == [1, 0]
    put_live(store, make_tenant(wide_encoder, "third", seed=4))
    assert engine.refresh().loaded == ("third",)
    assert engine.banks.not_loaded == () and len(engine.encoders) == 3


def test_a_tenant_moves_to_another_encoder_by_shadow_promote_and_back(
    store: Path, encoder: Encoder, other_encoder: Encoder
) -> None:
    old, new = make_tenant(encoder, "acme", seed=1), make_tenant(other_encoder, "acme", seed=2)
    put_live(store, old)
    engine = Engine(encoder, store, others={"other-encoder": Told(other_encoder)})
    engine.refresh()
    try_out(store, new, mode="shadow", share=1)
    engine.refresh()
    assert_answers_as(ask(engine, "acme"), old, encoder, "hi")
    assert_answers_as(ask(engine, "acme", "canary"), new, other_encoder, "hi")
    in_flight = engine.admit("acme")
    promote(store, "acme")
    engine.refresh()
    assert_answers_as(ask(engine, "acme"), new, other_encoder, "hi")
    assert isinstance(in_flight, LiveTenant)  # the request that began before the change
    [answer] = engine.search([SearchItem("acme", "hi", 50, in_flight)])
    assert isinstance(answer, SearchAnswer)
    assert_answers_as(answer, old, encoder, "hi")
    roll_back(store, "acme")
    engine.refresh()
    assert_answers_as(ask(engine, "acme"), old, encoder, "hi")


def test_an_encoder_that_the_memory_does_not_allow_is_refused_and_the_rest_goes_on(
    store: Path, encoder: Encoder, other_encoder: Encoder
) -> None:
    told = Told(other_encoder)
    bound = mib(encoder, other_encoder) - 0.001
    engine = Engine(
        encoder, store, retry_refused_s=0, others={"big": told}, encoder_mib=bound
    )  # fmt: skip
    old = make_tenant(encoder, "acme", seed=1)
    put_live(store, old)
    put_live(store, make_tenant(other_encoder, "other", seed=2))
    try_out(store, make_tenant(other_encoder, "acme", seed=3))
    for _ in range(2):
        refused = engine.refresh().refused
        assert refused.keys() == {"acme@canary", "other"}
        for error in refused.values():
            assert isinstance(error, ServingError)
            assert "encoder big takes" in str(error) and "raise --encoder-mib" in str(error)
    assert told.loads == 1  # its size is known by then
    assert_answers_as(ask(engine, "acme"), old, encoder, "hi")
    assert len(engine.encoders) == 1 and engine.banks.not_loaded == ("big",)
    fits = Engine(encoder, store, others={"big": told}, encoder_mib=bound + 0.002)
    assert fits.refresh().refused == {}
    assert sum(one.encoder_bytes for one in fits.encoders) <= fits.banks.encoder_mib * MIB
    with pytest.raises(ServingError, match=r"takes .* MiB, and 0\.0 of the"):
        Engine(encoder, store, encoder_mib=mib(encoder) - 0.001)


def test_an_encoder_that_nobody_named_and_one_that_is_broken_are_refused_with_the_reason(
    store: Path, encoder: Encoder, other_encoder: Encoder
) -> None:
    put_live(store, make_tenant(other_encoder, "acme", seed=1))
    [refused] = Engine(encoder, store).refresh().refused.values()
    assert isinstance(refused, EncoderMismatchError) and "(--encoder)" in str(refused)
    broken = Told(other_encoder, EncoderError("encoder 'x': no config.json in its folder"))
    engine = Engine(encoder, store, retry_refused_s=0, others={"x": broken})
    [refused] = engine.refresh().refused.values()
    assert "needs encoder other-encoder" in str(refused) and "no config.json" in str(refused)
    broken.error = None  # somebody repairs the folder
    assert engine.refresh().loaded == ("acme",)


def test_each_encoder_has_its_part_of_the_memory_and_only_its_own_tenants_make_room(
    store: Path, encoder: Encoder, other_encoder: Encoder
) -> None:
    both = {"a": encoder, "b": other_encoder}
    made: dict[str, MadeTenant] = {
        f"{name}{n}": make_tenant(one, f"{name}{n}", seed=n)
        for name, one in both.items()
        for n in range(4)
    }
    for one in made.values():
        put_live(store, one)
    one_slot = AdapterBank(encoder)._slot_bytes(6) / MIB
    told = Told(other_encoder)
    engine = Engine(encoder, store, capacity=1, bank_mib=4.5 * one_slot, others={"b": told})
    engine.refresh()
    for name in [f"a{n}" for n in range(4)] * 2:
        assert_answers_as(ask(engine, name), made[name], encoder, "hi")
    for name in ("b0", "b1", *[f"a{n}" for n in range(4)], "b0", "b1"):
        assert_answers_as(ask(engine, name), made[name], both[name[0]], "hi")
    assert [one.tenants_in_memory for one in engine.encoders] == [2, 2]
    assert {"b0", "b1"} <= engine.snapshot.tenants.keys()
    assert engine.max_slots == 4 and engine.bank_bytes <= 4.5 * one_slot * MIB
    # A tenant in memory moves to a full encoder: one of that encoder's leaves for it.
    put_live(store, moved := make_tenant(other_encoder, "a3", seed=9))
    assert engine.refresh().loaded == ("a3",)
    assert_answers_as(ask(engine, "a3"), moved, other_encoder, "hi")
    assert [one.tenants_in_memory for one in engine.encoders] == [1, 2]


def test_a_bank_whose_encoder_were_another_would_be_noticed(
    store: Path, encoder: Encoder, other_encoder: Encoder
) -> None:
    """Control: the answers of these tests tell the encoders apart."""
    made = [make_tenant(encoder, "acme", seed=1), make_tenant(other_encoder, "other", seed=2)]
    for one in made:
        put_live(store, one)
    engine = Engine(encoder, store, others={"other-encoder": Told(other_encoder)})
    engine.refresh()
    first, second = engine.banks.loaded
    first.encoder, second.encoder = second.encoder, first.encoder
    for one, own in zip(made, (encoder, other_encoder), strict=True):
        with pytest.raises(AssertionError):
            assert_answers_as(ask(engine, one.tenant), one, own, "hi")


def test_set_live_on_another_encoder_without_a_candidate_is_as_safe(
    store: Path, encoder: Encoder, other_encoder: Encoder
) -> None:
    old, new = make_tenant(encoder, "acme", seed=1), make_tenant(other_encoder, "acme", seed=2)
    put_live(store, old)
    engine = Engine(encoder, store, others={"other-encoder": Told(other_encoder)})
    engine.refresh()
    new_id = put_live(store, new)
    engine.refresh()
    assert_answers_as(ask(engine, "acme"), new, other_encoder, "hi")
    put_live(store, old)
    put_up(store, "acme", new_id, mode="canary", share=0.5)
    set_live(store, "acme", new_id)
    engine.refresh()
    assert_answers_as(ask(engine, "acme"), new, other_encoder, "hi")
