"""What Ray Serve's proxies know of the gRPC calls. Imported there: needs neither torch nor a model.

Requests pass the proxy as the bytes that came: the replica parses them, refuses what is no message
like any other bad request, and the proxy, which is shared, does not spend time on it.
"""

from typing import Any

import grpc

from adapterdistill.serving.v1 import serving_pb2

_SERVICE = serving_pb2.DESCRIPTOR.services_by_name["SearchService"]


def add_search_service(servicer: Any, server: Any) -> None:
    """What generated code calls `add_SearchServiceServicer_to_server`, without parsers.

    Serve puts its own routing in place of the servicer's methods, and writes messages itself.
    """
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(getattr(servicer, method.name))
        for method in _SERVICE.methods
    }
    handler = grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)
    server.add_generic_rpc_handlers((handler,))


def options(port: int, request_timeout_s: float) -> dict[str, Any]:
    """Ray Serve's `grpc_options`. Without reflection: it would be open to those without a token."""
    return {
        "port": port,
        "grpc_servicer_functions": [f"{__name__}.{add_search_service.__name__}"],
        "request_timeout_s": request_timeout_s,
        "enable_reflection": False,
    }
