"""The authority's own audit log: a line for each certificate that it issued or revoked.

    ROOT/authority/audit/log.jsonl     the lines, which `audit_verify` checks
    ROOT/authority/audit/public.pem    the public key of its checkpoints
    ROOT/authority/audit.key           the private key

It is apart from the registry's log, because the authority may be on a machine of its own.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from adapterdistill.errors import ConfigError
from adapterdistill.registry.trust.authority import Issued
from adapterdistill.registry.trust.pem import AUTHORITY_FOLDER
from adapterdistill.registry.upkeep.audit import AuditLog


class EnrolmentLog:
    """The open log. The authority's lock keeps other commands away from it."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def enrolled(self, issued: Iterable[Issued]) -> None:
        """Record new certificates; raises ConfigError if the log cannot be written."""
        self._append("enrolled", issued)

    def revoked(self, issued: Iterable[Issued]) -> None:
        """Record certificates that are revoked now; raises ConfigError like `enrolled`."""
        self._append("revoked", issued)

    def _append(self, kind: str, issued: Iterable[Issued]) -> None:
        lines: list[dict[str, str | int]] = [
            {
                "kind": kind,
                "name": str(one.caller),
                "use": one.usage.name,
                "serial": one.serial,
                "expires": one.expires.isoformat(),
            }
            for one in issued
        ]
        if not lines:
            return
        try:
            self._log.append(lines)
        except OSError as error:
            raise ConfigError(f"cannot write the authority's audit log: {error.strerror}") from None


@contextmanager
def opened(root: Path) -> Iterator[EnrolmentLog]:
    """Open the log of the authority in `root`, which must be open, too; made if it is absent.

    Raises:
        AuditBrokenError: the end of the log was changed.
        ConfigError: it cannot be opened or signed.
    """
    try:
        log = AuditLog(root / AUTHORITY_FOLDER, lambda _revision: ())
    except OSError as error:
        raise ConfigError(f"cannot open the authority's audit log: {error.strerror}") from None
    with closing(log):
        yield EnrolmentLog(log)
