"""Splits and samples depend on seed and content only."""

import hashlib

import pytest

from adapterdistill.data import held_out, nested_order

TEXTS = [f"question number {i}" for i in range(4000)]


def test_nested_order_is_the_order_of_the_protocols_hash() -> None:
    expected = sorted(
        range(len(TEXTS)),
        key=lambda i: hashlib.sha256(f"7|acme|{TEXTS[i]}".encode()).hexdigest(),
    )
    assert nested_order(TEXTS, seed=7, tenant="acme") == expected


def test_nested_sample_does_not_depend_on_the_order_of_rows() -> None:
    forward = nested_order(TEXTS, seed=1, tenant="acme")
    backward = nested_order(TEXTS[::-1], seed=1, tenant="acme")
    assert [TEXTS[i] for i in forward] == [TEXTS[::-1][i] for i in backward]


def test_seed_and_tenant_change_the_order() -> None:
    orders = [nested_order(TEXTS, seed=s, tenant=t) for s, t in [(1, "a"), (2, "a"), (1, "b")]]
    assert orders[0] != orders[1] and orders[0] != orders[2]


def test_equal_texts_keep_their_order() -> None:
    assert nested_order(["same", "same", "same"], seed=0, tenant="t") == [0, 1, 2]


def test_held_out_share_is_the_fraction_and_larger_fractions_contain_smaller() -> None:
    fifth = {t for t in TEXTS if held_out(t, seed=3, fraction=0.2)}
    half = {t for t in TEXTS if held_out(t, seed=3, fraction=0.5)}
    assert fifth < half
    # Five standard deviations of a binomial draw.
    assert abs(len(fifth) / len(TEXTS) - 0.2) < 5 * (0.2 * 0.8 / len(TEXTS)) ** 0.5
    assert not any(held_out(t, seed=3, fraction=0.0) for t in TEXTS)
    assert all(held_out(t, seed=3, fraction=1.0) for t in TEXTS)


def test_held_out_rows_are_fixed_for_all_time() -> None:
    digest = int(hashlib.sha256(b"5|some text").hexdigest()[:16], 16) / 2**64
    assert held_out("some text", seed=5, fraction=digest + 1e-9)
    assert not held_out("some text", seed=5, fraction=digest - 1e-9)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        held_out("x", seed=0, fraction=fraction)
