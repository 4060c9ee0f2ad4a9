"""Tenants made of invented words, and onboarding runs of them on the tiny encoder."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adapterdistill.actors.data_owner import DataOwner
from adapterdistill.actors.onboarding import OnboardReport, in_process, onboard
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.config import OnboardConfig, parse_config
from adapterdistill.data import Faq, Query
from adapterdistill.data.dataset import write_tenant
from adapterdistill.manifest import VersionRef
from adapterdistill.testbed.random_adapters import random_manifest
from tests.contract.running_registry import Running
from tests.tiny_encoders import random_adapter

Configured = Callable[..., OnboardConfig]
HELD = ("train", "train", "train", "valid", "test")
TOPICS = ("kite", "lamp", "soup", "brick", "moss")
_PHRASES = (
    "where is the {} now",
    "my {} is broken",
    "do you sell a {} here",
    "the {} came late again",
    "how long does a {} last",
    "can i bring back a {}",
)


def write_shop(
    folder: Path,
    *,
    splits: tuple[str, ...] = ("train", "train", "train", "train", "test"),
    answers: bool = True,
    word: str = "",
    out_of_scope: tuple[str, ...] = (),
) -> Path:
    """A tenant of five FAQs; each has one query for every entry of `splits`, in its split.

    `word` is put into every text; `out_of_scope` names the split of each query that no FAQ answers.
    """

    def queries() -> Iterator[Query]:
        for n, topic in enumerate(TOPICS):
            for i, split in enumerate(splits):
                text = f"{_PHRASES[i % len(_PHRASES)].format(topic)} {word} {i}"
                label = None if split == "unlabelled" else f"faq-{n}"
                yield Query(f"{topic}-{i}", text, label, split)
        for i, split in enumerate(out_of_scope):
            yield Query(f"other-{i}", f"what is the weather {word} {i}", None, split)

    faqs = [
        Faq(
            f"faq-{n}",
            f"what about a {topic} {word}?",
            f"the {topic} is at the desk {word}" if answers else None,
        )
        for n, topic in enumerate(TOPICS)
    ]
    write_tenant(folder, faqs, queries())
    return folder


def write_task(
    tenant: Path,
    name: str,
    *,
    word: str = "",
    domains: tuple[str, ...] = (),
    rows: list[dict[str, Any]] | None = None,
) -> Path:
    """A task of the tenant's: whether a text is glad or sad. `rows` replaces its rows.

    `word` is put into every text; rows are of the `domains` in turn, if there are any.
    """
    path = tenant / "tasks" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    if rows is None:
        splits = ["train"] * 24 + ["valid"] * 6 + ["test"] * 4
        texts = ("thank you for the {}", "the {} is bad again")
        rows = [
            {
                "id": str(n),
                "text": texts[n % 2].format(TOPICS[n % 5]) + f" {word} {n}",
                "label": ("glad", "sad")[n % 2],
                "split": split,
                **({"domain": domains[n // 2 % len(domains)]} if domains else {}),
            }
            for n, split in enumerate(splits)
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(
    home: Path,
    tenant: str,
    *,
    encoder: Path,
    registry: str,
    training: dict[str, Any] | None = None,
    **more: Any,
) -> OnboardConfig:
    """Few steps on the tiny encoder; the tenant's data are at `home`/data/`tenant`."""
    values: dict[str, Any] = {
        "tenant": tenant,
        "data": str(home / "data" / tenant),
        "workspace": str(home / "owners"),
        "serving_store": str(home / "serving"),
        "encoder": {"name": str(encoder), "dtype": "float32"},
        "registry": {"address": registry, "timeout_s": 10},
        "training": {
            "bottleneck_size": 4,
            "public_seed": True,  # runs in two folders are compared
            "threads": 1,  # tiny tensors: more only wait for each other
            "batch_size": 32,
            "extract_steps": 6,
            "distil_steps": 6,
            "evaluate_every": 2,
            "extract_learning_rate": 0.005,
            "distil_learning_rate": 0.005,
            **(training or {}),
        },
    }
    return parse_config(values | more, source="test")


def run_through(config: OnboardConfig) -> tuple[OnboardReport, list[str]]:
    """All stages in this process: the report and the lines that were told."""
    lines: list[str] = []
    return onboard(config, in_process(config), emit=lines.append), lines


def folder_of(config: OnboardConfig) -> Path:
    """The folder of the tenant's only run."""
    (folder,) = (Path(config.workspace) / config.tenant / "runs").iterdir()
    return folder


def owner_after(config: OnboardConfig, *stages: str) -> DataOwner:
    """A new owner that has run these stages."""
    owner = DataOwner(config)
    for stage in stages:
        getattr(owner, stage)()
    return owner


def config_toml(config: OnboardConfig) -> str:
    """The run's TOML file."""
    lines, tables = [], []
    for key, value in config.model_dump(mode="json", exclude_none=True).items():
        if isinstance(value, dict):
            tables += [f"[{key}]", *(f"{k} = {json.dumps(v)}" for k, v in value.items())]
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join([*lines, *tables])


def publish(running: Running, encoder: Encoder, tenant: str, *, seed: int) -> VersionRef:
    adapter = random_adapter(encoder, seed=seed, scale=0.05)
    payload = pack_adapter(adapter, model_name=encoder.ref.name)
    manifest = random_manifest(encoder, adapter, payload, tenant=tenant)
    return running.client.publish(manifest, payload).ref


def with_teachers(root: Path, encoder: Encoder) -> Running:
    running = Running(root)
    for n, tenant in enumerate(["baker", "cooper"]):
        publish(running, encoder, tenant, seed=n)
    return running


def payload_of(registry: Running, report: OnboardReport) -> bytes:
    return registry.client.fetch(VersionRef.parse(report.publish.name))[1]
