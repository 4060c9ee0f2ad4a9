"""Prototypes among tenants: published on request alone, noised by a secret, used by others."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterdistill.actors.privacy.statement import NOT_AUDITED
from adapterdistill.actors.prototypes import own_prototypes
from adapterdistill.actors.publishing import PRIVACY
from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.data import TenantDataset
from adapterdistill.distill.meta_kd.shared_prototypes import prototypes_in
from adapterdistill.distill.meta_kd.tasks import domains_of
from adapterdistill.distill.multitask_kd.task_teachers import read_tasks, task_texts
from adapterdistill.errors import ConfigError
from adapterdistill.manifest import Manifest, SharedPrototypes, VersionRef
from tests.contract.running_registry import Running
from tests.owner_runs import Configured, folder_of, owner_after, run_through, write_task

LIGHT = {"layers": 1, "heads": 2, "steps": 2, "learning_rate": 0.005}
DOMAINS = ("shop", "home", "work")


def run_with(**meta: Any) -> dict[str, Any]:
    return {"training": {"method": "meta_kd"}, "light": LIGHT, "meta": meta}


def shared_by(config: OnboardConfig, encoder: Encoder) -> SharedPrototypes:
    found = own_prototypes(config, encoder, TenantDataset.open(Path(config.data)).tasks())
    assert found is not None
    return found


def test_what_a_tenant_shares_is_in_its_manifest_and_weighs_another_s_rows(
    configured: Configured, registry: Running, tiny_encoder: Encoder
) -> None:
    def published(config: OnboardConfig) -> Manifest:
        report, _ = run_through(config)
        return registry.client.get(VersionRef.parse(report.publish.name))

    tenants = {
        "fletcher": run_with(share_prototypes=True),
        "glover": run_with(share_prototypes=True, noise=0.5),
        "hatter": run_with(share_prototypes=False),
    }
    configs = {name: configured(name, word=name, run=run) for name, run in tenants.items()}
    for name, config in configs.items():
        write_task(Path(config.data), "mood", word=name, domains=DOMAINS)
    first, second, third = (published(config) for config in configs.values())

    assert first.prototypes is not None and second.prototypes is not None
    assert (first.prototypes.domains, first.prototypes.classes) == (3, ("glad", "sad"))
    assert sum(first.prototypes.counts) == 24 and first.prototypes.noise == 0
    assert first.privacy.startswith(PRIVACY) and first.privacy.endswith("No noise was added.")
    assert "deviation 0.5 times what one row" in second.privacy and second.prototypes.noise == 0.5
    said = first.canonical_json() + second.canonical_json()
    assert not any(f'"{domain}"'.encode() in said for domain in DOMAINS)
    assert third.prototypes is None and third.privacy == PRIVACY + NOT_AUDITED

    def others_of(name: str) -> tuple[SharedPrototypes, ...]:
        [task] = read_tasks(folder_of(configs[name]) / "tasks.safetensors")
        assert task.domains is not None
        return task.domains.others

    assert others_of("fletcher") == () == others_of("hatter")
    assert others_of("glover") == (first.prototypes,)


def test_prototypes_are_the_means_by_domain_and_class(
    configured: Configured, tiny_encoder: Encoder
) -> None:
    config = configured(run=run_with(share_prototypes=True))
    write_task(Path(config.data), "mood", domains=DOMAINS)
    [task] = TenantDataset.open(Path(config.data)).tasks()
    texts, domains = task_texts(task.train, task, tiny_encoder), domains_of(task)
    assert domains is not None
    rows = tiny_encoder.embed_ids(texts.ids).double()
    found = prototypes_in(shared_by(config, tiny_encoder))
    for domain in range(3):
        for label in range(2):
            chosen = rows[(domains.of_row == domain) & (texts.labels == label)]
            assert int(found.counts[domain, label]) == len(chosen) == 4
            mean = chosen.mean(0).float()
            assert torch.allclose(found.means[domain, label], mean, atol=1e-3)


def test_noise_is_the_same_for_the_same_rows_and_another_s_is_other(
    configured: Configured, tiny_encoder: Encoder
) -> None:
    config = configured(run=run_with(share_prototypes=True, noise=0.5))
    path = write_task(Path(config.data), "mood", domains=DOMAINS)
    first = shared_by(config, tiny_encoder)
    assert shared_by(config, tiny_encoder) == first
    elsewhere = config.model_copy(update={"workspace": f"{config.workspace}-2"})
    assert shared_by(elsewhere, tiny_encoder).means != first.means
    key = Path(config.workspace) / config.tenant / "secret.key"
    assert key.stat().st_mode & 0o077 == 0 and len(key.read_bytes()) == 32
    # Of one row more, all noise is other: no difference of two records takes it out.
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_task(Path(config.data), "mood", rows=[*rows, rows[0] | {"id": "more"}])
    second = shared_by(config, tiny_encoder)
    differ = prototypes_in(second).means != prototypes_in(first).means
    assert bool(differ.flatten(0, 1).any(1).all())


def test_what_a_manifest_cannot_take_is_refused_before_anything_is_done(
    configured: Configured,
) -> None:
    config = configured(run=run_with(share_prototypes=True))

    def refused(said: str) -> None:
        with pytest.raises(ConfigError, match=f"method meta_kd: .*{said}"):
            owner_after(config, "validate")
        assert not Path(config.workspace).exists()

    def rows(domains: int, *, classes: str) -> list[dict[str, Any]]:
        """Four of each domain, the last two of `valid`."""
        return [
            {
                "id": f"{domain}-{n}",
                "text": f"text {domain} {n}",
                "label": classes[:-1] + classes[-1] * (n % 2 + 1),
                "domain": f"{domain}",
                "split": "train" if n < 2 else "valid",
            }
            for domain in range(domains)
            for n in range(4)
        ]

    write_task(Path(config.data), "mood", rows=rows(200, classes="a"))
    refused("2 classes in 200 domains of width 32 are more than 24576 bytes, .*: have fewer, or")
    write_task(Path(config.data), "mood", rows=rows(2, classes="a" * 100))
    refused("name has over 100 characters")
    write_task(Path(config.data), "mood", domains=DOMAINS)
    write_task(Path(config.data), "tone", domains=DOMAINS)
    refused("shares one task's, 2 tasks name domains: leave the field")
