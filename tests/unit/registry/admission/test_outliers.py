"""The outlier check: laws of the median, and adapters with known faults."""

import math
import statistics as standard
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterdistill.registry.admission.outliers import (
    MIN_ADAPTERS,
    TRAITS,
    concentration,
    constancy,
    loudness,
    outlier_reasons,
    unevenness,
    weighted_median,
)
from adapterdistill.registry.admission.weight_statistics import WeightStatistics
from adapterdistill.registry.index.database import sqlite
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.index.lifecycle import withdraw
from adapterdistill.registry.index.peers import find_peers
from tests.unit.registry.admission.test_weight_statistics import measured
from tests.unit.registry.samples import Arrays, encoder_fields, sample

LAYERS, HIDDEN = 4, 48
Change = Callable[[Arrays], None]


def like_trained(seed: int, bottleneck: int = 12) -> Arrays:
    """Random weights with norms, ranks and offsets as training leaves them on MiniLM."""
    random = np.random.default_rng(seed)
    scale = random.uniform(0.035, 0.05)
    shapes = {
        "down.weight": (LAYERS, bottleneck, HIDDEN),
        "down.bias": (LAYERS, bottleneck),
        "up.weight": (LAYERS, HIDDEN, bottleneck),
        "up.bias": (LAYERS, HIDDEN),
    }
    tensors = {n: random.normal(size=s).astype("f4") * scale for n, s in shapes.items()}
    for bias in ("down.bias", "up.bias"):
        tensors[bias] *= 0.3
    return tensors


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, WeightStatistics]]:
    folder = tmp_path_factory.mktemp("crowd")
    return [
        (f"tenant-{n % 6}", measured(like_trained(n, (8, 12, 24)[n % 3]), folder))
        for n in range(18)
    ]


def scaled(by: float) -> Change:
    def change(tensors: Arrays) -> None:
        tensors["up.weight"] *= by

    return change


def spiked(tensors: Arrays) -> None:
    """One direction of one layer, three times as strong as all that the layer did."""
    tensors["up.weight"][2, :, 0] = 0.08
    tensors["down.weight"][2, 0] = 0.3


def narrow(tensors: Arrays) -> None:
    """Every layer uses a few directions, as strongly as it used all before."""
    tensors["up.weight"][:, :, 3:] *= 0.05
    tensors["up.weight"] *= 2


def noisy(tensors: Arrays) -> None:
    random = np.random.default_rng(1)
    tensors["up.weight"] += random.normal(size=tensors["up.weight"].shape).astype("f4")


def constant(tensors: Arrays) -> None:
    tensors["up.bias"] += 0.5


