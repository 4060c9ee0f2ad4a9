import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.bundle import Bundle, read_bundle, write_bundle
from adapterdistill.confidence import Calibration
from adapterdistill.data.schema import Faq
from adapterdistill.errors import ServingError
from tests.random_variants import make_variant_tenant
from tests.serving_store import make_tenant, save_tiny_encoder

FILES = ["bundle.json", "adapter.safetensors", "faqs.parquet", "index.safetensors"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    torch.set_num_threads(1)
    folder = save_tiny_encoder(tmp_path_factory.mktemp("encoder"))
    return load_encoder(str(folder), dtype="float32")


@pytest.fixture
def bundle(encoder: Encoder) -> Bundle:
    return make_tenant(encoder, "acme", seed=1, threshold=0.25).bundle


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path, bundle: Bundle) -> None:
    folder = write_bundle(tmp_path, bundle)
    found = read_bundle(tmp_path, "acme", folder.name)
    assert folder.name.startswith(bundle.manifest.version)
    assert (found.manifest, found.adapter_payload) == (bundle.manifest, bundle.adapter_payload)
    assert (found.faqs, found.threshold) == (bundle.faqs, bundle.threshold)
    assert torch.equal(found.vectors, bundle.vectors)
    assert torch.equal(found.faq_of_vector, bundle.faq_of_vector)


def test_writing_twice_is_harmless_and_heals_a_damaged_copy(tmp_path: Path, bundle: Bundle) -> None:
    folder = write_bundle(tmp_path, bundle)
    assert write_bundle(tmp_path, bundle) == folder
    (folder / "faqs.parquet").write_bytes(b"")
    assert write_bundle(tmp_path, bundle) == folder
    read_bundle(tmp_path, "acme", folder.name)
    assert sorted(p.name for p in (tmp_path / "acme").iterdir()) == ["versions"]


def test_what_a_killed_writer_left_goes_with_the_next_bundle(
    tmp_path: Path, bundle: Bundle
) -> None:
    torn = tmp_path / "acme" / ".staged-torn"
    torn.mkdir(parents=True)
    (torn / "faqs.parquet").write_bytes(b"PAR1")
    torn.with_name(".staged-live.json").write_text("{")
    write_bundle(tmp_path, bundle)
    assert [path.name for path in (tmp_path / "acme").iterdir()] == ["versions"]


def test_another_index_or_threshold_is_another_bundle_of_the_same_version(
    tmp_path: Path, bundle: Bundle
) -> None:
    others = [replace(bundle, threshold=0.5), replace(bundle, vectors=-bundle.vectors)]
    names = {write_bundle(tmp_path, b).name for b in [bundle, *others]}
    assert len(names) == 3
    assert {name[:64] for name in names} == {bundle.manifest.version}


def test_a_form_is_a_further_file_and_part_of_the_id(
    tmp_path: Path, bundle: Bundle, encoder: Encoder
) -> None:
    plain = write_bundle(tmp_path, bundle)
    assert sorted(p.name for p in plain.iterdir()) == sorted(FILES)
    assert "form" not in json.loads((plain / "bundle.json").read_text())
    with_form = make_variant_tenant(encoder, "acme", "conditional", seed=1).bundle
    folder = write_bundle(tmp_path, with_form)
    assert folder.name[:64] == plain.name[:64] and folder != plain
    assert read_bundle(tmp_path, "acme", folder.name).variant == with_form.variant
    file = folder / "form.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ServingError, match="safetensors does not have its recorded digest"):
        read_bundle(tmp_path, "acme", folder.name)
    file.unlink()
    with pytest.raises(ServingError, match="cannot be read"):
        read_bundle(tmp_path, "acme", folder.name)


def test_a_calibration_comes_back_and_is_part_of_the_id(tmp_path: Path, bundle: Bundle) -> None:
    plain = write_bundle(tmp_path, bundle)
    assert "calibration" not in json.loads((plain / "bundle.json").read_text())
    found = Calibration(
        slope=9.25, intercept=-4.5, rows=7, answered=6, wrong=1, error_bound=0.5,
        edges=(0.5,), counts=(3, 4),
    )  # fmt: skip
    folder = write_bundle(tmp_path, replace(bundle, calibration=found))
    assert folder.name[:64] == plain.name[:64] and folder != plain
    assert read_bundle(tmp_path, "acme", folder.name).calibration == found
    assert read_bundle(tmp_path, "acme", plain.name).calibration is None


