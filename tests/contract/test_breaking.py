"""The guard of the protocol: what would break clients of the last release fails `make check`."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.contract.record_client import BUF

ROOT = Path(__file__).parents[2]
PROTO = Path("proto/adapterdistill/registry/v1/registry.proto")
BREAKS = {
    "a field removed": ("  string task = 4;\n", ""),
    "a field renumbered": ("bytes manifest_json = 2;", "bytes manifest_json = 20;"),
    "a field of another type": ("int64 payload_bytes = 7;", "string payload_bytes = 7;"),
    "a call renamed": ("rpc GetLineage(", "rpc GetAncestry("),
}


def breaking(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [BUF, "breaking", "--against", ROOT / "proto/released.binpb"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


def copy_of_the_protocol(folder: Path) -> Path:
    shutil.copytree(ROOT / "proto", folder / "proto")
    shutil.copy(ROOT / "buf.yaml", folder)
    return folder / PROTO


def test_protocol_breaks_no_client_of_the_last_release(tmp_path: Path) -> None:
    copy = copy_of_the_protocol(tmp_path)
    assert breaking(tmp_path) == (0, "")
    copy.write_text(copy.read_text() + "message Added { string more = 1; }\n")
    assert breaking(tmp_path) == (0, "")


@pytest.mark.parametrize("fault", BREAKS)
def test_change_that_breaks_clients_is_found(fault: str, tmp_path: Path) -> None:
    old, new = BREAKS[fault]
    copy = copy_of_the_protocol(tmp_path)
    assert copy.read_text().count(old) >= 1
    copy.write_text(copy.read_text().replace(old, new, 1))
    status, said = breaking(tmp_path)
    assert status != 0 and PROTO.name in said
