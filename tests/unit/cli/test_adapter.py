"""`adapterdistill adapter`; tests/system/test_adapters_library.py has the library itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from adapterdistill.adapters.interchange import from_library
from adapterdistill.backbone import Encoder
from adapterdistill.cli import main
from adapterdistill.store.release import live_bundle
from tests.serving_store import MadeTenant, make_tenant, put_live


@pytest.fixture
def acme(tmp_path: Path, tiny_encoder: Encoder) -> MadeTenant:
    made = make_tenant(tiny_encoder, "acme", seed=3)
    put_live(tmp_path / "store", made)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["adapter", *map(str, arguments)])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out + said.err


def test_an_export_holds_the_adapter_and_nothing_of_its_owner(
    tmp_path: Path, acme: MadeTenant, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    assert run(capsys, "export", tmp_path / "store" / "acme", out)[0] == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "adapter.safetensors",
        "adapter_config.json",
    ]
    found = from_library(load_file(out / "adapter.safetensors"), name="acme")
    assert found.down_weight.equal(acme.adapter.down_weight)
    described = json.loads((out / "adapter_config.json").read_text())
    assert (described["name"], described["model_type"]) == ("acme", "bert")
    everything = b"".join(file.read_bytes() for file in out.iterdir())
    assert all(faq.question.encode() not in everything for faq in acme.bundle.faqs)
    code, said = run(capsys, "export", tmp_path / "store" / "acme", out)
    assert code != 0 and "exported: File exists" in said


def test_an_import_of_an_export_is_the_same_payload(
    tmp_path: Path, acme: MadeTenant, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "export", tmp_path / "store" / "acme", tmp_path / "exported")
    code, said = run(capsys, "import", tmp_path / "exported", tmp_path / "payload")
    assert code == 0 and "bottleneck of 6" in said
    assert (tmp_path / "payload").read_bytes() == acme.bundle.adapter_payload


def without_weights(folder: Path) -> None:
    (folder / "adapter.safetensors").unlink()


def pickled(folder: Path) -> None:
    (folder / "adapter.safetensors").rename(folder / "pytorch_adapter.bin")


def truncated(folder: Path) -> None:
    (folder / "adapter.safetensors").write_bytes(b"123")


def another_kind(folder: Path) -> None:
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().replace('"relu"', '"gelu"'))


def another_name(folder: Path) -> None:
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().replace('"acme"', '"other"'))


def no_object(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_weights, "No such file or directory (adapter_config.json and adapter.safetensors"),
        (pickled, "use_safetensors=True"),
        (truncated, "is malformed"),
        (no_object, "is malformed"),
        (another_kind, "not an adapter of the kind seq_bn: non_linearity differ"),
        (another_name, "does not hold the named adapter"),
    ],
)
def test_a_folder_that_cannot_be_imported_says_why(
    damage: Callable[[Path], None],
    message: str,
    tmp_path: Path,
    acme: MadeTenant,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(capsys, "export", tmp_path / "store" / "acme", tmp_path / "exported")
    damage(tmp_path / "exported")
    code, said = run(capsys, "import", tmp_path / "exported", tmp_path / "payload")
    assert code != 0 and message in " ".join(said.split())
    assert not (tmp_path / "payload").exists()


def test_a_card_tells_lineage_figures_and_privacy(
    tmp_path: Path, acme: MadeTenant, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(capsys, "card", tmp_path / "store" / "acme")
    manifest = acme.bundle.manifest
    assert code == 0 and manifest.version in said and manifest.encoder.weights_sha256 in said
    assert manifest.privacy in said
    for name, metric in manifest.metrics.items():
        assert f"| {name} | {metric.value:.4f} | {metric.count} |" in said
    assert ("\n".join(f"- `{one}`" for one in manifest.teachers) or "no other adapter") in said
    assert all(faq.question not in said for faq in acme.bundle.faqs)
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    (fetched / "manifest.json").write_bytes(manifest.canonical_json())  # as `registry fetch` does
    assert run(capsys, "card", fetched) == (0, said)
    live = live_bundle(tmp_path / "store", "acme")
    assert run(capsys, "card", tmp_path / "store" / "acme" / live) == (0, said)
    assert run(capsys, "card", tmp_path / "store" / "acme" / "x")[0] != 0


def test_a_folder_without_an_adapter_has_no_card(
    tmp_path: Path, acme: MadeTenant, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "export", tmp_path / "store" / "acme", tmp_path / "exported")
    for folder, what in (
        (tmp_path / "store" / "nobody", "there is no such folder"),
        (tmp_path / "exported", "has no adapter that is described"),
    ):
        code, said = run(capsys, "card", folder)
        assert code == 2 and f"{folder}: {what}: name STORE/TENANT" in "".join(said.split("\n"))
        assert "`adapterdistill registry fetch` wrote" in said
