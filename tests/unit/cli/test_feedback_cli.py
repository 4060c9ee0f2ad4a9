"""`adapterdistill feedback`: from kept questions to a tenant's data."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapterdistill.backbone import Encoder
from adapterdistill.cli.feedback import app
from adapterdistill.data import Faq, Query, TenantDataset
from adapterdistill.data.dataset import write_tenant
from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.feedback import Asked, opened
from tests.serving_store import make_tenant, put_live

RUNNER = CliRunner()


@pytest.fixture
def tenant(tmp_path: Path, tiny_encoder: Encoder) -> Path:
    store = tmp_path / "store"
    put_live(store, make_tenant(tiny_encoder, "acme", seed=1))
    with opened(store, "acme") as kept:
        kept.keep([Asked("question 1, please", None, None), Asked("match", "acme-2", 0.2)])
        kept.keep([Asked("match", "acme-2", 0.2), Asked("odd", None, None)])
    return store / "acme"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    faqs = [Faq(f"acme-{n}", f"question {n} of acme", None) for n in range(5)]
    queries = [
        Query("q0", "known", "acme-0", "train"),
        Query("q1", "question 1, please", None, "unlabelled"),
    ]
    write_tenant(tmp_path / "data", faqs, queries)
    return tmp_path / "data"


def queries_of(data: Path) -> dict[str, tuple[str | None, str]]:
    return {one.text: (one.faq_id, one.split) for one in TenantDataset.open(data).queries()}


def test_questions_are_listed_in_the_order_in_which_to_label_them(tenant: Path) -> None:
    done = RUNNER.invoke(app, ["list", str(tenant), "--format", "json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert [one["text"] for one in found] == ["match", "question 1, please", "odd"]
    assert found[0] == {
        "text": "match",
        "times": 2,
        "answered_with": "acme-2",
        "confidence": 0.2,
        "said_to_be_wrong": False,
        "label": None,
        "out_of_scope": False,
    }
    shown = RUNNER.invoke(app, ["list", str(tenant), "--limit", "1"])
    assert "match" in shown.output and "odd" not in shown.output


def test_labels_given_in_the_terminal_become_queries_of_the_folder(
    tenant: Path, data: Path
) -> None:
    # In their order: out of scope; after a mistake the first FAQ that is offered; skipped.
    done = RUNNER.invoke(app, ["label", str(tenant)], input="o\n99\n1\n\n")
    assert done.exit_code == 0, done.output
    assert (
        "labels given: 2." in done.output
        and "(asked once)" in done.output
        and "that is no FAQ" in done.output
    )
    done = RUNNER.invoke(app, ["export", str(tenant), str(data)])
    assert done.exit_code == 0, done.output
    assert "2 labelled and 1 unlabelled queries were added" in done.output
    assert queries_of(data) == {
        "known": ("acme-0", "train"),
        "question 1, please": ("acme-1", "train"),  # its unlabelled row is replaced
        "match": (None, "train"),
        "odd": (None, "unlabelled"),
    }
    with opened(tenant.parent, "acme") as kept:
        assert [one.text for one in kept.questions()] == ["odd"]
    again = RUNNER.invoke(app, ["export", str(tenant), str(data)])
    assert "0 labelled and 0 unlabelled" in again.output
    assert len(queries_of(data)) == 4


def test_a_store_in_the_place_of_a_tenant_is_said_and_gets_no_file(tenant: Path) -> None:
    done = RUNNER.invoke(app, ["list", str(tenant.parent)])
    assert isinstance(done.exception, ServingError) and "nothing is served" in str(done.exception)
    assert not (tenant.parent / "feedback.sqlite").exists()


def test_labelling_stops_at_q_and_takes_an_id(tenant: Path) -> None:
    done = RUNNER.invoke(app, ["label", str(tenant)], input="acme-4\nq\n")
    assert done.exit_code == 0 and "labels given: 1." in done.output
    with opened(tenant.parent, "acme") as kept:
        assert {one.text: one.label for one in kept.questions(labelled=True)} == {"match": "acme-4"}


def test_a_label_that_the_data_do_not_know_stops_the_export(tenant: Path, data: Path) -> None:
    with opened(tenant.parent, "acme") as kept:
        kept.tell("match", right="gone")
    before = queries_of(data)
    done = RUNNER.invoke(app, ["export", str(tenant), str(data)])
    assert isinstance(done.exception, ConfigError) and "gone" in str(done.exception)
    assert queries_of(data) == before
