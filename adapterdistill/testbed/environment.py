"""Facts that belong to a figure: commit, machine, load, versions. Never a path."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from adapterdistill import __version__
from adapterdistill.backbone import Encoder

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors")


def environment(encoder: Encoder | None = None) -> dict[str, Any]:
    """Commit, processor, cores, threads, load, dtype and package versions."""
    facts: dict[str, Any] = {
        "adapterdistill": __version__,
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_1_5_15_min": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "threads_in_this_process": torch.get_num_threads(),
    }
    if encoder is not None:
        facts |= {
            "encoder": encoder.ref.name,
            "encoder_sha256": encoder.ref.weights_sha256[:12],
            "dtype": encoder.precision,
            "device": _device(encoder.device),
            "max_tokens": encoder.max_tokens,
        }
    return facts


def _commit() -> str:
    """The commit of the code, with "+changes" where files differ from it."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit[:12] + ("+changes" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "not a git checkout"


def _git(folder: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", *args], cwd=folder, capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
