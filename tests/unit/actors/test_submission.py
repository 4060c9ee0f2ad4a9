"""What `adapterdistill submit` sends to a cluster: code and the run's file, and nothing private."""

import io
import socket
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import requests
from ray.job_submission import JobStatus

from adapterdistill import cli, ray_private
from adapterdistill.actors import submission
from adapterdistill.config import OnboardConfig, parse_config
from adapterdistill.data.importing import sample_names
from adapterdistill.errors import ConfigError, PlacementError
from adapterdistill.open_cluster import refuse_open_dashboard

ROOT = Path(__file__).resolve().parents[3]
SECRET = b"plover"
CODE = {
    *("adapterdistill/__init__.py", "adapterdistill/registry/v1/registry_pb2.pyi"),
    *("adapterdistill/py.typed", "adapterdistill/samples/probes.json"),
    *("adapterdistill/actors/owner.py", "adapterdistill/serve/http/api.py"),
    *("cluster/runs/acme.toml", "cluster/single/start.sh"),
}
PRIVATE = (
    # rows, as they are kept and as they are brought
    *("data/acme/faqs.parquet", "data/acme/queries.parquet", "queries.jsonl", "queries.jsonl.gz"),
    *("faqs.csv", "faqs.tsv", "faqs.txt", "faqs.xlsx", "faqs.json", "faqs.arrow", "faqs.feather"),
    *("nlu.yml", "nlu.yaml", "data/acme/tasks/mood.jsonl", "samples/acme/faqs.jsonl"),
    # what a run, a registry and a serving store keep
    *("owners/acme/runs/0123/rows.safetensors", "owners/acme/report.json", "manifest.json"),
    *("serving/acme/versions/ab-cd/index.safetensors", "registry/index.sqlite3"),
    *("registry/index.sqlite3-wal", "registry/blobs/ab/abcdef", "registry/audit/audit.jsonl"),
    *("backup/contents.json", "registry/staging/upload", "adapter.safetensors"),
    # secrets
    *("tokens.json", "acme.token", "token", "prometheus-token", "auth_token", "ray.token"),
    *("keys/tls.key", "keys/signing.key", "certificates.pem", "server.pem", "audit.key"),
    *("made/10.0.0.1/node.key", "made/10.0.0.1/token", "ca.crt", "cluster.json", "kubeconfig"),
    *(".env", ".ssh/id_ed25519", ".hidden/notes.py", ".secret.py", ".demo/data/x.parquet"),
    *("core", "dump.sql", "notes.md", "training.log", "model.bin", "model.pt", "a.pickle"),
)


