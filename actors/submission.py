"""Submits an onboarding as a Ray job, with a package in which nothing but code travels.

`ray job submit --working-dir .` uploads whatever lies in the folder: rows, keys, a registry. Here a
list says what may travel; all else stays.
"""

import contextlib
import io
import os
import shlex
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import adapterdistill
from adapterdistill import ray_private
from adapterdistill.config import OnboardConfig
from adapterdistill.errors import ConfigError, PlacementError
from adapterdistill.files import read_file
from adapterdistill.open_cluster import refuse_open_dashboard

ROOT = Path(adapterdistill.__file__).resolve().parents[1]
"""The folder that holds the packages: a clone, or `site-packages`; in a job, what was unpacked."""
RUN_FILE = "run.toml"
_POLL_S = 1.0
_PATIENCE_S = 60.0
"""Longest time for which the dashboard may not answer while a job runs."""
_ANSWER_S = 10.0
"""Longest time of one question: the dashboard asks the job's node for the log."""
_DRIVER_SHARE = 0.001
"""Share of the owner's resource that a driver takes, as a data owner does: many fit."""
_TRAVELS = {
    "adapterdistill": (".py", ".pyi", ".typed"),
    "adapterdistill/actors": (".py", ".html"),
    "adapterdistill/serve": (".py",),
    "cluster": (".sh", ".toml"),
}
"""Folders, and the endings of their files that travel. In a checkout two of them are links."""
_SAMPLES = (
    *("ashgrove-housing", "brookfield-library", "larkhill-vets", "pedal-and-spoke"),
    *("ridgewater-electric", "valtara-rail"),
)
_ALSO = {
    *("adapterdistill/samples/probes.json", "adapterdistill/samples/fingerprint_probes.json"),
    *(f"adapterdistill/samples/{name}/{part}.jsonl"
      for name in _SAMPLES for part in ("faqs", "queries")),
}  # fmt: skip
"""What the code reads beside itself: by name, since an owner's rows may lie there too."""
_UNCHANGING = (1980, 1, 1, 0, 0, 0)  # the package's digest is that of its content


def package(root: Path, run_file: Path) -> bytes:
    """Pack the code below `root` and the run's TOML, as a zip that Ray unpacks.

    Links, hidden files and files without an ending of the list stay behind.

    Raises:
        ConfigError: the TOML cannot be read.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        contents = {str(name): (root / name).read_bytes() for name in travelling(root)}
        for name, content in sorted({**contents, RUN_FILE: read_file(run_file)}.items()):
            entry = zipfile.ZipInfo(name, date_time=_UNCHANGING)
            entry.external_attr = (0o700 if name.endswith(".sh") else 0o600) << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def travelling(root: Path) -> Iterator[PurePosixPath]:
    """Paths, relative to `root`, of the files that travel."""
    for top, endings in _TRAVELS.items():
        for folder, folders, files in os.walk(root / top):  # it follows no links
            folders[:] = [name for name in folders if not name.startswith(".")]
            for file in (Path(folder) / name for name in files):
                name = PurePosixPath(file.relative_to(root))
                wanted = file.suffix in endings or str(name) in _ALSO
                if wanted and not file.name.startswith(".") and not file.is_symlink():
                    yield name


def require_outside(config: OnboardConfig, root: Path = ROOT) -> None:
    """Refuse a run on a cluster whose folders are below the code's, which a job has a copy of.

    Raises:
        ConfigError: a folder is there, perhaps because its path is relative.
    """
    for key in ("data", "workspace", "serving_store"):
        if "://" in (value := getattr(config, key)):
            continue
        folder = Path(value)
        if folder.resolve().is_relative_to(root):
            raise ConfigError(
                f"{key}: {folder} is below {root}, whose files are sent to the cluster: name an "
                "absolute path outside it, on the owner's node"
            )


def entrypoint(*, config: str = RUN_FILE, insecure: bool = False, promote: bool = False) -> str:
    """The command that a job runs, where the package was unpacked or on the owner's node."""
    flags = " --insecure-cluster" * insecure + " --promote" * promote
    return f"python -m adapterdistill onboard --config {shlex.quote(config)}{flags}"


def driver_resources(owner: str) -> dict[str, float]:
    """What a job reserves so that its driver runs on the owner's node."""
    return {f"owner:{owner}": _DRIVER_SHARE}


def submit(
    command: str,
    *,
    address: str,
    submission_id: str | None = None,
    insecure: bool = False,
    package_file: Path | None = None,
    owner: str | None = None,
) -> str:
    """Submit a job to a cluster, and return the job's id.

    Args:
        command: one of `entrypoint`.
        address: URL of the cluster's dashboard.
        submission_id: the job's id; None: Ray draws one.
        insecure: submit also to a cluster that asks for no token.
        package_file: a package of `package`, in which the command runs. Without it, the command
            runs the code that is installed on the node.
        owner: the tenant on whose node the command runs; None: on the head.

    Raises:
        ConfigError: the cluster asks for no token, and `insecure` is not set.
        PlacementError: no cluster answers there, or it refuses the job.
    """
    import httpx
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        refuse_open_dashboard(address, insecure=insecure)
        job: str = JobSubmissionClient(address).submit_job(
            entrypoint=command,
            submission_id=submission_id,
            runtime_env=None if package_file is None else {"working_dir": str(package_file)},
            entrypoint_resources=None if owner is None else driver_resources(owner),
        )
    except httpx.HTTPError as error:
        raise PlacementError(f"no Ray dashboard answers at {address}: {error}") from None
    except (ConnectionError, RuntimeError, RayError) as error:
        raise PlacementError(f"{address} refuses the job: {_last_words(str(error))}") from None
    return job


def _last_words(told: str) -> str:
    """The last line that says something: Ray sends a traceback, and a stop on a line of its own."""
    lines = [line.strip() for line in told.replace("\\n", "\n").splitlines()]
    return next((line for line in reversed(lines) if any(map(str.isalnum, line))), "no reason")[
        :300
    ]


def follow(job: str, *, address: str, emit: Callable[[str], None]) -> int:
    """Pass a job's log to `emit` until the job ends; return the exit code of its entrypoint.

    Asks again and again: a stream of the log may end before the job does. The log comes from the
    job's node; where that does not answer, the status alone decides.

    Raises:
        PlacementError: the dashboard has said nothing of the job for a minute. The job may go on.
    """
    shown, told = 0, time.monotonic()
    client = None
    while True:
        try:
            client = client or ray_private.job_client(address, timeout_s=_ANSWER_S)
            job_info = client.get_job_info(job)
        except (OSError, RuntimeError) as error:
            if time.monotonic() - told > _PATIENCE_S:
                raise PlacementError(
                    f"{address} no longer tells of job {job} ({_last_words(str(error))}); it may "
                    f"go on: see `ray job status {job}`. A cluster whose head was restarted has "
                    "forgotten it: submit the run again"
                ) from None
        else:
            told = time.monotonic()
            with contextlib.suppress(OSError, RuntimeError):
                log = client.get_job_logs(job)
                emit(log[shown:])
                shown = len(log)
            if job_info.status.is_terminal():
                succeeded = job_info.status.value == "SUCCEEDED"
                return 0 if succeeded else job_info.driver_exit_code or 1
        time.sleep(_POLL_S)
