"""Every command of a document is run by a test, or the document says why it cannot be."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from adapterdistill.cli import app
from tests.unit.documents.pages import (
    LANGUAGES,
    ROOT,
    RUNNER,
    SESSIONS,
    blocks,
    blocks_in,
    pages,
    session_blocks,
    shell_blocks,
    text_of,
)

_TEST = re.compile(r"tests/[\w/]+\.py")
_START = re.compile(r"(?:\.venv/bin/|-m )?\badapterdistill ")


def commands() -> Iterator[tuple[str, str]]:
    """Place and text of every `adapterdistill` command in a shell block, its lines joined."""
    for block in shell_blocks():
        for line in block.text.replace("\\\n", " ").splitlines():
            code = line.split("  #")[0].strip()
            if found := _START.search(code):
                yield str(block), code[found.end() :].split(" && ")[0]


def commands_in_prose() -> Iterator[tuple[str, str]]:
    """Page and text of every command that a sentence or a table names between backticks."""
    for page in pages():
        for command in re.findall(r"`adapterdistill ([^`]+)`", text_of(page)):
            if "|" not in command:  # of several verbs at once
                yield page, " ".join(command.split())


def words_of(command: str) -> list[str]:
    """The command's words up to a redirection, a pipe or the end of its job."""
    words = shlex.split(command, comments=True)
    ends = [place for place, word in enumerate(words) if re.match(r"2?>|[|&;<]", word)]
    return words[: min(ends, default=len(words))]


def faults_of(words: list[str]) -> list[str]:
    """What the command line does not know of these words."""
    root: Any = get_command(app)
    command, path = root, []
    context = root.make_context("adapterdistill", [], resilient_parsing=True)
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        path.append(rest.pop(0).rstrip(";"))
        try:
            _, command, _ = command.resolve_command(context, path[-1:])
        except Exception:  # of click, whose classes typer keeps to itself
            command = None
        if command is None:
            return [f"no command {' '.join(path)}"]
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    given = [word.split("=")[0] for word in rest if re.match(r"--[a-z]", word)]
    known |= {"--help", "--version"}
    return [f"{' '.join(path)} has no option {option}" for option in given if option not in known]


@pytest.mark.parametrize("page", pages())
def test_every_shell_block_says_which_test_runs_it_or_why_none_can(page: str) -> None:
    unmarked = [str(b) for b in blocks(page) if b.language == "sh" and not b.marked]
    assert unmarked == []


@pytest.mark.parametrize("page", pages())
def test_every_block_names_a_language_so_that_no_command_hides(page: str) -> None:
    assert [f"{b}: {b.language!r}" for b in blocks(page) if b.language not in LANGUAGES] == []


def test_every_block_that_claims_to_be_run_is_in_a_session_that_is_run() -> None:
    assert (ROOT / RUNNER).is_file()
    claimed = [block for block in shell_blocks() if block.session is not None]
    lost = [str(b) for b in claimed if b.page not in SESSIONS.get(str(b.session), ())]
    assert lost == []
    assert {block.session for block in claimed} == SESSIONS.keys()
    assert len(claimed) == sum(len(session_blocks(session)) for session in SESSIONS)


def test_tests_that_a_mark_names_exist() -> None:
    named = [(str(b), path) for b in shell_blocks() for path in _TEST.findall(b.reason or "")]
    assert named
    assert [one for one in named if not (ROOT / one[1]).is_file()] == []


def test_a_block_without_a_mark_is_noticed() -> None:
    text = "Text.\n```sh\nls\n```\n<!-- not run: it has no end -->\n```sh\nyes\n```\n"
    first, second = blocks_in(text)
    assert not first.marked
    assert second.reason == "it has no end"


@pytest.mark.parametrize(("place", "command"), [*commands(), *dict.fromkeys(commands_in_prose())])
def test_every_command_and_option_exists(place: str, command: str) -> None:
    assert faults_of(words_of(command)) == [], place


def test_commands_and_options_that_do_not_exist_are_noticed() -> None:
    assert faults_of(["registry", "lsit"]) == ["no command registry lsit"]
    assert faults_of(["data", "describe", "--fast", "DIR"]) == [
        "data describe has no option --fast"
    ]
    assert faults_of(["registry", "audit", "verify", "log", "--head", "00"]) == []
