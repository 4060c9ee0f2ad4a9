"""What every place for objects must do, whatever it is made of."""

from adapterdistill.store.objects import Objects


def hold_to_the_contract(objects: Objects) -> None:
    """Read, write, replace, list and delete in an empty place."""
    assert objects.read("changed") is None
    assert not objects.exists("live/acme.json")
    assert list(objects.list("live")) == []
    objects.delete("live/acme.json")

    objects.write("live/acme.json", b"old")
    objects.write("live/brook.json", b"")
    objects.write("blobs/acme/abc", bytes(range(256)) * 4096)
    objects.write("live/acme.json", b"newer")

    assert objects.read("live/acme.json") == b"newer"
    assert objects.read("live/brook.json") == b""
    assert objects.read("blobs/acme/abc") == bytes(range(256)) * 4096
    assert objects.exists("live/acme.json") and not objects.exists("live")
    listed = {one.key: one.size for one in objects.list("live")}
    assert listed == {"live/acme.json": 5, "live/brook.json": 0}
    assert all(one.modified_ns > 1e18 for one in objects.list("live"))
    assert [one.key for one in objects.list("blobs")] == []

    objects.delete("live/acme.json")
    assert objects.read("live/acme.json") is None
    assert [one.key for one in objects.list("live")] == ["live/brook.json"]
