"""The main job as one story: cluster, registry, onboarding jobs, serving, questions, the end."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from adapterdistill.actors.cluster import (
    OwnCluster,
    cluster_processes,
    free_port,
    start_own_cluster,
    stop_own_cluster,
)
from adapterdistill.actors.onboarding import OnboardReport
from adapterdistill.data import Query, TenantDataset
from adapterdistill.data.importing import import_samples
from adapterdistill.demo.parties import HOME_VARIABLE, submit_onboarding
from adapterdistill.errors import ServingError, TrainingError


@dataclass(frozen=True)
class Answer:
    """One question asked over HTTP."""

    tenant: str
    asked: str
    answerable: bool
    """Whether an FAQ of the tenant answers it."""
    first: str
    score: float
    abstained: bool
    version: str
    milliseconds: float


@dataclass
class DemoResult:
    """The results of the demo."""

    reports: list[OnboardReport] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    peak_rss_mb: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    serve_address: str = ""
    registry_address: str = ""
    ray_address: str = ""
    dashboard_address: str = ""

    def as_json(self) -> dict[str, Any]:
        """Reports, figures and answers; the questions are the samples' own."""
        return {
            "reports": [report.model_dump(mode="json") for report in self.reports],
            "answers": [asdict(answer) for answer in self.answers],
            "peak_rss_mb": self.peak_rss_mb,
            "seconds": self.seconds,
        }


class Demo:
    """Context of one demo: on leaving, everything that it started is stopped unless `keep`."""

    def __init__(
        self,
        tenants: list[str],
        *,
        runs: Path,
        emit: Callable[[str], None],
        keep: bool,
        encoder: str = "minilm-l6",
    ) -> None:
        self._tenants = tenants
        self._runs = runs
        self._emit = emit
        self._keep = keep
        self._encoder = encoder
        self._cluster: OwnCluster | None = None
        self.home = Path(tempfile.mkdtemp(prefix="ad-"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        _leave_ray()
        if self._keep and error is None:
            return
        self._emit("stopping everything")
        if self._cluster is not None:
            stop_own_cluster(self._cluster)
        shutil.rmtree(self.home, ignore_errors=True)

    def run(self) -> DemoResult:
        """The whole story. Raises the error of the step that failed."""
        result = DemoResult()

        def step(name: str, work: Callable[[], Any]) -> Any:
            self._emit(f"== {name}")
            started = time.perf_counter()
            value = work()
            result.seconds[name] = round(time.perf_counter() - started, 1)
            return value

        step("data", self._import_data)
        cluster = step("cluster", self._start_cluster)
        result.ray_address, result.dashboard_address = cluster.address, cluster.dashboard
        result.registry_address = step("registry", self._start_registry)
        result.reports = step("onboarding", lambda: [self._onboard(t) for t in self._tenants])
        result.serve_address = step("serving", self._serve)
        result.answers = step("questions", lambda: self._ask(result.serve_address))
        result.peak_rss_mb = self._memory(result.reports)
        return result

    def _import_data(self) -> None:
        for tenant in self._tenants:
            counts = import_samples(tenant, self.home / "data" / tenant)
            self._emit(f"{tenant}: {counts['faqs']} FAQs as private Parquet")

    def _start_cluster(self) -> OwnCluster:
        self._cluster = start_own_cluster(
            self.home,
            num_cpus=max(2, os.cpu_count() or 2),
            resources={f"owner:{tenant}": 1 for tenant in self._tenants},
            environment={HOME_VARIABLE: str(self.home)},
        )
        os.environ.update(self._cluster.environment)  # before Ray is imported here
        return self._cluster

    def _start_registry(self) -> str:
        import logging

        import ray

        from adapterdistill.actors.teacher_registry import start_teacher_registry

        assert self._cluster is not None
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        actor = start_teacher_registry(
            self.home / "registry",
            port=free_port(),
            address_file=self.home / "registry.address",
        )
        return str(ray.get(actor.address.remote(), timeout=60))

    def _onboard(self, tenant: str) -> OnboardReport:
        """`ray job submit`, its output shown as it comes."""
        assert self._cluster is not None
        status, tail = submit_onboarding(
            self._cluster,
            self._runs / f"{tenant}.toml",
            submission_id=f"onboard-{tenant}",
            emit=self._emit,
        )
        if status != 0:
            raise TrainingError(f"onboarding {tenant} failed: {' | '.join(tail[-5:])}")
        report = self.home / "owners" / tenant / "report.json"
        return OnboardReport.model_validate_json(report.read_bytes())

    def _serve(self) -> str:
        from adapterdistill.serve.app import deploy

        settings = {"store": str(self.home / "serving"), "encoder": self._encoder, "num_cpus": 0.5}
        return deploy(settings, port=free_port())

    def _ask(self, address: str) -> list[Answer]:
        import httpx

        answers = []
        with httpx.Client(base_url=address, timeout=30) as client:
            for tenant in self._tenants:
                for query in self._questions(tenant):
                    started = time.perf_counter()
                    response = client.post(
                        f"/v1/tenants/{tenant}/search", json={"query": query.text, "top_k": 3}
                    )
                    elapsed = time.perf_counter() - started
                    if response.status_code != 200:
                        raise ServingError(f"{tenant}: HTTP status {response.status_code}")
                    answers.append(_answer(tenant, query, response.json(), elapsed))
        return answers

    def _questions(self, tenant: str) -> list[Query]:
        """A test question that the tenant answers, and one that it does not."""
        queries = list(TenantDataset.open(self.home / "data" / tenant).queries("test"))
        answerable = next(q for q in queries if q.faq_id is not None)
        return [answerable, next(q for q in queries if q.faq_id is None)]

    def _memory(self, reports: list[OnboardReport]) -> dict[str, float]:
        assert self._cluster is not None
        training = [
            max(report.bundle.peak_rss_mb, report.distil.training_peak_rss_mb) for report in reports
        ]
        peaks = {"training": max(training)}
        for name, title in (("registry", "TeacherRegistry"), ("replica", "ServeReplica")):
            found = [p for p in cluster_processes(self._cluster) if _has_title(p, title)]
            peaks[name] = max((_peak_mb(p) for p in found), default=float("nan"))
        return peaks


def _answer(tenant: str, query: Query, body: dict[str, Any], elapsed_s: float) -> Answer:
    result = body["results"][0]
    return Answer(
        tenant=tenant,
        asked=query.text,
        answerable=query.faq_id is not None,
        first=result["ranked"][0]["question"],
        score=result["ranked"][0]["score"],
        abstained=result["abstained"],
        version=body["adapter"]["version"],
        milliseconds=round(elapsed_s * 1000, 1),
    )


def _has_title(process: psutil.Process, title: str) -> bool:
    try:
        return any(title in part for part in process.cmdline())
    except psutil.Error:
        return False


def _peak_mb(process: psutil.Process) -> float:
    """VmHWM, in MiB; NaN where the system does not tell."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    except OSError:
        return float("nan")
    peak = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return round(int(peak[0].split()[1]) / 1024, 1) if peak else float("nan")


def _leave_ray() -> None:
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


def stop_cluster(home: Path) -> None:
    """Stop what a demo left running in `home` and remove the folder.

    Raises:
        ServingError: no demo ran there.
    """
    stop_own_cluster(OwnCluster.load(home))
    shutil.rmtree(home, ignore_errors=True)
