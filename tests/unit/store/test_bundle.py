import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.confidence import Calibration
from adapterdistill.data.schema import Faq
from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.store.bundle import (
    Bundle,
    read_bundle,
    read_contents,
    remove_bundle,
    verify_bundle,
    write_bundle,
)
from adapterdistill.store.objects import Folder
from adapterdistill.store.release import live_bundle, set_live
from adapterdistill.store.sealing import key_id, new_key, read_key
from tests.random_variants import make_variant_tenant
from tests.serving_store import make_tenant, save_tiny_encoder, stored_file

FILES = ["bundle.json", "adapter.safetensors", "faqs.parquet", "index.safetensors"]


class DyingFolder(Folder):
    """A folder whose writer dies after a number of writes."""

    def __init__(self, path: Path, *, after: int) -> None:
        super().__init__(path)
        self.left = after

    def write(self, key: str, content: bytes) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().write(key, content)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    torch.set_num_threads(1)
    folder = save_tiny_encoder(tmp_path_factory.mktemp("encoder"))
    return load_encoder(str(folder), dtype="float32")


@pytest.fixture
def bundle(encoder: Encoder) -> Bundle:
    return make_tenant(encoder, "acme", seed=1, threshold=0.25).bundle


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path, bundle: Bundle) -> None:
    bundle_id = write_bundle(tmp_path, bundle)
    found = read_bundle(tmp_path, "acme", bundle_id)
    assert bundle_id.startswith(bundle.manifest.version)
    assert (found.manifest, found.adapter_payload) == (bundle.manifest, bundle.adapter_payload)
    assert (found.faqs, found.threshold) == (bundle.faqs, bundle.threshold)
    assert torch.equal(found.vectors, bundle.vectors)
    assert torch.equal(found.faq_of_vector, bundle.faq_of_vector)


def test_writing_twice_is_harmless_and_heals_a_damaged_copy(tmp_path: Path, bundle: Bundle) -> None:
    bundle_id = write_bundle(tmp_path, bundle)
    assert write_bundle(tmp_path, bundle) == bundle_id
    blob = stored_file(tmp_path, "acme", bundle_id, "faqs.parquet")
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    (tmp_path / "bundles" / "acme" / f"{bundle_id}.json").write_bytes(b"")
    assert write_bundle(tmp_path, bundle) == bundle_id
    read_bundle(tmp_path, "acme", bundle_id)
    assert len(list((tmp_path / "bundles" / "acme").iterdir())) == 1


def test_bundles_share_what_they_have_in_common_until_the_last_one_goes(
    tmp_path: Path, bundle: Bundle
) -> None:
    first = write_bundle(tmp_path, bundle)
    blobs = tmp_path / "blobs" / "acme"
    before = {path.name for path in blobs.iterdir()}
    second = write_bundle(tmp_path, replace(bundle, threshold=0.5))
    [new] = {path.name for path in blobs.iterdir()} - before
    assert json.loads((blobs / new).read_text())["threshold"] == 0.5
    remove_bundle(tmp_path, "acme", first)
    read_bundle(tmp_path, "acme", second)
    assert len(list(blobs.iterdir())) == len(before)
    with pytest.raises(ServingError, match="there is none"):
        read_bundle(tmp_path, "acme", first)
    remove_bundle(tmp_path, "acme", second)
    assert list(blobs.iterdir()) == []


@pytest.mark.parametrize("writes", range(6))
def test_a_writer_that_dies_at_any_step_leaves_nothing_that_is_read(
    tmp_path: Path, bundle: Bundle, writes: int
) -> None:
    dying = DyingFolder(tmp_path, after=writes)
    old = write_bundle(tmp_path, replace(bundle, threshold=0.5))
    set_live(tmp_path, "acme", old)
    new = replace(bundle, vectors=-bundle.vectors, scorer=b"some scorer", faqs=bundle.faqs[::-1])
    with pytest.raises(KeyboardInterrupt):
        set_live(dying, "acme", write_bundle(dying, new))
    assert read_bundle(tmp_path, "acme", live_bundle(tmp_path, "acme")).threshold == 0.5
    set_live(tmp_path, "acme", write_bundle(tmp_path, new))
    assert read_bundle(tmp_path, "acme", live_bundle(tmp_path, "acme")).scorer == b"some scorer"


