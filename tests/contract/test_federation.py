"""The story of `adapterdistill federation`, its owners in this process in place of clusters.

The registry is a process, the keys and certificates are real, and all that left an owner is
searched for the canaries in its texts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapterdistill.actors.onboarding import OnboardReport, write_report
from adapterdistill.backbone import Encoder
from adapterdistill.config import load_toml
from adapterdistill.demo.federation import TENANTS, Federation
from adapterdistill.demo.parties import HOME_VARIABLE, Onboard, Owner
from tests.owner_runs import run_through

RUNS = Path(__file__).resolve().parents[2] / "cluster" / "federation"
TINY = """
bottleneck_size = 4
threads = 1
batch_size = 32
evaluate_every = 2
"""


@pytest.fixture
def runs(tmp_path: Path, tiny_encoder_folder: Path) -> Path:
    """The TOML files that ship, on the tiny encoder."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for tenant in TENANTS:
        shipped = (RUNS / f"{tenant}.toml").read_text()
        encoder = f'\n[encoder]\nname = "{tiny_encoder_folder}"\ndtype = "float32"\n'
        few = shipped.replace("_steps = 20", "_steps = 4").replace(
            "[training]\n", f"[training]{TINY}"
        )
        (folder / f"{tenant}.toml").write_text(few + encoder)
    return folder


def test_owners_onboard_in_turn_strangers_are_refused_and_no_text_leaves(
    tmp_path: Path, runs: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny encoder has random weights: it ranks by chance, which a run refuses to serve.
    monkeypatch.setattr("adapterdistill.actors.judging.LEAST_ROWS", 10**6)

    @contextmanager
    def here(owner: Owner) -> Iterator[Onboard]:
        def onboard() -> OnboardReport:
            monkeypatch.setenv(HOME_VARIABLE, str(owner.folder))
            config = load_toml(owner.run_file)
            report, _ = run_through(config)
            write_report(config, report)
            return report

        yield onboard

    root = tmp_path / "federation"
    lines: list[str] = []
    with Federation(
        here, runs=runs, root=root, searched_with=tiny_encoder, emit=lines.append
    ) as federation:
        federation.run()
    failed = [step for step in federation.steps.taken if not step.passed]
    assert failed == []
    # Refused for the reason that was meant.
    assert any("INVALID_MANIFEST: teacher" in line for line in lines)
    # What was searched holds what was published.
    recorded = (root / "recorded").read_bytes()
    blobs = (root / "registry" / "blobs").rglob("*")
    payloads = [path.read_bytes() for path in blobs if path.is_file()]
    assert payloads  # fewer than tenants where two keep the adapter that they began with
    assert all(payload in recorded for payload in payloads)
