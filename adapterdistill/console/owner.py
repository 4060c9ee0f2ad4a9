"""An owner's pages: where its files are, the tenants in them, and each run with its report."""

from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from adapterdistill.actors.report.page import render
from adapterdistill.actors.report.runs import find_run, read_runs, version_before
from adapterdistill.console.pages import Link, Pages
from adapterdistill.console.progress import Progress, read_progress, tenants_in
from adapterdistill.console.training import plots_of
from adapterdistill.errors import ConfigError, NotFoundError, ServingError
from adapterdistill.feedback import keeps, opened
from adapterdistill.manifest import is_name
from adapterdistill.store.bundle import Place
from adapterdistill.store.release import Release, has_release, is_there, read_release
from adapterdistill.store.release import tenants_in as served_tenants_in

LINKS = (
    Link("/", "Overview"),
    Link("/runs", "Runs"),
    Link("/releases", "Releases"),
    Link("/questions", "Questions"),
    Link("/ask", "Ask"),
)
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)
"""A report brings its own styles inside the file, and nothing else."""


@dataclass(frozen=True)
class Owner:
    """Places of an owner's files, and of its endpoint."""

    workspace: Path
    store: Place
    tenant: str | None = None
    """The only tenant that is shown; None: every tenant in the two folders."""
    data: Path | None = None
    """The tenant's folder of data, for labels to go to; None: it is not known."""
    serving: str | None = None
    """Address of the search endpoint; None: questions are answered in this process."""
    token: str | None = None
    """The tenant's token for the endpoint."""
    encoder: str | None = None
    """Name or folder of the encoder that answers in this process; None: the bundle names it."""
    dtype: str = "auto"
    config: Path | None = None
    """The TOML that the console was started with, which it can run."""
    runs: Path | None = None
    """A folder of further TOMLs that it can run."""
    cluster: str | None = None
    """URL of the Ray dashboard that runs are sent to; None: they run on this machine."""

    def configs(self) -> list[Path]:
        """The TOMLs that the console was told of, sorted; their names differ."""
        found = [] if self.runs is None else sorted(self.runs.glob("*.toml"))
        others = [file for file in found if self.config is None or file.name != self.config.name]
        return [*([] if self.config is None else [self.config]), *others]

    def tenants(self) -> list[str]:
        """The tenants that are shown, sorted."""
        if self.tenant is not None:
            return [self.tenant]
        served = served_tenants_in(self.store) if is_there(self.store) else []
        return sorted({*tenants_in(self.workspace), *served})

    def require(self, tenant: str) -> None:
        """Raise NotFoundError unless the tenant is one of these."""
        if not is_name(tenant) or tenant not in self.tenants():
            raise NotFoundError("there is no such tenant here")

    def release(self, tenant: str) -> Release | None:
        """The tenant's release; None: nothing is served yet. Raises ServingError: it is damaged."""
        if not has_release(self.store, tenant):
            return None
        return read_release(self.store, tenant)


def add_runs(router: APIRouter, owner: Owner, pages: Pages) -> None:
    """Add the overview, each run and its report."""

    @router.get("/")
    def overview(request: Request) -> Response:
        """Each tenant: its last run, what is live, and how many questions wait for a label."""
        shown = [_overview(owner, tenant) for tenant in owner.tenants()]
        return pages.page(request, "overview", tenants=shown, owner=owner)

    @router.get("/runs/{tenant}/{name}")
    def run(request: Request, tenant: str, name: str, seen: str = "") -> Response:
        one, others = _named(owner, tenant, name)
        plots = plots_of(owner.workspace / tenant / "runs" / name)
        return pages.followed(request, "run", one.mark, seen, run=one, others=others, plots=plots)

    @router.get("/runs/{tenant}/{name}/report")
    def report(tenant: str, name: str, compare: str = "", texts: bool = True) -> Response:
        """The page that `adapterdistill report` writes."""
        _named(owner, tenant, name)
        runs = read_runs(owner.workspace, tenant)
        run = find_run(runs, name)
        before = find_run(runs, compare) if compare else version_before(run, runs)
        page = render(run, before=before, runs=runs, texts=texts)
        return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})


def _named(owner: Owner, tenant: str, name: str) -> tuple[Progress, list[Progress]]:
    """The tenant's run of that name, and its other runs."""
    owner.require(tenant)
    runs = read_progress(owner.workspace, tenant)
    found = [run for run in runs if run.name == name]
    if not found:
        raise NotFoundError(f"tenant {tenant} has no such run")
    return found[0], [run for run in runs if run.name != name]


@dataclass(frozen=True)
class _Overview:
    tenant: str
    run: Progress | None
    release: Release | None
    waiting: int
    """Kept questions without a label."""
    fault: str


def _overview(owner: Owner, tenant: str) -> _Overview:
    runs = read_progress(owner.workspace, tenant)
    release, waiting, fault = None, 0, ""
    try:
        release = owner.release(tenant)
        if keeps(owner.store, tenant):
            with opened(owner.store, tenant) as feedback:
                waiting = len(feedback.questions(labelled=False))
    except (ServingError, ConfigError) as error:
        fault = str(error)
    return _Overview(tenant, runs[0] if runs else None, release, waiting, fault)
