"""Words planted in a tenant's private texts are found nowhere outside its own folders.

Two tenants are onboarded; the second has the first as its teacher. Searched are the bytes on the
wire to and from the registry, the registry's files, all output, the reports, the manifests and the
payloads, for the words and for their token ids.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from adapterdistill.actors.onboarding import OnboardReport, write_report
from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.demo.canaries import Needles
from adapterdistill.manifest import VersionRef
from tests.contract.recording_proxy import RecordingProxy
from tests.contract.running_registry import Running
from tests.owner_runs import run_of, run_through, write_shop, write_task

CANARIES = {"acre": "zephyrquartzacre", "brook": "vexingjumboklutz"}
"""The word in every question, answer and query of each tenant."""
CONTROL = "control-canary-word"
"""The adapter's name in the positive control: it may be found, and is."""


FORM = {
    "training": {"method": "meta_kd"},
    "light": {"layers": 1, "heads": 2, "steps": 4, "most_lost": 1.0},
    "meta": {"share_prototypes": True},
}
"""The second tenant is served by a form, which learnt a task besides, and shares prototypes."""


@dataclass(frozen=True)
class Onboarded:
    """Everything that two onboardings left outside the tenants' own folders, by place."""

    configs: list[OnboardConfig]
    reports: list[OnboardReport]
    outside: dict[str, bytes]


def files_under(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder.parent)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def once() -> list[Onboarded]:
    """Keep the result of the first test that uses `onboarded`, because it captures the output."""
    return []


@pytest.fixture
def onboarded(
    once: list[Onboarded],
    tmp_path: Path,
    tiny_encoder_folder: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Onboarded:
    """Registry's and wire's bytes, output, reports, manifests and payloads of both tenants."""
    if once:
        return once[0]
    caplog.set_level(logging.DEBUG)
    registry = Running(tmp_path / "registry")
    proxy = RecordingProxy(registry.address)
    configs, reports, outside = [], [], {}
    try:
        for tenant, word in CANARIES.items():
            write_shop(
                tmp_path / "data" / tenant,
                splits=("train", "train", "valid", "test", "unlabelled"),
                out_of_scope=("train", "valid", "test"),
                word=word,
            )
            if reports:
                domains = (f"{word} shop", f"{word} home")
                write_task(tmp_path / "data" / tenant, "mood", word=word, domains=domains)
            config = run_of(
                tmp_path,
                tenant,
                encoder=tiny_encoder_folder,
                registry=proxy.address,
                adapter=CONTROL,
                **(FORM if reports else {}),
            )
            report, lines = run_through(config)
            configs.append(config)
            reports.append(report)
            outside[f"report of {tenant}"] = write_report(config, report).read_bytes()
            outside[f"lines of {tenant}"] = "\n".join(lines).encode()
            manifest, payload = registry.client.fetch(VersionRef.parse(report.publish.name))
            outside[f"manifest of {tenant}"] = manifest.canonical_json()
            outside[f"payload of {tenant}"] = payload
        outside |= {f"running {name}": c for name, c in files_under(registry.root).items()}
    finally:
        proxy.close()
        registry.close()
    outside |= {f"wire {n}": part for n, part in enumerate(proxy.recorded())}
    outside |= files_under(registry.root)
    output = capfd.readouterr()
    outside["stdout"], outside["stderr"] = output.out.encode(), output.err.encode()
    outside["log"] = caplog.text.encode()
    once.append(Onboarded(configs, reports, outside))
    return once[0]


def test_no_planted_word_leaves_its_tenant(onboarded: Onboarded, tiny_encoder: Encoder) -> None:
    # The second learnt from the first: its adapter went over the wire in both directions.
    assert len(onboarded.reports[1].fetch_teachers.teachers) == 1
    # And it is served by a form that learnt a task of its own besides, whose prototypes it shares.
    assert onboarded.reports[1].variant.served == "meta_kd"
    assert b'"prototypes":{' in onboarded.outside["manifest of brook"]
    assert set(onboarded.reports[1].variant.tasks) == {"mood"}
    for word in CANARIES.values():
        assert Needles.of(word, tiny_encoder).found_in(onboarded.outside) == set()


def test_no_private_sentence_leaves_its_tenant(onboarded: Onboarded) -> None:
    for sentence in ("where is the kite now", "what about a lamp", "the soup is at the desk"):
        assert not [p for p, content in onboarded.outside.items() if sentence.encode() in content]


def test_what_is_searched_holds_what_was_published(
    onboarded: Onboarded, tiny_encoder: Encoder
) -> None:
    """The positive control: a word in the adapter's name is found where names go."""
    found = {place for place, _ in Needles.of(CONTROL, tiny_encoder).found_in(onboarded.outside)}
    for tenant in CANARIES:
        assert {f"report of {tenant}", f"manifest of {tenant}", f"lines of {tenant}"} <= found
    for kind in ("wire", "running registry", "registry"):
        assert any(place.startswith(kind) for place in found), kind
    wire = b"".join(c for place, c in onboarded.outside.items() if place.startswith("wire"))
    for tenant in CANARIES:
        payload = onboarded.outside[f"payload of {tenant}"]
        tensors = payload[int.from_bytes(payload[:8], "little") + 8 :]
        assert tensors[:2000] in wire  # a run of the weights, whole within one frame


def test_the_owner_has_its_words_and_ids_in_its_own_folders(
    onboarded: Onboarded, tiny_encoder: Encoder
) -> None:
    """The search for ids works: the owner's rows have them, and only the owner's folders."""
    for config, (tenant, word) in zip(onboarded.configs, CANARIES.items(), strict=True):
        needles = Needles.of(word, tiny_encoder)
        forms = {form for _, form in needles.found_in(files_under(Path(config.workspace) / tenant))}
        assert "int32 ids" in forms
        for other in CANARIES.keys() - {tenant}:
            for folder in (config.workspace, config.serving_store):
                assert needles.found_in(files_under(Path(folder) / other)) == set()


def test_a_payload_carries_the_trained_tensors_alone(onboarded: Onboarded) -> None:
    import safetensors.torch

    for tenant in CANARIES:
        payload = onboarded.outside[f"payload of {tenant}"]
        tensors = safetensors.torch.load(payload)
        assert set(tensors) == {"down.weight", "down.bias", "up.weight", "up.bias"}
        sizes = sum(t.numel() * 4 for t in tensors.values())
        header = int.from_bytes(payload[:8], "little")
        assert len(payload) == 8 + header + sizes
        assert all(t.dtype == torch.float32 for t in tensors.values())
