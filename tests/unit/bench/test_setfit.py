"""SetFit's row, with interpreters that answer in its place, and its worker without SetFit."""

import ast
import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapterdistill.bench.arrivals import setfit
from adapterdistill.bench.arrivals.setfit import SETTINGS, Fit, SetFitBench, setfit_version
from adapterdistill.bench.tenants import BenchTenant
from adapterdistill.bench.transfer.cells import open_workbench
from adapterdistill.errors import ConfigError
from adapterdistill.testbed.encoder_options import EncoderOptions

WORKER = Path(setfit.__file__).with_name("setfit_worker.py")
Interpreter = Callable[[str], Path]
ANSWERS = """
request = json.load(sys.stdin)
Path(__file__).with_suffix(".asked").write_text(json.dumps([sys.argv[1:], request]))
row = [label + 1 for label in sorted(set(request["labels"]))]
found = [[row] * len(part) for part in request["queries"]]
print(json.dumps({"probabilities": found, "seconds": 2.5}))
"""
"""The last FAQ is always the likeliest, then the one before it."""


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    def make(body: str) -> Path:
        file = tmp_path / "python"
        head = f"#!{sys.executable} -I\nimport json, sys\nfrom pathlib import Path\n"
        file.write_text(head + body)
        file.chmod(0o755)
        return file

    return make


@pytest.fixture
def bench(
    tenants: dict[str, BenchTenant], tiny_encoder_folder: Path, tmp_path: Path
) -> SetFitBench:
    encoder = EncoderOptions(str(tiny_encoder_folder), "float32")
    opened = open_workbench(encoder, tenants, tmp_path / "cache")
    return SetFitBench(opened, tiny_encoder_folder, Path("unused"), "1.2.0")


def test_queries_are_ranked_by_the_probability_of_their_faq(
    bench: SetFitBench, tenants: dict[str, BenchTenant], interpreter: Interpreter
) -> None:
    name, tenant = next(iter(tenants.items()))
    python, job = interpreter(ANSWERS), Fit(name, 2, 0)
    bench = replace(bench, python=python)
    bench.run(job)
    found = bench.cache.read(bench.key(job))
    assert found is not None and found["seconds"] == 2.5
    assert found["ranks"] == [tenant.num_faqs - gold for gold in tenant.test.labels.tolist()]
    assert found["best"] == [tenant.num_faqs] * len(tenant.test)
    assert len(found["best_out_of_scope"]) == len(tenant.out_of_scope)
    arguments, asked = json.loads(python.with_suffix(".asked").read_text())
    assert arguments == ["-I", str(WORKER)]
    assert tuple(asked["texts"]) == tenant.arrival(2, seed=0).texts
    assert (asked["settings"], asked["seed"], asked["device"]) == (SETTINGS, 0, "cpu")


def test_a_result_that_is_there_is_not_made_again(
    bench: SetFitBench, tenants: dict[str, BenchTenant], interpreter: Interpreter
) -> None:
    job, python = Fit(next(iter(tenants)), 1, 0), interpreter(ANSWERS)
    bench = replace(bench, python=python)
    bench.run(job)
    python.with_suffix(".asked").unlink()
    bench.run(job)
    assert not python.with_suffix(".asked").exists()


def test_a_training_that_fails_leaves_no_result_and_shows_no_text(
    bench: SetFitBench,
    tenants: dict[str, BenchTenant],
    interpreter: Interpreter,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = next(iter(tenants))
    for body, why in (
        ("raise KeyError(json.load(sys.stdin)['texts'][0])", "KeyError, exit code 1"),
        ("sys.exit(json.load(sys.stdin)['texts'][0])", "exit code 1"),
        ("sys.exit(7)", "exit code 7"),
    ):
        failing = replace(bench, python=interpreter(body))
        failing.run(Fit(name, 1, 0))
        assert bench.cache.read(bench.key(Fit(name, 1, 0))) is None
        said = f"{name}, k = 1: SetFit gave no answer: {why}"
        assert capsys.readouterr().err.strip() == said


def test_whatever_a_result_depends_on_is_in_its_key(
    bench: SetFitBench, tenants: dict[str, BenchTenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = sorted(tenants)
    job = Fit(first, 1, 0)
    changes: tuple[dict[str, Any], ...] = ({}, {"k": 2}, {"k": None}, {"seed": 1})
    keys = [bench.key(replace(job, **change)) for change in (*changes, {"tenant": second})]
    keys.append(replace(bench, version="1.3.0").key(job))
    monkeypatch.setattr(setfit, "SETTINGS", SETTINGS | {"num_epochs": 2})
    keys.append(bench.key(job))
    assert len(set(keys)) == len(keys)


def test_an_interpreter_without_setfit_or_none_at_all_is_refused_with_the_remedy(
    interpreter: Interpreter, tmp_path: Path
) -> None:
    remedy = "`python -m venv FOLDER` and `FOLDER/bin/pip install setfit`"
    with pytest.raises(ConfigError, match=f"has no SetFit: make an environment with {remedy}"):
        setfit_version(interpreter("sys.exit('PackageNotFoundError')"))
    with pytest.raises(ConfigError, match=f"no Python that can be started: make .* {remedy}"):
        setfit_version(tmp_path / "nothing")
    assert setfit_version(interpreter("print('1.2.0')")) == "1.2.0"


def test_the_worker_imports_nothing_of_the_project() -> None:
    found: set[str] = set()
    for node in ast.walk(ast.parse(WORKER.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    assert found - sys.stdlib_module_names == {"datasets", "setfit"}


def test_the_worker_trains_on_the_rows_and_leaves_out_an_empty_list_of_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    class Model:
        model_body = SimpleNamespace(max_seq_length=512)

        @classmethod
        def from_pretrained(cls, folder: str, **more: Any) -> "Model":
            seen["loaded"] = folder, more
            return cls()

        def predict_proba(self, texts: list[str], *, as_numpy: bool) -> Any:
            return SimpleNamespace(tolist=lambda: [[0.25, 0.75]] * len(texts))

    class Trainer:
        def __init__(self, *, model: Model, args: dict[str, Any], train_dataset: Any) -> None:
            seen.update(args=args, rows=train_dataset, max_tokens=model.model_body.max_seq_length)

        def train(self) -> None:
            seen["trained"] = True

    fake = SimpleNamespace(SetFitModel=Model, Trainer=Trainer, TrainingArguments=dict)
    monkeypatch.setitem(sys.modules, "setfit", fake)  # type: ignore[arg-type]
    rows = SimpleNamespace(Dataset=SimpleNamespace(from_dict=lambda columns: columns))
    monkeypatch.setitem(sys.modules, "datasets", rows)  # type: ignore[arg-type]
    answer = runpy.run_path(str(WORKER))["fit"](
        {
            "encoder": "folder", "max_tokens": 64, "device": "cpu", "settings": SETTINGS, "seed": 3,
            "texts": ["a", "b"], "labels": [0, 1], "queries": [["c"], []],
        }
    )  # fmt: skip
    assert answer["probabilities"] == [[[0.25, 0.75]], []] and answer["seconds"] >= 0
    local = {"local_files_only": True, "trust_remote_code": False}
    assert seen["loaded"] == ("folder", {"device": "cpu", **local})
    assert seen["rows"] == {"text": ["a", "b"], "label": [0, 1]} and seen["trained"]
    assert seen["max_tokens"] == 64 and SETTINGS.items() <= seen["args"].items()
    assert seen["args"]["seed"] == 3
