"""SetFit on an arriving tenant's rows: the row of the table that needs an environment of its own.

SetFit's libraries hold back versions that this project needs, so it runs in another interpreter,
which knows nothing of the project (`setfit_worker.py`).

Reference: Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapterdistill.bench.arrivals.answers import outcome
from adapterdistill.bench.cache import ResultCache, content_key
from adapterdistill.bench.transfer.cells import Workbench
from adapterdistill.errors import ConfigError, TrainingError
from adapterdistill.evaluation.metrics import gold_ranks
from adapterdistill.testbed.progress import say

VERSION = "1"
"""Part of every key: raise it when the worker changes what it does."""
SETTINGS = {"num_iterations": 20, "batch_size": 16, "num_epochs": 1}
"""Arguments of SetFit's training; the others are its defaults, and so is the logistic head."""
_WORKER = Path(__file__).with_name("setfit_worker.py")
_REMEDY = (
    "make an environment with `python -m venv FOLDER` and `FOLDER/bin/pip install setfit`, and "
    "name FOLDER/bin/python"
)


@dataclass(frozen=True)
class Fit:
    """SetFit on one arrival; k as there. It uses no unlabelled queries and no other tenant."""

    tenant: str
    k: int | None
    seed: int


@dataclass(frozen=True)
class SetFitBench:
    """Trains SetFit for one tenant after the other, and keeps its answers in the cache."""

    bench: Workbench
    encoder: Path
    """The encoder's folder."""
    python: Path
    version: str
    """Version of SetFit in that interpreter's environment."""

    @property
    def cache(self) -> ResultCache:
        return self.bench.cache

    def key(self, job: Fit) -> str:
        """Names everything that the result depends on."""
        tenant, encoder = self.bench.tenants[job.tenant], self.bench.encoder
        return content_key(
            {
                "purpose": "setfit",
                "version": [VERSION, self.version],
                "settings": SETTINGS,
                "encoder": [encoder.ref.weights_sha256, encoder.ref.tokenizer_sha256],
                "max_tokens": encoder.max_tokens,
                "device": encoder.device.type,
                "tenant": [tenant.name, tenant.digest],
                "rows": [len(tenant.test), len(tenant.out_of_scope)],
                "k": job.k,
                "seed": job.seed,
            }
        )

    def run(self, job: Fit) -> None:
        """Make the result, unless the cache has it; a failed training leaves none."""
        key = self.key(job)
        if self.cache.read(key) is not None:
            return
        try:
            found = self._fit(job)
        except TrainingError as error:
            return say(f"{job.tenant}, k = {job.k}: {error}")
        self.cache.write(key, found)

    def _fit(self, job: Fit) -> dict[str, Any]:
        tenant, encoder = self.bench.tenants[job.tenant], self.bench.encoder
        rows = tenant.arrival(job.k, seed=job.seed)
        answer = _ask(
            self.python,
            {
                "encoder": str(self.encoder),
                "max_tokens": encoder.max_tokens,
                "device": encoder.device.type,
                "settings": SETTINGS,
                "seed": job.seed,
                "texts": rows.texts,
                "labels": rows.labels.tolist(),
                "queries": [tenant.test.texts, tenant.out_of_scope.texts],
            },
        )
        inside, outside = (
            torch.tensor(part, dtype=torch.float64).reshape(-1, tenant.num_faqs)
            for part in answer["probabilities"]
        )
        ranks = gold_ranks(inside, tenant.test.labels)
        return outcome(ranks, inside.amax(1), outside.amax(1)) | {
            "seconds": round(answer["seconds"], 3)
        }


def setfit_version(python: Path) -> str:
    """Ask an interpreter for the version of its SetFit.

    Raises:
        ConfigError: it cannot be started, or has no SetFit.
    """
    probe = "from importlib.metadata import version; print(version('setfit'))"
    try:
        done = _start(python, "-c", probe)
    except OSError:
        raise ConfigError(f"--setfit names no Python that can be started: {_REMEDY}") from None
    if done.returncode != 0:
        raise ConfigError(f"the Python that --setfit names has no SetFit: {_REMEDY}")
    return done.stdout.strip()


def _ask(python: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Let the worker train once. What it prints of a failure may hold texts and is not shown.

    Raises:
        TrainingError: the worker ended without an answer.
    """
    done = _start(python, str(_WORKER), text=json.dumps(request))
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        name = last.partition(":")[0]
        why = f"{name}, " if name.replace(".", "").isidentifier() else ""
        raise TrainingError(f"SetFit gave no answer: {why}exit code {done.returncode}") from None
    return answer


def _start(python: Path, *arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    threads = str(torch.get_num_threads())
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": threads}
    return subprocess.run(
        # Isolated: the worker's own folder holds a module that is named like SetFit's package.
        [str(python), "-I", *arguments],
        input=text,
        capture_output=True,
        text=True,
        env={**os.environ, **quiet},
        check=False,
    )
