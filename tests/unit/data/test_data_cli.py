"""`adapterdistill data`: JSON and tables, exit code 3 for faults, domain errors let through."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapterdistill.backbone import Encoder
from adapterdistill.cli.data import app
from adapterdistill.data import Faq, TenantDataset, write_tenant
from adapterdistill.data.schema import SPLITS
from adapterdistill.errors import ConfigError, DataError, EncoderError, UnreadableTextError

RUNNER = CliRunner()


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    assert RUNNER.invoke(app, ["samples", str(tmp_path / "s")]).exit_code == 0
    return tmp_path / "s"


def test_samples_are_written_and_described(samples: Path) -> None:
    folder = samples / "valtara-rail"
    shown = RUNNER.invoke(app, ["describe", str(folder), "--format", "json"])
    described = json.loads(shown.stdout)
    tenant = TenantDataset.open(folder)
    unread = {"unknown_tokens_percent": 0.0, "faqs_unread": 0, "faqs_alike": 0}
    cut = {"max_tokens": 256, "cut_questions": 0, "cut_answers": 0, "cut_queries": 0}
    plain = {"path": str(folder), **tenant.counts(), "digest": tenant.digest()}
    assert described == plain | unread | cut
    assert "digest" in RUNNER.invoke(app, ["describe", str(folder)]).stdout


def test_texts_longer_than_an_encoder_reads_are_counted(
    samples: Path, minilm: Encoder, tiny_encoder_folder: Path
) -> None:
    folder = samples / "valtara-rail"
    arguments = ["describe", str(folder), "--format", "json", "--max-tokens"]
    described = json.loads(RUNNER.invoke(app, [*arguments, "12"]).stdout)
    tenant = TenantDataset.open(folder)
    texts = {
        "questions": [faq.question for faq in tenant.faqs()],
        "answers": [faq.answer for faq in tenant.faqs() if faq.answer],
        "queries": [query.text for split in SPLITS for query in tenant.queries(split)],
    }
    for name, found in texts.items():
        longer = sum(len(ids) > 12 for ids in minilm.tokenize(found))
        assert described[f"cut_{name}"] == longer > 0
    own = [*arguments, "256", "--encoder", str(tiny_encoder_folder)]
    assert json.loads(RUNNER.invoke(app, own).stdout)["cut_queries"] == 0
    gone = RUNNER.invoke(app, [*arguments, "9", "--encoder", "./none"])
    assert isinstance(gone.exception, EncoderError)


def test_one_sample_can_be_chosen(tmp_path: Path) -> None:
    arguments = ["samples", str(tmp_path), "--name", "larkhill-vets", "--format", "json"]
    assert list(json.loads(RUNNER.invoke(app, arguments).stdout)) == ["larkhill-vets"]
    assert [path.name for path in tmp_path.iterdir()] == ["larkhill-vets"]
    assert isinstance(RUNNER.invoke(app, ["samples", "x", "--name", "no"]).exception, DataError)


def test_sound_tenant_validates(samples: Path) -> None:
    result = RUNNER.invoke(app, ["validate", str(samples / "larkhill-vets")])
    assert result.exit_code == 0 and "no faults" in result.stdout


def test_faults_are_listed_and_end_with_exit_code_three(tmp_path: Path) -> None:
    (tmp_path / "faqs.parquet").write_bytes(b"nothing")
    table = RUNNER.invoke(app, ["validate", str(tmp_path)])
    assert table.exit_code == 3 and "faqs.parquet" in table.stdout
    machine = RUNNER.invoke(app, ["validate", str(tmp_path), "--format", "json"])
    assert machine.exit_code == 3
    (fault,) = json.loads(machine.stdout)["faults"]
    assert (fault["file"], fault["row"], fault["column"]) == ("faqs.parquet", None, None)


def test_a_tenant_that_the_encoder_cannot_read_is_refused_by_id(tmp_path: Path) -> None:
    faqs = [Faq("open", "ร้านเปิดกี่โมง", None), Faq("ship", "ค่าจัดส่งเท่าไร", None)]
    write_tenant(tmp_path / "thai", faqs, [])
    for command in ("validate", "describe"):
        result = RUNNER.invoke(app, [command, str(tmp_path / "thai"), "--format", "json"])
        assert isinstance(result.exception, UnreadableTextError)
        assert "cannot read 2 of 2 FAQs (open, ship)" in str(result.exception)
        assert "ร" not in result.output
    assert json.loads(result.stdout)["unknown_tokens_percent"] == 100.0


def test_import_keeps_k_and_reports_the_counts(samples: Path, tmp_path: Path) -> None:
    arguments = ["import", str(samples / "pedal-and-spoke"), str(tmp_path / "out")]
    result = RUNNER.invoke(app, [*arguments, "--k", "2", "--format", "json"])
    counts = json.loads(result.stdout)
    assert counts["train"] - counts["oos_train"] == 2 * counts["faqs"]


def test_domain_errors_pass_to_the_root(samples: Path, tmp_path: Path) -> None:
    source = str(samples / "pedal-and-spoke")
    for arguments, kind in [
        (["import", source, "s3://bucket/x"], DataError),
        (["validate", "https://host/tenant"], DataError),
        (["describe", str(tmp_path / "absent")], DataError),
        (["import", source, str(tmp_path / "o"), "--k", "-2"], ConfigError),
    ]:
        assert isinstance(RUNNER.invoke(app, arguments).exception, kind)


def brought(folder: Path) -> Path:
    folder.mkdir()
    (folder / "faqs.csv").write_text("Nr;Frage;Antwort\n1;Wann?;9\n2;Wie lange?;<b>3</b>\n")
    (folder / "queries.csv").write_text("text,label,split,x\na,1,train,\na,1,test,\nb,1|2,test,\n")
    return folder


MAPPED = ["--map", "faq_id=Nr", "--map", "question=Frage", "--map", "answer=Antwort"]


def test_import_tells_columns_what_was_ignored_and_doubts(tmp_path: Path) -> None:
    arguments = ["import", str(brought(tmp_path / "s")), str(tmp_path / "t"), *MAPPED]
    told = RUNNER.invoke(app, arguments).stdout
    for line in (
        'FAQs: faqs.csv: semicolons, UTF-8; faq_id is "Nr", question is "Frage", answer is',
        'faq_id is "label", text is "text", split is "split"; ignored: "x"; 3 row(s)',
        "note: queries.csv: the label names several right FAQs (1: row 2)",
        "warning: queries.csv, row 1: the text of queries.csv, row 0 is also in another split",
    ):
        assert line in told
    found = json.loads(RUNNER.invoke(app, [*arguments, "--overwrite", "--format", "json"]).stdout)
    assert (found["train"], found["test"]) == (1, 2)
    assert found["report"]["tables"][1]["ignored"] == ['"x"']
    assert len(found["report"]["warnings"]) == 1


def test_validate_warns_of_doubtful_rows_and_says_no_faults(tmp_path: Path) -> None:
    RUNNER.invoke(app, ["import", str(brought(tmp_path / "s")), str(tmp_path / "t"), *MAPPED])
    shown = RUNNER.invoke(app, ["validate", str(tmp_path / "t")])
    assert shown.exit_code == 0 and "no faults" in shown.stdout
    assert "warning: queries.parquet, row 1: the text of queries.parquet, row 0" in shown.stdout
    found = json.loads(
        RUNNER.invoke(app, ["validate", str(tmp_path / "t"), "--format", "json"]).stdout
    )
    assert found["sound"] and len(found["warnings"]) == 1


@pytest.mark.parametrize("verb", ["validate", "describe"])
def test_a_folder_of_csv_is_sent_to_import(verb: str, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, [verb, str(brought(tmp_path / "s"))])
    assert "data import" in done.stdout + str(done.exception)
    assert "faqs.csv, queries.csv" in done.stdout + str(done.exception)


def test_queries_beside_a_tenant_are_not_passed_over(samples: Path) -> None:
    folder = samples / "larkhill-vets"
    (folder / "queries.parquet").rename(folder / "queries.pq")
    done = RUNNER.invoke(app, ["validate", str(folder)])
    assert done.exit_code == 3
    assert "queries.pq: is not read: make a tenant with `adapterdistill data import" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--map", "question"], "FIELD=COLUMN"),
        (["--map", "colour=Frage"], "a field of faq_id, question, answer"),
        (["--encoding", "latin-none"], "must name an encoding of text"),
        (["--encoding", "base64"], "must name an encoding of text"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    options: list[str], message: str, tmp_path: Path
) -> None:
    done = RUNNER.invoke(
        app, ["import", str(brought(tmp_path / "s")), str(tmp_path / "t"), *options]
    )
    assert isinstance(done.exception, ConfigError) and message in str(done.exception)
