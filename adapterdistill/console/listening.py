"""Addresses that the console listens on: plain HTTP on loopback alone, TLS beyond."""

import signal
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cryptography import x509

from adapterdistill.console.guard import Access
from adapterdistill.errors import ConfigError
from adapterdistill.files import read_file, read_secret

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_GRACE_S = 2


@dataclass(frozen=True)
class Listening:
    """An address, and the files of TLS."""

    host: str
    port: int
    certificate: Path | None = None
    """The server's certificates, in PEM."""
    key: Path | None = None
    client_ca: Path | None = None
    """Certificates whose holders' clients are let in (mutual TLS); None: the token is enough."""

    @property
    def secure(self) -> bool:
        return self.certificate is not None

    def check(self, *, is_loopback: bool) -> None:
        """Raise ConfigError: others could read the token on the way, or a file is unusable."""
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("give both --certificate and --key")
        if self.certificate is None or self.key is None:
            if not is_loopback:
                raise ConfigError(
                    f"--host {self.host} is open to others, who could read the token on the way: "
                    "give --certificate FILE and --key FILE for TLS"
                )
            if self.client_ca is not None:
                raise ConfigError("--client-ca needs --certificate FILE and --key FILE")
            return
        read_secret(self.key)
        if self.client_ca is not None:
            read_file(self.client_ca)
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.certificate, self.key
            )
        except (OSError, ssl.SSLError):
            raise ConfigError(
                f"{self.certificate}: not a certificate in PEM that belongs to {self.key}"
            ) from None

    def access(self) -> Access:
        """New secrets, and the names that requests may give: those of loopback or the certificate.

        Raises:
            ConfigError: the certificate has no name.
        """
        names = _LOOPBACK if self.certificate is None else _names(self.certificate)
        default = 443 if self.secure else 80
        hosts = {f"{name}:{self.port}" for name in names}
        hosts |= set(names) if self.port == default else set()
        cookie = f"{'__Host-' if self.secure else ''}adapterdistill-console-{self.port}"
        return Access(frozenset(hosts), secure=self.secure, cookie=cookie)

    def url(self, access: Access) -> str:
        """The address to open, with the token."""
        named = "127.0.0.1" if not self.secure else min(access.hosts).rpartition(":")[0]
        scheme = "https" if self.secure else "http"
        return f"{scheme}://{named}:{self.port}/login?token={access.token}"

    def run(self, app: "ASGIApp") -> None:
        """Serve until SIGTERM or Ctrl-C."""
        import uvicorn

        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn ends at a signal, and then sends it again to whoever handled it before.
            signal.signal(number, _end)
        tls: dict[str, Any] = {}
        if self.certificate is not None:
            tls = {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        if self.client_ca is not None:
            tls |= {"ssl_ca_certs": str(self.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
        uvicorn.run(
            app,
            host=self.host,
            port=self.port,
            access_log=False,  # its lines would hold the token
            log_level="warning",
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
            **tls,
        )


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def _names(certificate: Path) -> tuple[str, ...]:
    try:
        first = x509.load_pem_x509_certificates(read_file(certificate))[0]
        found = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        raise ConfigError(
            f"{certificate}: a certificate with alternative names is needed"
        ) from None
    addresses = [str(one) for one in found.get_values_for_type(x509.IPAddress)]
    names = [one.lower() for one in found.get_values_for_type(x509.DNSName)]
    return (*names, *(f"[{one}]" if ":" in one else one for one in addresses))
