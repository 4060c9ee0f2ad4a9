"""Stands for systemd on a host: runs one unit's ExecStart and ExecStartPost, and starts it again.

Reads what the units of cluster/systemd use: Environment, Restart=always, RestartSec and
KillMode=control-group. Their paths are changed to those of this checkout, as an operator would.
"""

import configparser
import ctypes
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: what a node leaves behind becomes this one's child


def main(unit: Path) -> None:
    text = unit.read_text("utf-8").replace(
        "/home/adapterdistill/adapterdistill/.venv/bin", ":VENV:"
    )
    text = text.replace("/home/adapterdistill/adapterdistill", str(ROOT))
    text = text.replace(":VENV:", str(Path(sys.executable).parent))
    read = configparser.ConfigParser(interpolation=None, comment_prefixes="#")
    read.optionxform = str  # type: ignore[assignment,method-assign]  # typed as a method
    read.read_string(text)
    service = read["Service"]
    assert service["Restart"] == "always"
    assert service.get("KillMode", "control-group") == "control-group"
    environment = dict(os.environ)
    if "Environment" in service:
        environment |= [service["Environment"].split("=", 1)]  # type: ignore[arg-type]  # a pair
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    while True:
        print(f"{time.time():.1f} start", flush=True)
        process = subprocess.Popen(shlex.split(service["ExecStart"]), env=environment)
        if "ExecStartPost" in service:
            after = shlex.split(service["ExecStartPost"].removeprefix("-"))
            subprocess.Popen(after, env=environment)
        process.wait()
        print(f"{time.time():.1f} ended with {process.returncode}", flush=True)
        left = psutil.Process().children(recursive=True)
        for one in left:
            one.kill()
        psutil.wait_procs(left, timeout=30)
        time.sleep(float(service["RestartSec"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
