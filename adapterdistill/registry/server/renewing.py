"""Renewal of certificates at the registry, where its authority's key is at hand."""

import logging
from datetime import UTC, datetime
from pathlib import Path

from adapterdistill.errors import AdapterDistillError, AuthorityOfflineError, ConfigError
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.authority import Renewed, opened
from adapterdistill.registry.trust.certificates import is_due, left_of

logger = logging.getLogger(__name__)


class Renewing:
    """The authority of a registry's folder, which may be absent or locked. Its methods block."""

    def __init__(self, root: Path, passphrase: bytes | None) -> None:
        self._root = root
        self._passphrase = passphrase

    def renew(self, caller: Caller, request: bytes) -> Renewed:
        """Issue certificates to a caller (`Authority.renew`).

        Raises:
            AuthorityOfflineError: the key is not here, or is encrypted and no passphrase opens it.
        """
        try:
            self._unlock()
        except ConfigError:
            raise AuthorityOfflineError(
                "the registry has no key to sign renewals with: send the request to its operator"
            ) from None
        with opened(self._root, self._passphrase) as authority:
            return authority.renew(caller, request)

    def keep_server(self) -> None:
        """Renew the server's certificate when it is due; log a warning where that fails."""
        file = self._root / pem.SERVER_FOLDER / pem.SERVER_PEM
        left = "for an unknown time"
        try:
            _, certificate = pem.read_server(file)
            if not is_due(certificate, datetime.now(UTC)):
                return
            left = left_of(certificate, datetime.now(UTC))
            self._unlock()
            with opened(self._root, self._passphrase) as authority:
                authority.certify_server()
            logger.info("renewed the server's certificate")
        except AdapterDistillError as error:
            logger.warning(
                "the server's certificate is valid %s, and was not renewed: %s; `adapterdistill"
                " registry renew-server` renews it",
                left,
                error,
            )

    def _unlock(self) -> None:
        with opened(self._root, self._passphrase) as authority:
            authority.unlock()
