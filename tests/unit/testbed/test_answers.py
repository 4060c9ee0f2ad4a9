"""The reference of the drills, for bundles with and without a scorer."""

import random
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.serve.engine.engine import Engine, SearchAnswer, SearchItem
from adapterdistill.testbed.answers import Alone
from tests.random_scorers import random_texts
from tests.serving_store import make_tenant, put_live, save_tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    torch.set_num_threads(1)
    folder = save_tiny_encoder(tmp_path_factory.mktemp("encoder"))
    return load_encoder(str(folder), dtype="float32")


def test_the_engine_s_answers_are_right_with_and_without_a_scorer(
    tmp_path: Path, encoder: Encoder
) -> None:
    made = [make_tenant(encoder, f"t-{n}", seed=n, threshold=0.2, scorer=n < 2) for n in range(4)]
    for tenant in made:
        put_live(tmp_path, tenant)
    engine = Engine(encoder, tmp_path)
    engine.refresh()
    texts = random_texts(12, seed=1)
    alone = {tenant.tenant: Alone(encoder, tenant.bundle, texts) for tenant in made}
    items = [SearchItem(tenant.tenant, text) for tenant in made for text in texts]
    random.Random(1).shuffle(items)
    found = engine.search(items)
    engine.close()
    for item, answer in zip(items, found, strict=True):
        assert isinstance(answer, SearchAnswer)
        right, result = alone[item.tenant], asdict(answer)
        assert right.fault(item.text, result) is None
        assert right.fault(item.text, right.result(item.text)) is None
        # The control: the right texts, embedded by another tenant's adapter.
        other = alone["t-3" if item.tenant != "t-3" else "t-0"]
        assert right.fault(item.text, right.result(item.text, through=other)) is not None
