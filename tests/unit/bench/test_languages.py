"""Questions in another language: what counts as right, and where the data come from."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.bench import languages
from adapterdistill.bench.languages import languages_command, read_faqs, right_at_first
from adapterdistill.errors import ConfigError

ENGLISH = ["When do you open?", "What does it cost?", "Where are you?"]
SWEDISH = ["När öppnar ni?", "Vad kostar det?", "Var ligger ni?"]


class Installed:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of three FAQs in two languages, by the names of the real one's files."""
    folder = tmp_path / "zaragoza_construction_faq/data"
    folder.mkdir(parents=True)
    for name, questions in {"faq.json": SWEDISH, "faq-en.json": ENGLISH}.items():
        rows = [{"id": str(n), "q": question} for n, question in enumerate(questions)]
        (folder / name).write_text(json.dumps({"questions": rows}), "utf-8")
    monkeypatch.setattr(languages, "distribution", lambda _name: Installed(tmp_path))
    return folder


def test_a_query_is_right_if_its_faqs_text_is_nearest(tiny_encoder: Encoder) -> None:
    faqs = [*ENGLISH, ENGLISH[0]]
    queries = [*ENGLISH[:2], ENGLISH[0], ENGLISH[0]]  # the third asks another FAQ's question
    right = right_at_first(tiny_encoder, queries, faqs)
    assert right.tolist() == [1, 1, 0, 1]  # the last FAQ has the first one's text


def test_the_report_has_each_encoder_both_ways_and_its_gain(
    package: Path, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    name = str(tiny_encoder_folder)
    report = languages_command(
        out=tmp_path / "out", encoders=["minilm-l6", name], dtype="float32", device="cpu"
    )
    rows = report.figures["encoders"]
    assert [(row["encoder"], row["questions"]) for row in rows] == [
        *(("minilm-l6", "sv on en"), ("minilm-l6", "en on sv")),
        *((name, "sv on en"), (name, "en on sv")),
    ]
    assert rows[0]["gain"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    for row in rows:
        assert 0 <= row["top1"]["low"] <= row["top1"]["mean"] <= row["top1"]["high"] <= 1
    assert rows[2]["gain"]["mean"] == pytest.approx(
        rows[2]["top1"]["mean"] - rows[0]["top1"]["mean"]
    )
    assert "| minilm-l6 | sv on en |" in (tmp_path / "out/report.md").read_text("utf-8")


def test_data_that_are_missing_or_differ_are_named(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "faq.json").write_text('{"questions": []}')
    with pytest.raises(ConfigError, match="Swedish and English FAQs are not the same"):
        read_faqs()

    def none(name: str) -> Installed:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(languages, "distribution", none)
    with pytest.raises(ConfigError, match="pip install zaragoza-construction-faq"):
        read_faqs()
