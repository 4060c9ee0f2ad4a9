"""All commands together: none is lost, and the help and the tables of each can be read."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapterdistill import cli

LIST = Path(__file__).with_name("commands.json")
UPDATE = "ADAPTERDISTILL_UPDATE_COMMANDS"
# These print a line or two, serve until they are stopped, or print a report in Markdown.
NO_TABLE = {
    *("adapter export", "adapter import", "adapter card", "feedback label", "feedback export"),
    *("owner renew", "registry rotate-authority"),
    *("owner keygen", "registry init", "registry renew-server", "registry enrol"),
    *("registry keygen", "registry consent", "registry release", "registry serve", "serve"),
    *("registry release-from-quarantine", "registry alias", "registry reopen", "submit"),
    *("bundle key", "encoder fetch", "init", "up", "report", "console owner", "console operator"),
}


def leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Walk the commands of a group that can be run, each with the words that name it."""
    if hasattr(command, "commands"):
        for name, nested in command.commands.items():
            yield from leaves(nested, f"{path} {name}")
    else:
        yield path, command


COMMANDS = {path: one for name in cli.SUBCOMMANDS for path, one in leaves(cli.load(name), name)}
every_command = pytest.mark.parametrize("path", COMMANDS)


def spelled(parameter: Any) -> list[str]:
    """Name an argument as it is shown, or an option by all of its spellings."""
    if parameter.param_type_name == "argument":
        return [parameter.metavar]
    return [*parameter.opts, *parameter.secondary_opts]


def test_no_command_and_no_option_is_lost() -> None:
    """To accept a change on purpose, run this once with ADAPTERDISTILL_UPDATE_COMMANDS=1."""
    found = {
        path: sorted(name for one in command.params for name in spelled(one))
        for path, command in sorted(COMMANDS.items())
    }
    if os.environ.get(UPDATE):
        LIST.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    assert found == json.loads(LIST.read_text("utf-8"))


@every_command
def test_help_shows_a_word_for_every_value(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        cli.main([*path.split(), "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    kinds = ("str", "path", "int", "float", "bool", "list[")
    assert [kind for kind in kinds if f"<{kind}" in shown] == []
    assert "TEXT" not in shown


@every_command
def test_a_paragraph_of_help_is_broken_by_the_terminal_alone(path: str) -> None:
    paragraphs = (COMMANDS[path].help or "").split("\n\n")
    assert not any("\n" in paragraph.strip() for paragraph in paragraphs)


def test_every_command_stands_under_its_reader(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    places = [
        shown.index(f" {reader} ─")
        for reader in dict.fromkeys(one.reader for one in cli.SUBCOMMANDS.values())
    ]
    assert places == sorted(places) and len(places) == 5


@every_command
def test_whatever_prints_a_table_prints_json(path: str) -> None:
    options = {name for one in COMMANDS[path].params for name in spelled(one)}
    assert "--format" in options or path in NO_TABLE