def test_another_index_or_threshold_is_another_bundle_of_the_same_version(
    tmp_path: Path, bundle: Bundle
) -> None:
    others = [replace(bundle, threshold=0.5), replace(bundle, vectors=-bundle.vectors)]
    names = {write_bundle(tmp_path, b) for b in [bundle, *others]}
    assert len(names) == 3
    assert {name[:64] for name in names} == {bundle.manifest.version}


def head_of(store: Path, bundle_id: str) -> dict[str, object]:
    head = json.loads(stored_file(store, "acme", bundle_id, "bundle.json").read_text())
    assert isinstance(head, dict)
    return head


def test_a_form_is_a_further_file_and_part_of_the_id(
    tmp_path: Path, bundle: Bundle, encoder: Encoder
) -> None:
    plain = write_bundle(tmp_path, bundle)
    assert sorted(read_contents(tmp_path, "acme", plain).files) == sorted(FILES)
    assert "form" not in head_of(tmp_path, plain)
    with_form = make_variant_tenant(encoder, "acme", "conditional", seed=1).bundle
    other = write_bundle(tmp_path, with_form)
    assert other[:64] == plain[:64] and other != plain
    assert read_bundle(tmp_path, "acme", other).variant == with_form.variant
    file = stored_file(tmp_path, "acme", other, "form.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ServingError, match="safetensors does not have its recorded digest"):
        read_bundle(tmp_path, "acme", other)
    file.unlink()
    with pytest.raises(ServingError, match="cannot be read"):
        read_bundle(tmp_path, "acme", other)


def test_a_calibration_comes_back_and_is_part_of_the_id(tmp_path: Path, bundle: Bundle) -> None:
    plain = write_bundle(tmp_path, bundle)
    assert "calibration" not in head_of(tmp_path, plain)
    found = Calibration(
        slope=9.25, intercept=-4.5, rows=7, answered=6, wrong=1, error_bound=0.5,
        edges=(0.5,), counts=(3, 4),
    )  # fmt: skip
    other = write_bundle(tmp_path, replace(bundle, calibration=found))
    assert other[:64] == plain[:64] and other != plain
    assert read_bundle(tmp_path, "acme", other).calibration == found
    assert read_bundle(tmp_path, "acme", plain).calibration is None


def test_a_scorer_is_a_further_file_and_part_of_the_id(
    tmp_path: Path, bundle: Bundle, encoder: Encoder
) -> None:
    plain = write_bundle(tmp_path, bundle)
    assert "scorer" not in head_of(tmp_path, plain)
    assert read_bundle(tmp_path, "acme", plain).scorer is None
    other = write_bundle(tmp_path, replace(bundle, scorer=b"some scorer"))
    assert other[:64] == plain[:64] and other != plain
    assert head_of(tmp_path, other)["scorer"] == 1
    assert read_bundle(tmp_path, "acme", other).scorer == b"some scorer"
    file = stored_file(tmp_path, "acme", other, "scorer.safetensors")
    file.write_bytes(b"some scores")
    with pytest.raises(ServingError, match="safetensors does not have its recorded"):
        read_bundle(tmp_path, "acme", other)
    with_variant = make_variant_tenant(encoder, "acme", "conditional", seed=1).bundle
    both = write_bundle(tmp_path, replace(with_variant, scorer=b"some scorer"))
    assert read_bundle(tmp_path, "acme", both).variant == with_variant.variant


@pytest.mark.parametrize("file", FILES)
def test_a_changed_byte_in_any_file_is_noticed(tmp_path: Path, bundle: Bundle, file: str) -> None:
    bundle_id = write_bundle(tmp_path, bundle)
    blob = stored_file(tmp_path, "acme", bundle_id, file)
    whole = blob.read_bytes()
    for position in (0, len(whole) // 3, len(whole) - 1):
        changed = bytearray(whole)
        changed[position] ^= 1
        blob.write_bytes(changed)
        with pytest.raises(ServingError, match="damaged"):
            read_bundle(tmp_path, "acme", bundle_id)
    blob.unlink()
    with pytest.raises(ServingError, match="cannot be read"):
        read_bundle(tmp_path, "acme", bundle_id)


def test_a_list_of_other_files_is_not_the_bundle(tmp_path: Path, bundle: Bundle) -> None:
    bundle_id = write_bundle(tmp_path, bundle)
    other = write_bundle(tmp_path, replace(bundle, threshold=0.5))
    listed = tmp_path / "bundles" / "acme" / f"{bundle_id}.json"
    good = json.loads(listed.read_text())
    listed.write_text(listed.with_name(f"{other}.json").read_text())
    with pytest.raises(ServingError, match=r"bundle\.json does not have the digest in its id"):
        read_bundle(tmp_path, "acme", bundle_id)
    swapped = {**good["files"], "faqs.parquet": good["files"]["index.safetensors"]}
    for changed in ({**good, "files": swapped}, {**good, "files": {}}, {**good, "more": 1}):
        listed.write_text(json.dumps(changed))
        with pytest.raises(ServingError, match="damaged"):
            read_bundle(tmp_path, "acme", bundle_id)


def test_a_bundle_of_another_tenant_is_not_read(
    tmp_path: Path, encoder: Encoder, bundle: Bundle
) -> None:
    bundle_id = write_bundle(tmp_path, bundle)
    for part in ("blobs", "bundles"):
        (tmp_path / part / "acme").rename(tmp_path / part / "other")
    with pytest.raises(ServingError, match="another tenant"):
        read_bundle(tmp_path, "other", bundle_id)


def test_a_key_hides_the_faqs_and_the_same_content_stays_the_same(
    tmp_path: Path, bundle: Bundle
) -> None:
    key, other_key = new_key(tmp_path / "acme.key"), new_key(tmp_path / "other.key")
    assert read_key(tmp_path / "acme.key") == key
    assert (tmp_path / "acme.key").stat().st_mode & 0o777 == 0o600
    store = tmp_path / "store"
    secret = replace(bundle, faqs=[Faq(f"faq-{n}", f"canary-4711 {n}", None) for n in range(5)])
    bundle_id = write_bundle(store, secret, key=key)
    set_live(store, "acme", bundle_id)
    blobs = {path.name: path.read_bytes() for path in (store / "blobs" / "acme").iterdir()}
    assert not any(b"canary-4711" in blob or b"PAR1" in blob for blob in blobs.values())
    assert read_bundle(store, "acme", bundle_id, key=key).faqs == secret.faqs
    write_bundle(store, replace(secret, threshold=0.5), key=key)
    assert len(list((store / "blobs" / "acme").iterdir())) == len(blobs) + 1  # the head
    for wrong, said in (
        (None, "none was given"),
        (other_key, f"key {key_id(other_key)} was given"),
    ):
        with pytest.raises(ServingError, match=f"is encrypted with key {key_id(key)}, and {said}"):
            read_bundle(store, "acme", bundle_id, key=wrong)
    # A changed list may name another file's blob, whose digest is right.
    listed = store / "bundles" / "acme" / f"{bundle_id}.json"
    contents = json.loads(listed.read_text())
    contents["files"]["faqs.parquet"] = contents["files"]["index.safetensors"]
    listed.write_text(json.dumps(contents))
    with pytest.raises(ServingError, match=r"acme/faqs\.parquet cannot be decrypted"):
        read_bundle(store, "acme", bundle_id, key=key)


def test_a_bundle_that_gets_a_key_leaves_nothing_in_the_clear(
    tmp_path: Path, bundle: Bundle
) -> None:
    key, store = new_key(tmp_path / "key"), tmp_path / "store"
    plain = write_bundle(store, bundle)
    assert write_bundle(store, bundle, key=key) == plain
    blobs = [path.read_bytes() for path in (store / "blobs" / "acme").iterdir()]
    assert len(blobs) == len(FILES) and not any(blob.startswith(b"PAR1") for blob in blobs)
    read_bundle(store, "acme", plain, key=key)


def test_an_encrypted_bundle_is_verified_without_its_key(tmp_path: Path, bundle: Bundle) -> None:
    bundle_id = write_bundle(tmp_path, bundle, key=new_key(tmp_path / "key"))
    set_live(tmp_path, "acme", bundle_id)
    stored_file(tmp_path, "acme", bundle_id, "faqs.parquet").write_bytes(b"")
    with pytest.raises(ServingError, match="damaged"):
        verify_bundle(tmp_path, "acme", bundle_id)


def test_what_is_no_key_is_told(tmp_path: Path) -> None:
    key = tmp_path / "key"
    with pytest.raises(ConfigError, match="No such file"):
        read_key(key)
    for text in ("", "abc", "00" * 31, "zz" * 32, "\udc80"):
        key.write_bytes(text.encode(errors="surrogateescape"))
        key.chmod(0o600)
        with pytest.raises(ConfigError, match="not a key: make one with"):
            read_key(key)
    with pytest.raises(ConfigError, match="there is a file already"):
        new_key(key)
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        read_key(key)


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