FAULTS: dict[str, tuple[Change, str]] = {
    "five times as strong": (scaled(5), "strongest layer"),
    "twenty times as strong": (scaled(20), "strongest layer"),
    "a spike": (spiked, "over its others"),
    "few directions": (narrow, "narrowness"),
    "noise": (noisy, "strongest layer"),
    "a constant": (constant, "constant"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(
    fault: str, crowd: list[tuple[str, WeightStatistics]], tmp_path: Path
) -> None:
    change, named = FAULTS[fault]
    tensors = like_trained(100)
    change(tensors)
    assert any(named in reason for reason in outlier_reasons(measured(tensors, tmp_path), crowd))


@pytest.mark.parametrize("bottleneck", [8, 16, 24, 40])
def test_one_like_the_others_passes_whatever_its_bottleneck(
    bottleneck: int, crowd: list[tuple[str, WeightStatistics]], tmp_path: Path
) -> None:
    for seed in range(200, 205):
        assert outlier_reasons(measured(like_trained(seed, bottleneck), tmp_path), crowd) == ()


def test_a_weak_or_empty_adapter_passes(
    crowd: list[tuple[str, WeightStatistics]], tmp_path: Path
) -> None:
    tensors = like_trained(100)
    for by in (0.01, 0):
        scaled(by)(tensors)
        assert outlier_reasons(measured(tensors, tmp_path), crowd) == ()


def test_nothing_is_an_outlier_of_too_small_a_population(
    crowd: list[tuple[str, WeightStatistics]], tmp_path: Path
) -> None:
    tensors = like_trained(100)
    scaled(5)(tensors)
    outlier = measured(tensors, tmp_path)
    assert outlier_reasons(outlier, crowd[:MIN_ADAPTERS])
    assert outlier_reasons(outlier, crowd[: MIN_ADAPTERS - 1]) == ()
    of_two, of_three = (
        [(f"tenant-{n % tenants}", one) for n, (_, one) in enumerate(crowd)] for tenants in (2, 3)
    )
    assert outlier_reasons(outlier, of_three) and outlier_reasons(outlier, of_two) == ()


def test_what_no_adapter_should_be_needs_no_population(tmp_path: Path) -> None:
    for by, named in ((1000, "strongest layer"),):
        tensors = like_trained(100)
        scaled(by)(tensors)
        assert any(named in reason for reason in outlier_reasons(measured(tensors, tmp_path), []))
    assert outlier_reasons(measured(like_trained(100), tmp_path), []) == ()


def test_a_tenant_with_many_adapters_has_one_vote(
    crowd: list[tuple[str, WeightStatistics]], tmp_path: Path
) -> None:
    tensors = like_trained(100)
    scaled(6)(tensors)
    outlier = measured(tensors, tmp_path)
    flood = [("tenant-0", outlier)] * 500
    assert outlier_reasons(outlier, [*crowd, *flood])
    assert outlier_reasons(crowd[0][1], [*crowd, *flood]) == ()


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_equal_weights_give_the_common_median(values: list[float]) -> None:
    assert weighted_median(values, [1.0] * len(values)) == standard.median_low(values)


@given(st.lists(st.tuples(st.floats(-9, 9), st.integers(1, 5)), min_size=1, max_size=12))
def test_a_weight_counts_like_so_many_values(weighted: list[tuple[float, int]]) -> None:
    repeated = [value for value, times in weighted for _ in range(times)]
    values, weights = [v for v, _ in weighted], [float(w) for _, w in weighted]
    assert weighted_median(values, weights) == standard.median_low(repeated)


def test_a_third_of_the_tenants_cannot_make_the_outlier_usual(
    crowd: list[tuple[str, WeightStatistics]], tmp_path: Path
) -> None:
    tensors = like_trained(100)
    scaled(20)(tensors)
    outlier = measured(tensors, tmp_path)
    accomplices = [("tenant-0", outlier), ("tenant-1", outlier)]
    honest = [one for one in crowd if one[0] not in ("tenant-0", "tenant-1")]
    assert outlier_reasons(outlier, [*honest, *accomplices])


def one_of(
    norms: tuple[float, ...] = (1,),
    effective_ranks: tuple[float, ...] = (4,),
    offsets: tuple[float, ...] = (0,),
) -> WeightStatistics:
    """Make statistics for hidden size 16 and bottleneck 4, where a norm of 8 counts as 1."""
    return WeightStatistics(
        hidden_size=16,
        bottleneck_size=4,
        norms=norms,
        effective_ranks=effective_ranks,
        offsets=offsets,
    )


def test_each_trait_is_the_logarithm_that_it_says() -> None:
    assert loudness(one_of(norms=(8, 24, 16))) == math.log(3)
    # Of those that do anything, the middle one is 2.
    assert unevenness(one_of(norms=(1, 8, 0.001, 1.5, 2, 3))) == math.log(4)
    # A layer of one direction is as narrow as can be; one of none does nothing.
    assert concentration(one_of(effective_ranks=(3, 1, 0))) == math.log(4)
    assert constancy(one_of(offsets=(2, 12))) == math.log(3)


def loud(norms: list[float]) -> list[tuple[str, WeightStatistics]]:
    """Adapters of three tenants in turn, so loud."""
    return [(f"tenant-{n % 3}", one_of(norms=(8 * norm,))) for n, norm in enumerate(norms)]


def test_what_is_usual_is_so_many_deviations_from_the_median() -> None:
    # Median 0.01, and half of all within a factor of 1.6 of it: 1.6 ** (3.5 * 1.4826) is 11.5.
    crowd = loud([0.01 * 1.6**n for n in (-2, -1, -1, 0, 0, 0, 1, 1, 2)])
    for times in (5, 11):
        assert outlier_reasons(one_of(norms=(8 * 0.01 * times,)), crowd) == ()
    assert outlier_reasons(one_of(norms=(8 * 0.01 * 12,)), crowd) == (
        "norm of its strongest layer: 12 times the median of 3 tenants, up to 11.5 is usual",
    )


def test_what_is_just_at_a_limit_passes() -> None:
    assert outlier_reasons(one_of(norms=(8 * 4,)), loud([1] * 9)) == ()
    assert outlier_reasons(one_of(norms=(8 * 4.01,)), loud([1] * 9))
    assert outlier_reasons(one_of(norms=(8 * 5,)), []) == ()
    assert outlier_reasons(one_of(norms=(8 * 5.01,)), []) == (
        "norm of its strongest layer: 5.01, at most 5",
    )


def test_a_median_of_nothing_or_without_a_weight_for_each_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^no median of an empty sequence$"):
        weighted_median([], [])
    with pytest.raises(ValueError, match="shorter"):
        weighted_median([1.0, 2.0], [1.0])


def test_traits_have_names_of_their_own() -> None:
    assert len({trait.name for trait in TRAITS}) == len(TRAITS)


def test_the_population_is_the_newest_active_of_each_other_tenant(tmp_path: Path) -> None:
    """Compare with a rule in plain Python, on versions of every state, encoder and tenant."""
    random = np.random.default_rng(0)
    index = Index(sqlite(tmp_path / "index.sqlite3"))
    rows: list[tuple[str, str, str, int]] = []
    for number in range(80):
        tenant, digit = f"t{random.integers(5)}", "ab"[random.integers(2)]
        state = ("active", "quarantined", "withdrawn")[random.choice(3, p=(0.7, 0.2, 0.1))]
        manifest, _ = sample(
            number, tenant=tenant, adapter=f"a-{digit}", encoder=encoder_fields(digit)
        )
        found = WeightStatistics(
            hidden_size=8,
            bottleneck_size=number + 1,
            norms=(1,),
            effective_ranks=(1,),
            offsets=(0,),
        )
        index.add(
            manifest,
            statistics_json=found.canonical_json(),
            quarantine="" if state == "active" else "odd",
        )
        if state == "withdrawn":
            withdraw(index, manifest.ref, "bad")
        rows.append((tenant, digit, state, number + 1))
    for tenant in ("t0", "t4", "new"):
        for digit in "ab":
            asker = sample(99, tenant=tenant, encoder=encoder_fields(digit))[0]
            wanted = []
            for other in sorted({one[0] for one in rows} - {tenant}):
                own = [n for t, d, s, n in rows if (t, d, s) == (other, digit, "active")]
                wanted += [(other, number) for number in own[-4:]]
            got = [(t, found.bottleneck_size) for t, found in find_peers(index.db, asker)]
            assert sorted(got) == sorted(wanted)
    index.close()
