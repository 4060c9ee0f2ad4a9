"""The words that stand for values in a command's help: FOLDER, TENANT, HOST:PORT.

One table holds them for all commands, by the parameter's name: one idea has one word. An option
that needs another word gives its own `metavar`.
"""

import re
from typing import Any

_NAMES_OF = {
    "ADAPTER": ("adapter",),
    "ALIAS": ("alias",),
    "auto|float32|bfloat16|int8": ("dtype",),
    "BUNDLE": ("bundle",),
    "cpu|cuda": ("device",),
    "DAYS": ("days",),
    "DOMAIN,...": ("leave_out",),
    "DRILL": ("names",),
    "FILE": (
        *(
            "address_file",
            "ca",
            "config",
            "file",
            "on",
            "output",
            "path",
            "port_file",
            "public_key",
            "request",
        ),
        *("token_file", "tokens"),
    ),
    "FOLDER": (
        *("cache", "credentials", "data", "folder", "keys", "out", "peer_env", "record"),
        *("registry_credentials", "root", "source", "stop", "store", "target"),
    ),
    "FRACTION": ("share", "test_fraction", "valid_fraction"),
    "GIB": ("max_tenant_gib",),
    "HOST": ("host",),
    "HOST:PORT": ("address", "ray_address", "registry"),
    "ID": ("token_id",),
    "LABEL": ("label",),
    "LANGUAGE": ("language",),
    "MIB": ("bank_mib", "encoder_mib", "max_payload_mib"),
    "MINUTES": ("minutes",),
    "NAME": ("name",),
    "NAME|FOLDER": ("encoder",),
    "NUMBER": (
        *("adapters", "fuzz", "heads", "k", "kills", "last", "layers", "lstm_size"),
        *("max_tenant_versions", "payloads", "processes", "replicas", "requests", "rounds"),
        *("runs", "seed", "seeds", "steps", "threads", "top_k"),
    ),
    "NUMBER,...": ("teachers", "workers"),
    "PORT": ("grpc_port", "port"),
    "QUESTION": ("text",),
    "RATE": ("max_calls_per_s", "rate"),
    "REASON": ("reason",),
    "REVISION": ("after_revision",),
    "SECONDS": ("time_limit_s", "timeout_s"),
    "SERIAL": ("serial",),
    "SHA256": ("encoder_weights_sha256", "head"),
    "STEP": ("step",),
    "TASK": ("task",),
    "TENANT": ("exclude_tenant", "tenant"),
    "TENANT,...": ("tenants",),
    "URL": ("url",),
}
METAVARS = {name: metavar for metavar, names in _NAMES_OF.items() for name in names}


def name_values(command: Any) -> Any:
    """Give each parameter of a command, or of a group's commands, its metavar; return the command.

    Choices keep theirs, which lists them. A flag takes no value and shows none. The paragraphs of
    its help become a line each: Typer would break them where the source does.
    """
    command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help or "")
    for nested in getattr(command, "commands", {}).values():
        name_values(nested)
    for parameter in (*command.params, command.get_help_option(command.context_class(command))):
        if parameter.param_type_name == "argument":
            parameter.metavar = METAVARS.get(parameter.name)
            parameter.display_type_rich = lambda ctx: None  # the type is no news to a person
        elif getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.metavar is None and not parameter.type_descriptor.is_choice:
            parameter.metavar = METAVARS.get(parameter.name)
    return command
