"""The root command: exit codes, one error line, and imports only when they are needed."""

import json
import pickle
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Callable

import pytest
import typer

from adapterdistill import __version__, cli
from adapterdistill.errors import AdapterDistillError, ConfigError, DataError, listed

ERROR_CLASSES = cli.error_classes()


@pytest.fixture
def run_failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Runs a subcommand that raises the given error, and returns the exit code."""

    def run(error: BaseException) -> int:
        def fail() -> None:
            raise error

        module = types.ModuleType("failing_subcommand")
        module.__dict__["register"] = lambda app: app.command("fail")(fail)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(
            cli.SUBCOMMANDS, "fail", cli.Subcommand(module.__name__, "Operator", "Fails.")
        )
        return exit_code_of(["fail"])

    return run


def exit_code_of(args: list[str]) -> int:
    with pytest.raises(SystemExit) as exited:
        cli.main(args)
    assert isinstance(exited.value.code, int)
    return exited.value.code


def run_python(code: str, *args: str) -> str:
    """Runs `code` in a fresh interpreter; raises if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args], check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout


@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_an_expected_error_is_one_line_on_stderr_and_its_exit_code(
    error_class: type[AdapterDistillError],
    run_failing: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_failing(error_class("faqs.parquet: expected a file,\nfound none")) == (
        error_class.exit_code
    )
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error [{error_class.reason}]: faqs.parquet: expected a file, found none\n"


def test_several_faults_are_printed_one_a_line(
    run_failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    faults = ["training.seed: expected\n a number", "teachers: unknown"]
    run_failing(ConfigError(listed("run.toml", faults[:1])))
    assert capsys.readouterr().err == (
        "error [INVALID_CONFIG]: run.toml: training.seed: expected a number\n"
    )
    run_failing(ConfigError(listed("run.toml", faults)))
    assert capsys.readouterr().err == (
        "error [INVALID_CONFIG]: run.toml:\n"
        "  training.seed: expected a number\n"
        "  teachers: unknown\n"
    )


def test_an_error_wrapped_by_an_actor_call_prints_its_cause_alone(
    run_failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    class WrappedDataError(DataError):
        """Like Ray's: of the error's class, with a remote traceback as its text."""

        cause = DataError("row 3: empty text")

    wrapped = WrappedDataError('Traceback ...\n File "somewhere.py"')
    assert run_failing(wrapped) == DataError.exit_code
    assert capsys.readouterr().err == "error [INVALID_DATA]: row 3: empty text\n"


def test_an_interrupt_ends_with_130_and_no_traceback(
    run_failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_failing(KeyboardInterrupt()) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_subcommands_own_exit_code_is_kept(
    run_failing: Callable[[BaseException], int],
) -> None:
    assert run_failing(typer.Exit(3)) == 3


def test_an_unexpected_error_is_not_hidden(run_failing: Callable[[BaseException], int]) -> None:
    with pytest.raises(ZeroDivisionError):
        run_failing(ZeroDivisionError())


def test_a_reader_that_goes_away_causes_no_complaint() -> None:
    command = [sys.executable, "-m", "adapterdistill", "--version"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


@pytest.mark.parametrize("args", [["no-such-command"], ["--no-such-option"]])
def test_wrong_usage_ends_with_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(args) == 2
    assert "Usage" in capsys.readouterr().err


def test_version_prints_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["--version"]) == 0
    assert capsys.readouterr().out == f"adapterdistill {__version__}\n"


def test_help_names_every_subcommand_and_every_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code_of(["--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    for expected in (*cli.SUBCOMMANDS, *(error.reason for error in ERROR_CLASSES)):
        assert expected in words


def test_no_help_loads_torch_transformers_or_ray() -> None:
    code = """
import contextlib, io, json, sys
from adapterdistill import cli

def paths(command, path):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, [*path, name])

told = {}
for path in [[], *(path for name in cli.SUBCOMMANDS for path in paths(cli.load(name), [name]))]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        cli.main([*path, "--help"])
    assert "Usage: adapterdistill" in shown.getvalue()
    heavy = {"torch", "transformers", "ray"} & set(sys.modules)
    told[" ".join(path)] = sorted(heavy)
print(json.dumps(told))
"""
    told = json.loads(run_python(code))
    assert {"", "onboard", "drill", "registry audit verify", "bench transfer"} <= told.keys()
    assert {path: heavy for path, heavy in told.items() if heavy} == {}


def test_every_subcommand_in_the_table_exists() -> None:
    code = """
from adapterdistill import cli
print(*(cli.load(name).name or name for name in cli.SUBCOMMANDS))
"""
    assert run_python(code).split() == list(cli.SUBCOMMANDS)


@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_an_error_survives_pickle(error_class: type[AdapterDistillError]) -> None:
    error = pickle.loads(pickle.dumps(error_class("acme: expected 2 FAQs, found 1")))
    assert type(error) is error_class
    assert error.args == ("acme: expected 2 FAQs, found 1",)
    assert (error.reason, error.exit_code) == (error_class.reason, error_class.exit_code)


def test_every_error_class_has_its_own_reason_a_docstring_and_a_shell_exit_code() -> None:
    shared = [reason for reason, n in Counter(e.reason for e in ERROR_CLASSES).items() if n > 1]
    assert shared == []
    for error_class in ERROR_CLASSES:
        assert error_class.reason.replace("_", "").isupper()
        assert error_class.__doc__
        assert error_class.__doc__ != AdapterDistillError.__doc__ or (
            error_class is AdapterDistillError
        )
        assert 1 <= error_class.exit_code <= 125


def test_a_run_ends_with_its_exit_code_even_if_ray_does_not_end() -> None:
    """Ray disconnects by `atexit`, and its call has no deadline."""
    program = (
        "import atexit, sys, time, types\n"
        "sys.modules['ray'] = types.ModuleType('ray')\n"
        "atexit.register(time.sleep, 600)\n"
        "from adapterdistill import cli\n"
        "cli._EXIT_S = 0.1\n"
        "cli.main(['query', 'Not a name', 'open?'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.count("\n") == 1 and "error [INVALID_CONFIG]" in done.stderr
