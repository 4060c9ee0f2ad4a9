"""One contract for every place for objects; tests/system/test_object_store.py holds S3 to it."""

import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from adapterdistill.errors import ConfigError, StoreError
from adapterdistill.store.objects import Bucket, Objects, open_objects
from tests.object_contract import hold_to_the_contract


def _through_pyarrow(path: Path) -> Objects:
    """The code of S3 on pyarrow's own folder, which is at hand without a server."""
    path.mkdir()
    local = fs.LocalFileSystem()
    for name in ("live", "blobs/acme"):
        (path / "pre" / name).mkdir(parents=True)  # buckets need no folders
    return Bucket(fs.SubTreeFileSystem(str(path), local), "pre", "s3://bucket/pre")


PLACES: dict[str, Callable[[Path], Objects]] = {
    "folder": lambda path: open_objects(path),
    "text": lambda path: open_objects(str(path)),
    "uri": lambda path: open_objects(f"file://{path}"),
    "bucket": _through_pyarrow,
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_keeps_the_contract(tmp_path: Path, place: str) -> None:
    (tmp_path / "store").mkdir(exist_ok=True) if place != "bucket" else None
    hold_to_the_contract(PLACES[place](tmp_path / "store"))


def test_a_uri_may_hold_spaces_and_an_open_place_stays_open(tmp_path: Path) -> None:
    objects = open_objects(f"file://{tmp_path}/a%20b")
    objects.write("changed", b"1")
    assert (tmp_path / "a b" / "changed").read_bytes() == b"1"
    assert open_objects(objects) is objects


def test_files_and_folders_are_closed_to_other_users(tmp_path: Path) -> None:
    open_objects(tmp_path / "store").write("blobs/acme/abc", b"private")
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "store", *(tmp_path / "store").rglob("*"))
    }
    assert modes == {
        "store": 0o700,
        "store/blobs": 0o700,
        "store/blobs/acme": 0o700,
        "store/blobs/acme/abc": 0o600,
    }


def test_what_a_killed_writer_left_is_not_listed_and_goes_with_the_next_write(
    tmp_path: Path,
) -> None:
    objects = open_objects(tmp_path)
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / ".staged-acme.json.0123").write_text("{")
    assert list(objects.list("live")) == []
    objects.write("live/acme.json", b"{}")
    assert [path.name for path in (tmp_path / "live").iterdir()] == ["acme.json"]


def test_rivals_writing_one_name_leave_one_of_their_contents(tmp_path: Path) -> None:
    objects = open_objects(tmp_path)
    faults: list[Exception] = []

    def write(number: int) -> None:
        try:
            for _ in range(8):
                objects.write("live/acme.json", bytes([number]) * 1000)
        except Exception as error:
            faults.append(error)

    rivals = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for rival in rivals:
        rival.start()
    while any(rival.is_alive() for rival in rivals):
        seen = objects.read("live/acme.json") or b""
        assert len(set(seen)) < 2 and len(seen) in (0, 1000)
    assert faults == []
    assert [path.name for path in (tmp_path / "live").iterdir()] == ["acme.json"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            "gs://bucket/store",
            r"gs:// is not a place .* expected a folder, file:///FOLDER or s3://",
        ),
        ("file://host/store", "file:// is not a place"),
        ("s3:///store", r"s3:///store: names no bucket"),
        ("s3://key:secret@bucket/store", r"s3://bucket/store: holds credentials"),
        ("s3://bucket/store?zone=3", "zone is not an option: expected endpoint_override"),
        ("s3://bucket/store?scheme=ftp", "scheme: expected http or https"),
    ],
)
def test_what_is_no_place_is_refused_without_its_secrets(where: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        open_objects(where)
    assert "secret@" not in str(refused.value)


def test_a_place_out_of_reach_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    blocked = open_objects(tmp_path / "file")
    for act in (lambda: blocked.write("a", b""), lambda: list(blocked.list("live"))):
        with pytest.raises(StoreError, match=r"store .*/file cannot be used: "):
            act()
    with pytest.raises(StoreError, match="No such file"):
        list(open_objects(tmp_path / "absent").list("live"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    bucket = open_objects("s3://bucket/store?endpoint_override=http://127.0.0.1:1")
    with pytest.raises(StoreError, match="store s3://bucket/store cannot be used: no connection"):
        bucket.read("changed")


@pytest.mark.parametrize("key", ["", "/etc", "../a", "a/../b", "a//b", ".hidden", "a/", "a b"])
def test_a_key_cannot_leave_the_place(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        open_objects(tmp_path).read(key)