def test_a_scorer_is_a_further_file_and_part_of_the_id(
    tmp_path: Path, bundle: Bundle, encoder: Encoder
) -> None:
    plain = write_bundle(tmp_path, bundle)
    assert "scorer" not in json.loads((plain / "bundle.json").read_text())
    assert read_bundle(tmp_path, "acme", plain.name).scorer is None
    folder = write_bundle(tmp_path, replace(bundle, scorer=b"some scorer"))
    assert folder.name[:64] == plain.name[:64] and folder != plain
    assert json.loads((folder / "bundle.json").read_text())["scorer"] == 1
    assert read_bundle(tmp_path, "acme", folder.name).scorer == b"some scorer"
    (folder / "scorer.safetensors").write_bytes(b"some scores")
    with pytest.raises(ServingError, match="safetensors does not have its recorded"):
        read_bundle(tmp_path, "acme", folder.name)
    (folder / "scorer.safetensors").unlink()
    with pytest.raises(ServingError, match="cannot be read"):
        read_bundle(tmp_path, "acme", folder.name)
    with_variant = make_variant_tenant(encoder, "acme", "conditional", seed=1).bundle
    with pytest.raises(ServingError, match="a variant with a scorer"):
        write_bundle(tmp_path, replace(with_variant, scorer=b"some scorer"))


@pytest.mark.parametrize("file", FILES)
def test_a_changed_byte_in_any_file_is_noticed(tmp_path: Path, bundle: Bundle, file: str) -> None:
    folder = write_bundle(tmp_path, bundle)
    whole = (folder / file).read_bytes()
    for position in (0, len(whole) // 3, len(whole) - 1):
        changed = bytearray(whole)
        changed[position] ^= 1
        (folder / file).write_bytes(changed)
        with pytest.raises(ServingError, match="damaged"):
            read_bundle(tmp_path, "acme", folder.name)
    (folder / file).unlink()
    with pytest.raises(ServingError, match="cannot be read"):
        read_bundle(tmp_path, "acme", folder.name)


def test_a_bundle_of_another_tenant_is_not_read(
    tmp_path: Path, encoder: Encoder, bundle: Bundle
) -> None:
    folder = write_bundle(tmp_path, bundle)
    target = tmp_path / "other" / "versions" / folder.name
    target.parent.mkdir(parents=True)
    folder.rename(target)
    with pytest.raises(ServingError, match="another tenant"):
        read_bundle(tmp_path, "other", folder.name)


@pytest.mark.parametrize(
    "fault",
    [
        {"adapter_payload": b"other"},
        {"faqs": []},
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"faq_of_vector": torch.zeros(9, dtype=torch.int64)},
        {"faq_of_vector": torch.tensor([0, 1, 1, 2, 2, 2, 3, 4, 5])},
        {"faq_of_vector": torch.tensor([0, 1, 1, 2, 2, 2, 3, 4])},
        {"vectors": torch.ones(9, 32)},
        {"vectors": torch.full((9, 32), float("nan"))},
        {"vectors": torch.ones(9, 31)},
        {"vectors": torch.ones(9, 32, dtype=torch.float64)},
        {"vectors": torch.ones(32)},
        {"faqs": [Faq("same", "question", None)] * 5},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_a_bundle_that_contradicts_itself_is_not_written(
    tmp_path: Path, bundle: Bundle, fault: dict[str, object]
) -> None:
    with pytest.raises(ServingError):
        write_bundle(tmp_path, replace(bundle, **fault))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tenant", ["..", "a/b", "", "Acme", "/etc"])
def test_names_cannot_leave_the_store(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(ServingError):
        read_bundle(tmp_path, tenant, "0" * 64 + "-" + "0" * 12)
    with pytest.raises(ServingError):
        read_bundle(tmp_path, "acme", "../../../etc")


def test_no_message_quotes_the_tenant_s_text(tmp_path: Path, bundle: Bundle) -> None:
    secret = replace(bundle, faqs=[Faq("same", "canary-4711", "canary-4711")] * 5)
    with pytest.raises(ServingError) as refused:
        write_bundle(tmp_path, secret)
    assert "canary" not in str(refused.value)
