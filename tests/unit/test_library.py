"""The Python interface: a loaded bundle answers as the endpoint does, from any of its paths."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import adapterdistill
from adapterdistill.backbone import Encoder
from adapterdistill.errors import ConfigError, EncoderMismatchError, ServingError
from adapterdistill.serve.engine.engine import Engine, LiveTenant, SearchAnswer, SearchItem
from adapterdistill.store.release import live_bundle
from tests.contract.running_registry import Running
from tests.owner_runs import config_toml, run_of, write_shop
from tests.serving_store import make_tenant, put_live

QUERIES = ["where is my parcel", "how do I pay", "hi"]


@pytest.fixture
def store(tmp_path: Path, tiny_encoder: Encoder) -> Path:
    for n, name in enumerate(("acme", "birch")):
        put_live(tmp_path / "store", make_tenant(tiny_encoder, name, seed=n))
    return tmp_path / "store"


def test_a_loaded_bundle_answers_as_the_engine_does(
    store: Path, tiny_encoder: Encoder, tiny_encoder_folder: Path
) -> None:
    engine = Engine(tiny_encoder, store)
    engine.refresh()
    for tenant in ("acme", "birch"):
        model = adapterdistill.load(
            store / tenant, encoder=str(tiny_encoder_folder), dtype="float32"
        )
        items = [SearchItem(tenant, query, 3, explain=True) for query in QUERIES]
        found = model.search_all(QUERIES, top_k=3, explain=True)
        for one, expected in zip(found, engine.search(items), strict=True):
            assert isinstance(expected, SearchAnswer)
            assert [faq.faq_id for faq in one.ranked] == [faq.faq_id for faq in expected.ranked]
            scores = [faq.score for faq in expected.ranked]
            assert [faq.score for faq in one.ranked] == pytest.approx(scores, abs=1e-5)
            assert (one.abstained, one.version) == (expected.abstained, expected.version)
            assert one.decided_by == expected.decided_by and one.ranked[0].views
        held = engine.admit(tenant)
        assert isinstance(held, LiveTenant)
        vectors = engine.embed(QUERIES, [held] * len(QUERIES))
        np.testing.assert_allclose(model.embed(QUERIES), vectors.numpy(), atol=1e-5)
        assert model.search(QUERIES[0], top_k=1).ranked[0].faq_id == found[0].ranked[0].faq_id
        assert model.manifest.tenant == tenant and len(model.faq_ids) == 5
    engine.close()


def test_a_folder_of_a_tenant_is_its_live_bundle_and_a_version_is_itself(
    store: Path, tiny_encoder: Encoder, tiny_encoder_folder: Path
) -> None:
    first = live_bundle(store, "acme")
    second = put_live(store, make_tenant(tiny_encoder, "acme", seed=9))
    options = {"encoder": str(tiny_encoder_folder), "dtype": "float32"}
    versions = [
        adapterdistill.load(path, **options).manifest.version
        for path in (store / "acme", f"file://{store}/acme/{second}", store / "acme" / first)
    ]
    assert versions == [second[:64], second[:64], first[:64]]


def test_what_cannot_be_loaded_is_told(store: Path, tiny_encoder_folder: Path) -> None:
    with pytest.raises(ServingError, match="nobody"):
        adapterdistill.load(store / "nobody", encoder=str(tiny_encoder_folder))
    with pytest.raises(EncoderMismatchError):
        adapterdistill.load(store / "acme", encoder="minilm-l6")
    model = adapterdistill.load(store / "acme", encoder=str(tiny_encoder_folder))
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        model.search("hi", top_k=0)


def test_a_run_from_python_serves_and_tells_its_stages(
    tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    write_shop(tmp_path / "data" / "acme")
    running = Running(tmp_path / "registry")
    try:
        config = run_of(tmp_path, "acme", encoder=tiny_encoder_folder, registry=running.address)
        toml = tmp_path / "acme.toml"
        toml.write_text(config_toml(config))
        lines: list[str] = []
        report = adapterdistill.onboard(toml, on_stage=lines.append)
        assert len(lines) == 9 and report.decide.choice
        assert adapterdistill.onboard(config).publish.name == report.publish.name
        assert (tmp_path / "owners" / "acme" / "report.json").is_file()
        with adapterdistill.connect(running.address) as registry:
            [found] = registry.list()
        assert found.ref.name == report.publish.name
    finally:
        running.close()
    model = adapterdistill.load(
        tmp_path / "serving" / "acme", encoder=str(tiny_encoder_folder), dtype="float32"
    )
    assert model.manifest.ref.name == report.publish.name
    with pytest.raises(ConfigError, match="tenat"):
        adapterdistill.onboard({"tenat": "acme"})


def test_importing_the_package_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, adapterdistill, adapterdistill.client; "
        "print(*({'torch', 'ray', 'transformers', 'grpc', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = adapterdistill.lod
