"""The software that makes an adapter: a digest of all that is installed beside this project."""

import platform
from functools import cache
from importlib.metadata import distributions

from adapterdistill import __version__
from adapterdistill.manifest import Software, sha256_hex


@cache  # reading a few hundred distributions' metadata takes 0.2 s
def installed() -> bytes:
    """List what was installed at the first call: `name==version`, one a line, sorted, each once."""
    # A name is compared as PEP 503 spells it.
    found = {
        f"{one.name.lower().replace('_', '-').replace('.', '-')}=={one.version}\n"
        for one in distributions()
    }
    return "".join(sorted(found)).encode()


def software() -> Software:
    """Describe what is installed now."""
    listed = installed()
    return Software(
        version=__version__,
        python=platform.python_version(),
        distributions=listed.count(b"\n"),
        distributions_sha256=sha256_hex(listed),
    )
