"""What a dry run of `adapterdistill onboard` prints."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from actors.estimate import Estimate
from actors.preflight import Preflight
from actors.preflight_checks import mebibytes

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def shown(found: Preflight) -> list[RenderableType]:
    """Checks, estimate, and what others will see, for people."""
    parts: list[RenderableType] = [_checks(found)]
    if found.estimate is not None:
        parts.append(_estimate(found.estimate))
    parts.append(_told(found))
    return parts


def _checks(found: Preflight) -> Table:
    table = Table(title=f"{found.tenant}: dry run, nothing was changed")
    table.add_column("check")
    table.add_column("")
    table.add_column("found", overflow="fold")
    for check in found.checks:
        # Text: paths and names are no rich markup.
        table.add_row(check.name, Text(check.status, _STYLES[check.status]), Text(check.said))
    return table


def _estimate(taken: Estimate) -> Table:
    table = Table(
        title=f"About {taken.seconds:.0f} s",
        caption="one training step, timed here just now, times rows and steps; training may end"
        " earlier, and takes longer beside other work",
    )
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for stage, seconds in taken.stage_seconds.items():
        table.add_row(stage, f"{seconds:.1f}")
    return table


def _told(found: Preflight) -> Table:
    table = Table("what", show_header=False)
    table.add_column(overflow="fold")
    taken = found.estimate
    if taken is not None:
        table.add_row("to the registry", Text(f"{mebibytes(taken.bytes_out)}: adapter, manifest"))
        table.add_row("from the registry", Text(f"{mebibytes(taken.bytes_in)}: list, teachers"))
    if found.teachers_visible is not None:
        more = found.teachers_visible - len(found.teachers)
        names = ", ".join(found.teachers) + (f" and {more} more" if more else "")
        table.add_row("teachers visible", Text(f"{found.teachers_visible}: {names or 'none'}"))
    everyone = found.share_with == ("*",)
    readers = "everyone" if everyone else ", ".join(found.share_with) or "nobody"
    table.add_row("may learn from it", Text(readers))
    table.add_row("labels", Text(", ".join(found.labels) or "none"))
    table.add_row("privacy", Text(found.privacy))
    return table