def test_the_public_texts_that_a_run_reads_travel() -> None:
    sent = {str(name) for name in submission.travelling(ROOT)}
    samples = {
        str(file.relative_to(ROOT))
        for name in sample_names()
        for file in (ROOT / "adapterdistill" / "samples" / name).iterdir()
    }
    assert samples and samples <= sent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in which every private kind lies at the top and in every folder that travels."""
    root = tmp_path / "clone"
    for name in CODE:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"pass\n")
    for place in (*submission._TRAVELS, "", "cluster/runs", "adapterdistill/samples", "docs"):
        for name in PRIVATE:
            file = root / place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(SECRET)
    outside = tmp_path / "private.py"
    outside.write_bytes(SECRET)
    (root / "adapterdistill/serve" / "linked.py").symlink_to(outside)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.py").write_bytes(SECRET)
    (root / "adapterdistill/serve" / "rows").symlink_to(tmp_path / "rows", target_is_directory=True)
    (root / "mine.py").write_bytes(SECRET)  # code, but nobody's package
    return root


def run_toml(folder: Path, **more: str) -> Path:
    values = {
        "tenant": "acme",
        "data": str(folder / "data"),
        "workspace": str(folder / "work"),
        "serving_store": str(folder / "serving"),
        **more,
    }
    file = folder / "acme.toml"
    lines = [f'{key} = "{value}"\n' for key, value in values.items()]
    file.write_text("".join(lines) + '[registry]\naddress = "127.0.0.1:1"\n')
    return file


def unpacked(package: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_folder_with_every_private_kind_is_packed_without_any(
    clone: Path, tmp_path: Path
) -> None:
    file = run_toml(tmp_path)
    found = unpacked(submission.package(clone, file))
    assert found.keys() == CODE | {"run.toml"}
    assert found["run.toml"] == file.read_bytes()
    assert all(SECRET not in content for content in found.values())


def test_the_same_content_makes_the_same_package(clone: Path, tmp_path: Path) -> None:
    file = run_toml(tmp_path)
    before = submission.package(clone, file)
    (clone / "adapterdistill/actors/owner.py").touch()
    assert submission.package(clone, file) == before
    (clone / "adapterdistill/actors/owner.py").write_text("changed")
    assert submission.package(clone, file) != before


TRAVELLING = {"adapterdistill": "", "actors": "adapterdistill/", "serve": "adapterdistill/"}
"""Folders of the repository, and below what they travel."""
PAGES = ("adapterdistill/console/static/", "adapterdistill/console/templates/")


def test_all_that_the_code_needs_travels(tmp_path: Path) -> None:
    """Whatever git has in the packages, but the sample tenants, and files for people: no run
    shows the console's pages."""
    listed = subprocess.run(
        ["git", "ls-files", *TRAVELLING, "cluster/runs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    needed = {
        TRAVELLING.get(name.split("/")[0], "") + name
        for name in listed.stdout.split()
        if (ROOT / name).is_file()
        and not name.endswith((".jsonl", "pyproject.toml"))
        and not name.startswith(PAGES)
    }
    assert needed - unpacked(submission.package(ROOT, run_toml(tmp_path))).keys() == set()


def test_rays_own_packaging_of_a_clone_takes_nothing(clone: Path, tmp_path: Path) -> None:
    """Somebody may call `ray job submit --working-dir .` by habit."""
    from ray._private.runtime_env.packaging import create_package

    (clone / ".rayignore").write_bytes((ROOT / ".rayignore").read_bytes())
    target = tmp_path / "package.zip"
    create_package(str(clone), target, include_gitignore=True)
    assert unpacked(target.read_bytes()) == {}


@pytest.mark.parametrize("key", ["data", "workspace", "serving_store"])
def test_folders_below_the_code_are_refused_by_submit_and_by_the_job(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_toml(tmp_path, **{key: str(ROOT / "data" / "acme")})
    for command in (["submit", "--dry-run"], ["onboard"]):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command, "--config", str(file)])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error [INVALID_CONFIG]: {key}: {ROOT}/data/acme is below {ROOT}")
        assert "an absolute path outside it" in said


def test_a_relative_path_means_the_package_in_a_job_and_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.chdir(package)
    values = {"tenant": "acme", "data": "data/acme", "workspace": "/w", "serving_store": "/s"}
    config: OnboardConfig = parse_config(
        {**values, "registry": {"address": "127.0.0.1:1"}}, source="test"
    )
    with pytest.raises(ConfigError, match=f"data: {package}/data/acme is below {package}"):
        submission.require_outside(config, package)
    submission.require_outside(config, tmp_path / "elsewhere")


