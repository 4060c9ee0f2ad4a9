"""Copies of a store elsewhere: what they serve while it is lost, and what goes over the line."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.errors import StoreError
from adapterdistill.serve.engine.pointers import Pointers
from adapterdistill.store.bundle import read_bundle, write_bundle
from adapterdistill.store.mirror import Mirror
from adapterdistill.store.objects import Folder, Found, Objects
from adapterdistill.store.release import read_release, set_live, take_down
from tests.serving_store import make_tenant, put_live, stored_file


class Line(Objects):
    """A line to a store that can be cut, and that counts what goes over it."""

    def __init__(self, path: Path) -> None:
        self.far = Folder(path)
        self.where = "s3://bucket/far"
        self.is_cut = False
        self.read_bytes = self.num_reads = self.num_lists = self.written_bytes = 0

    def _go(self) -> Folder:
        if self.is_cut:
            raise StoreError("no connection")
        return self.far

    def read(self, key: str) -> bytes | None:
        found = self._go().read(key)
        self.num_reads += 1
        self.read_bytes += len(found or b"")
        return found

    def write(self, key: str, content: bytes) -> None:
        self.written_bytes += len(content)
        self._go().write(key, content)

    def exists(self, key: str) -> bool:
        return self._go().exists(key)

    def list(self, folder: str) -> Iterator[Found]:
        self.num_lists += 1
        return self._go().list(folder)

    def delete(self, key: str) -> None:
        self._go().delete(key)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path / "far")


@pytest.fixture
def mirror(tmp_path: Path, line: Line) -> Mirror:
    return Mirror(line, tmp_path / "copies")


def names(mirror: Mirror) -> dict[str, str]:
    return {tenant: getattr(found, "bundle", "") for tenant, found in Pointers(mirror).read()}


def test_copies_serve_while_the_store_is_lost_and_changes_are_taken_up_afterwards(
    line: Line, mirror: Mirror, tiny_encoder: Encoder
) -> None:
    first = put_live(line.far, make_tenant(tiny_encoder, "acme", seed=1))
    put_live(line.far, make_tenant(tiny_encoder, "brook", seed=2))
    assert names(mirror).keys() == {"acme", "brook"} and mirror.lost_at is None
    read_bundle(mirror, "acme", first)
    line.is_cut = True
    assert names(mirror).keys() == {"acme", "brook"}
    assert mirror.lost_at is not None
    read_bundle(mirror, "acme", first)
    with pytest.raises(StoreError):  # it was never asked for here
        read_bundle(mirror, "brook", read_release(mirror, "brook").bundle)
    second = put_live(line.far, make_tenant(tiny_encoder, "acme", seed=3))
    take_down(line.far, "brook")
    line.is_cut = False
    assert names(mirror) == {"acme": second} and mirror.lost_at is None
    line.is_cut = True  # and a restart without the store knows what was taken down
    assert names(Mirror(line, mirror.copies.path)) == {"acme": second}


def test_a_share_that_is_not_mounted_is_a_lost_store_and_not_an_empty_one(
    line: Line, mirror: Mirror, tiny_encoder: Encoder
) -> None:
    first = put_live(line.far, make_tenant(tiny_encoder, "acme", seed=1))
    assert names(mirror) == {"acme": first}
    shutil.rmtree(line.far.path)
    line.far.path.mkdir()
    assert names(mirror) == {"acme": first} and mirror.lost_at is not None
    pointers = Pointers(line.far.path)
    put_live(line.far, make_tenant(tiny_encoder, "acme", seed=1))
    assert [tenant for tenant, _ in pointers.read()] == ["acme"]
    (line.far.path / "changed").unlink()
    with pytest.raises(StoreError, match="empty or not mounted"):
        list(pointers.read())


def test_a_refresh_without_a_change_reads_32_bytes_whatever_the_number_of_tenants(
    line: Line, tiny_encoder: Encoder
) -> None:
    put_live(line.far, make_tenant(tiny_encoder, "acme", seed=1))
    release = json.loads((line.far.path / "live" / "acme.json").read_text())
    for number in range(300):
        name = f"tenant-{number}"
        content = json.dumps(release | {"tenant": name})
        (line.far.path / "live" / f"{name}.json").write_text(content)
    pointers = Pointers(line)
    assert len(list(pointers.read())) == 301
    line.num_reads = line.num_lists = line.read_bytes = 0
    for _ in range(5):
        assert len(list(pointers.read())) == 301
    assert (line.num_reads, line.num_lists, line.read_bytes) == (5, 0, 5 * 32)


def test_an_update_moves_only_what_changed_both_ways(
    line: Line, mirror: Mirror, tiny_encoder: Encoder
) -> None:
    made = make_tenant(tiny_encoder, "acme", seed=1, scorer=True).bundle
    set_live(line, "acme", write_bundle(line, made))
    read_bundle(mirror, "acme", read_release(mirror, "acme").bundle)
    line.written_bytes = 0
    new = write_bundle(line, replace(made, faqs=made.faqs[::-1]))
    set_live(line, "acme", new)
    changed = sum(
        stored_file(line.far.path, "acme", new, name).stat().st_size
        for name in ("faqs.parquet", "bundle.json")
    )
    small = 2_000  # the list of files, the release, and the text that says that something changed
    assert changed < line.written_bytes < changed + small
    line.read_bytes = 0
    read_bundle(mirror, "acme", read_release(mirror, "acme").bundle)
    assert changed < line.read_bytes < changed + small
    whole = sum(path.stat().st_size for path in (line.far.path / "blobs" / "acme").iterdir())
    assert line.read_bytes < whole / 2


def test_copies_that_no_release_needs_go_and_a_damaged_one_is_fetched_again(
    line: Line, mirror: Mirror, tiny_encoder: Encoder
) -> None:
    ids = []
    for seed in range(3):
        ids.append(put_live(line.far, make_tenant(tiny_encoder, "acme", seed=seed)))
        read_bundle(mirror, "acme", read_release(mirror, "acme").bundle)
        mirror.prune("acme")
    bundles = mirror.copies.path / "bundles" / "acme"
    assert {path.stem for path in bundles.iterdir()} == set(ids[1:])  # live, and before
    damaged = stored_file(mirror.copies.path, "acme", ids[2], "faqs.parquet")
    damaged.write_bytes(b"")
    read_bundle(mirror, "acme", ids[2])
    assert damaged.stat().st_size > 0
    (mirror.copies.path / "live" / "acme.json").write_text("{")
    mirror.prune("acme")
    assert {path.stem for path in bundles.iterdir()} == set(ids[1:])
