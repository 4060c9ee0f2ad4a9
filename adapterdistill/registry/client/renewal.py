"""Renewal of a caller's certificates at the registry, by hand or whenever they are due."""

import logging
from datetime import UTC, datetime
from pathlib import Path

from adapterdistill.errors import AdapterDistillError
from adapterdistill.files import alone_in
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.trust import renewal
from adapterdistill.registry.trust.certificates import left_of
from adapterdistill.registry.trust.credentials import Credentials, read_credentials

LOOK_EVERY_S = 600.0
"""How often a process that lives long looks whether its certificates are due."""
logger = logging.getLogger(__name__)


def renew(client: RegistryClient, folder: Path, *, if_due: bool = False) -> Credentials:
    """Renew the certificates of a folder, with new keys, through a client that uses them.

    Processes that share the folder take turns. The client's next call uses the new certificates.

    Args:
        if_due: leave them as they are while more than a third of their time is left.

    Raises:
        AuthorityOfflineError: the registry's operator has to sign FOLDER/renewal/request.pem.
        UnauthenticatedError: the certificates are not valid any more, or the answer is not to be
            trusted.
        ConfigError: the folder is unusable, or cannot be written.
        OSError: the folder cannot be locked.
    """
    with alone_in(folder):
        renewal.settle(folder)
        own = read_credentials(folder)
        if if_due and not own.is_due(datetime.now(UTC)):
            return own
        own.check()
        request = renewal.begin(folder)
        return renewal.install(folder, client.renew_certificates(request.read_bytes()))


def keep_renewed(address: str, folder: Path) -> None:
    """Renew the certificates if they are due; where that fails, log why and until when they hold.

    Runs of onboarding and serving replicas call it again and again. It takes half a minute at most.

    Args:
        address: of the registry, HOST:PORT.
        folder: of the credentials.
    """
    left = ""
    try:
        own = read_credentials(folder)
        if not own.is_due(datetime.now(UTC)):
            return
        left = f", valid {left_of(own.first_to_end, datetime.now(UTC))},"
        with RegistryClient(address, credentials=folder) as client:
            own = renew(client, folder, if_due=True)
        renewed = left_of(own.first_to_end, datetime.now(UTC))
        logger.info("the certificates of %s are renewed, valid %s", own.caller, renewed)
    except (AdapterDistillError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        logger.warning("%s: the certificates%s were not renewed: %s", folder, left, why)