def test_a_dry_run_writes_the_package_and_prints_the_plain_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "p.zip"
    arguments = ["--config", str(run_toml(tmp_path)), "--package", str(package), "--dry-run"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["submit", *arguments, "--submission-id", "one", "--address", "http://x:8265"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == (
        f"$ ray job submit --address=http://x:8265 --submission-id=one --working-dir={package} "
        "-- python -m adapterdistill onboard --config run.toml\n"
    )
    assert "run.toml" in unpacked(package.read_bytes())
    assert package.stat().st_mode & 0o077 == 0


def test_a_dashboard_that_takes_jobs_without_a_token_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status = 200
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(status))
    with pytest.raises(ConfigError, match=r"asks for no token: everybody .* --insecure-cluster"):
        submission.submit("true", address="http://127.0.0.1:8265")
    refuse_open_dashboard("http://127.0.0.1:8265", insecure=True)
    status = 401
    refuse_open_dashboard("http://127.0.0.1:8265", insecure=False)


def test_no_dashboard_is_named() -> None:
    with pytest.raises(PlacementError, match=r"no Ray dashboard answers at http://127\.0\.0\.1:1"):
        submission.submit("true", address="http://127.0.0.1:1")


def test_the_job_accepts_an_open_cluster_only_where_its_submitter_did() -> None:
    assert submission.entrypoint(insecure=True).endswith(" --insecure-cluster")
    assert "--insecure-cluster" not in submission.entrypoint()


def test_the_reason_of_a_refusal_is_found_below_a_traceback() -> None:
    told = "Request failed with status code 500: Traceback:\n  File x\nValueError: it exists.\n.\n"
    assert submission._last_words(told) == "ValueError: it exists."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--owner", "Acme", "--config", "/srv/run.toml"], "--owner: not a tenant name"),
        (["--owner", "acme", "--config", "run.toml"], "give its absolute path there"),
    ],
)
def test_a_run_that_cannot_be_on_the_owner_s_node_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["submit", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


class Dashboard:
    """A job's answers one after the other; an error is raised in place of an answer."""

    def __init__(self, *told: tuple[str, int | None] | Exception, logs: str | Exception) -> None:
        self._told, self._logs = list(told), logs

    def get_job_info(self, job: str) -> Any:
        told = self._told.pop(0) if len(self._told) > 1 else self._told[0]
        if isinstance(told, Exception):
            raise told
        return SimpleNamespace(status=JobStatus(told[0]), driver_exit_code=told[1])

    def get_job_logs(self, job: str) -> str:
        if isinstance(self._logs, Exception):
            raise self._logs
        return self._logs


def followed(monkeypatch: pytest.MonkeyPatch, dashboard: Dashboard) -> tuple[int, str]:
    """The exit code of following a job, and its log."""
    shown: list[str] = []
    monkeypatch.setattr(submission, "_POLL_S", 0.0)
    monkeypatch.setattr(submission, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(ray_private, "job_client", lambda *_, **__: dashboard)
    return submission.follow("job", address="http://x:8265", emit=shown.append), "".join(shown)


RUNNING = ("RUNNING", None)


@pytest.mark.parametrize(
    ("told", "exit_code"),
    [
        ([RUNNING, ("SUCCEEDED", 0)], 0),
        ([RUNNING, ("FAILED", 7)], 7),
        ([RUNNING, ("FAILED", None)], 1),  # its node died
        ([RUNNING, ("STOPPED", None)], 1),
        ([requests.ConnectionError(), RUNNING, requests.Timeout(), ("SUCCEEDED", 0)], 0),
        ([RuntimeError("status code 500"), ("FAILED", 3)], 3),
    ],
)
def test_a_followed_job_ends_with_its_own_exit_code(
    told: list[Any], exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert followed(monkeypatch, Dashboard(*told, logs="line\n")) == (exit_code, "line\n")


def test_the_status_decides_where_the_job_s_node_gives_no_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dashboard = Dashboard(RUNNING, ("FAILED", 1), logs=requests.ReadTimeout())
    assert followed(monkeypatch, dashboard) == (1, "")


@pytest.mark.parametrize("error", [requests.ConnectionError("refused"), RuntimeError("not exist")])
def test_a_dashboard_that_says_nothing_of_the_job_for_long_ends_the_following(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PlacementError, match=r"no longer tells of job job .* submit the run again"):
        followed(monkeypatch, Dashboard(RUNNING, error, logs=""))


def test_every_question_to_a_dashboard_has_a_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts and never answers
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(OSError, match="timed out"):
            ray_private.job_client(address, timeout_s=0.2)
