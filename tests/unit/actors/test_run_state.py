"""State on the owner's disk: which runs share a folder, and what a damaged file does."""

import io
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.actors import data_owner
from adapterdistill.actors.data_owner import DataOwner
from adapterdistill.actors.records import Decided, Extracted, Validated
from adapterdistill.actors.run_state import RunState
from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from tests.owner_runs import folder_of, run_of, write_shop

DATA = "0" * 64


@pytest.fixture
def config(tmp_path: Path, tiny_encoder_folder: Path) -> OnboardConfig:
    return run_of(tmp_path, "acme", encoder=tiny_encoder_folder, registry="127.0.0.1:1")


def changed(config: OnboardConfig, section: str, **values: Any) -> OnboardConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def test_the_same_work_finds_its_folder_and_other_work_has_another(config: OnboardConfig) -> None:
    def folder(config: OnboardConfig, data: str = DATA) -> Path:
        return RunState.open(config, data).folder

    same = [
        config,
        config.model_copy(update={"serving_store": "/elsewhere"}),
        config.model_copy(update={"serving_key": "/keys/acme.key"}),
        changed(config, "registry", address="127.0.0.1:2"),
        changed(config, "placement", resource="owner"),
        changed(config, "release", mode="canary", share=0.2),
    ]
    other = [
        changed(config, "training", seed=1),
        changed(config, "training", extract_steps=7),
        changed(config, "encoder", dtype="bfloat16"),
        changed(config, "teachers", max_teachers=3),
        changed(config, "release", max_wrong_answers=0.05),
        config.model_copy(update={"adapter": "second"}),
        config.model_copy(update={"tenant": "other"}),
    ]
    assert {folder(one) for one in same} == {folder(config)}
    assert len({folder(config), folder(config, "1" * 64), *map(folder, other)}) == len(other) + 2


def test_results_are_kept_by_stage_and_read_back(config: OnboardConfig) -> None:
    state = RunState.open(config, DATA)
    assert state.result(Extracted) is None
    kept = state.keep(Extracted(trained=False, seconds=1.5))
    decided = state.keep(Decided(choice="own", reason="no other candidate"))
    again = RunState.open(config, DATA)
    assert again.result(Extracted) == kept and again.result(Decided) == decided
    assert again.result(Validated) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"trained": 1, "more": 2}', b'{"trained": true']
)
def test_a_damaged_result_counts_as_not_done(config: OnboardConfig, content: bytes) -> None:
    state = RunState.open(config, DATA)
    state.keep(Extracted(trained=False))
    (state.folder / "stages" / "extracted.json").write_bytes(content)
    assert state.result(Extracted) is None


def test_a_stage_whose_kept_result_is_damaged_is_run_again(
    config: OnboardConfig, tmp_path: Path, tiny_encoder: Encoder
) -> None:
    write_shop(tmp_path / "data" / "acme")
    config = changed(config, "registry", address=None)
    first = DataOwner(config).extract()
    payload = (folder_of(config) / "own.safetensors").read_bytes()
    (folder_of(config) / "own.safetensors").unlink()
    (folder_of(config) / "stages" / "extracted.json").write_text("torn")
    again = DataOwner(config).extract()
    assert again.adapter_sha256 == first.adapter_sha256
    assert (folder_of(config) / "own.safetensors").read_bytes() == payload


def test_of_two_submissions_at_once_one_works_and_the_other_finds_it_done(
    config: OnboardConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_shop(tmp_path / "data" / "acme")
    config = changed(config, "registry", address=None)
    owners = [DataOwner(config) for _ in range(2)]
    states = [owner.validate() for owner in owners]
    assert states[0] == states[1]
    owners[0].fetch_teachers()
    trained: list[str] = []
    made = data_owner.extract

    def training(*args: Any, **how: Any) -> Extracted:
        trained.append("once")
        return made(*args, **how)

    monkeypatch.setattr(data_owner, "extract", training)
    said = io.StringIO()  # pytest's own capture can lose what is written while it is read
    monkeypatch.setattr(sys, "stderr", said)
    first = RunState.open(config, states[0].data_sha256)
    with ThreadPoolExecutor(2) as threads:
        with first.alone():
            done = [threads.submit(owner.extract) for owner in owners]
            while said.getvalue().count("waiting") < 2:
                time.sleep(0.01)
            assert (trained, first.result(Extracted)) == ([], None)
        assert done[0].result(60) == done[1].result(60)
    assert trained == ["once"]


def test_what_a_killed_process_left_half_written_goes(config: OnboardConfig) -> None:
    state = RunState.open(config, DATA)
    torn = state.folder / "stages" / ".staged-torn"
    torn.parent.mkdir()
    torn.touch()
    with state.alone(), state.alone():
        assert not torn.exists()
