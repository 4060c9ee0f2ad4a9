"""The part of `bad_input` that comes by command: what, the arguments, and what is said.

`pipe`, `folder`, `loop` and `file` are such in the working folder, and `file` is empty.
"""

SECRET = "canary-4711"
LONG = "n" * 300

COMMANDS: list[tuple[str, list[str], str]] = [
    (
        "an address that is none",
        ["query", "acme", "x", "--address", "ftp://here"],
        "error [INVALID_CONFIG]: not an address: ftp://here",
    ),
    (
        "nobody there",
        ["query", "acme", "x", "--address", "http://127.0.0.1:1"],
        "error [SERVING_ERROR]: no answer from http://127.0.0.1:1: the connection was refused: "
        "nothing listens there",
    ),
    (
        "a path for a tenant",
        ["query", "../acme", SECRET],
        "error [INVALID_CONFIG]: not a tenant name: expected lower-case letters, digits, . _ and -",
    ),
    (
        "bytes that are no text",
        ["query", "acme", f"{SECRET}\udcff"],
        "error [INVALID_CONFIG]: the question is not valid UTF-8",
    ),
    (
        "open to everybody",
        ["serve", "--store", "s", "--host", "0.0.0.0"],
        "error [INVALID_CONFIG]: --host 0.0.0.0 is open to others, who could ask for every tenant: "
        "give --tokens FILE (see `adapterdistill token new`)",
    ),
    (
        "no such encoder",
        ["serve", "--store", "s", "--encoder", "./none"],
        "error [INVALID_CONFIG]: encoder folder does not exist: ./none",
    ),
    (
        "a name longer than a file's",
        ["data", "describe", LONG],
        f"error [FILE_ERROR]: {LONG}/faqs.parquet: File name too long",
    ),
    (
        "a name that is no version's",
        ["registry", "show", "acme", "--address", "127.0.0.1:1"],
        "error [INVALID_MANIFEST]: not a version name: expected "
        "tenants/TENANT/adapters/ADAPTER/versions/SHA256",
    ),
    (
        "no registry there",
        ["registry", "list", "--address", "127.0.0.1:1"],
        "error [REGISTRY_UNAVAILABLE]: registry 127.0.0.1:1: the connection was refused: "
        "nothing listens there",
    ),
    (
        "a registry at a host that is unknown",
        ["registry", "list", "--address", "http://nowhere.invalid:1"],
        "error [REGISTRY_UNAVAILABLE]: registry nowhere.invalid:1: its host's name is unknown",
    ),
    (
        "no such tokens",
        ["token", "list", "--tokens", "none"],
        "error [INVALID_CONFIG]: none: No such file or directory",
    ),
    (
        "a pipe for a run",
        ["onboard", "--local", "--config", "pipe"],
        "error [INVALID_CONFIG]: pipe: expected a file",
    ),
    (
        "a folder for a run",
        ["onboard", "--local", "--config", "folder"],
        "error [INVALID_CONFIG]: folder: expected a file",
    ),
    (
        "a link to itself for a run",
        ["onboard", "--local", "--config", "loop"],
        "error [INVALID_CONFIG]: loop: Too many levels of symbolic links",
    ),
    (
        "a pipe for an address",
        ["registry", "list", "--address-file", "pipe"],
        "error [INVALID_CONFIG]: pipe: expected a file",
    ),
    (
        "a web page for a registry",
        ["registry", "list", "--address", "https://127.0.0.1:1"],
        "error [INVALID_CONFIG]: not an address of a registry: expected HOST:PORT, got "
        "'https://127.0.0.1:1'",
    ),
    (
        "a port that there is not",
        ["registry", "list", "--address", "127.0.0.1:65536"],
        "error [INVALID_CONFIG]: not an address of a registry: expected HOST:PORT, got "
        "'127.0.0.1:65536'",
    ),
    (
        "a pipe for an audit log",
        ["registry", "audit", "verify", "pipe"],
        "error [INVALID_CONFIG]: pipe: expected an audit log, or a folder that holds one",
    ),
    (
        "a file for a registry's folder",
        ["registry", "serve", "--create", "--root", "file"],
        "error [REGISTRY_ERROR]: cannot open the registry folder file: File exists",
    ),
    (
        "a misspelt folder of a registry",
        ["registry", "serve", "--root", "regstry"],
        "error [INVALID_CONFIG]: --root regstry: no registry there: correct its name, make "
        "certificates with `adapterdistill registry init --root regstry`, or begin one in plain "
        "text with --create",
    ),
    (
        "a folder without a registry",
        ["registry", "serve", "--root", "folder"],
        "error [INVALID_CONFIG]: --root folder: no registry there: correct its name, make "
        "certificates with `adapterdistill registry init --root folder`, or begin one in plain "
        "text with --create",
    ),
    (
        "a zero in a host's name",
        ["registry", "init", "--root", "r", "--host", "a\0b"],
        "error [INVALID_CONFIG]: not a host name or an IP address: 'a\\x00b'",
    ),
    (
        "a file for a folder of keys",
        ["owner", "show", "file"],
        "error [INVALID_CONFIG]: file/tls.key: Not a directory",
    ),
    (
        "a pipe for tokens",
        ["token", "list", "--tokens", "pipe"],
        "error [INVALID_CONFIG]: pipe: expected a file",
    ),
    (
        "a token that others may read",
        ["query", "acme", "x", "--token-file", "file"],
        "error [INVALID_CONFIG]: file: holds a secret, but others may read or change it (mode "
        "0644): chmod 600 it, and replace the secret if they could have read it",
    ),
]
