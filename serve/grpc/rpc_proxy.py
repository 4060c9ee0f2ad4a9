"""The part of the gRPC interface that Ray Serve's proxies import: it needs no torch and no model.

A request passes the shared proxy as bytes. The replica parses it, and refuses bytes that are no
message like any other bad request; the proxy spends no time on it.
"""

from typing import Any

import grpc

from adapterdistill.serving.v1 import serving_pb2

_SERVICE = serving_pb2.DESCRIPTOR.services_by_name["SearchService"]


def add_search_service(servicer: Any, server: Any) -> None:
    """Add the service's methods to a server, as bytes without parsers.

    Replaces the generated `add_SearchServiceServicer_to_server`. Serve puts its own routing in
    place of the servicer's methods, and writes messages itself.
    """
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(getattr(servicer, method.name))
        for method in _SERVICE.methods
    }
    handler = grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)
    server.add_generic_rpc_handlers((handler,))


def options(port: int, request_timeout_s: float) -> dict[str, Any]:
    """Ray Serve's `grpc_options`, without reflection, which would be open without a token."""
    return {
        "port": port,
        "grpc_servicer_functions": [f"{__name__}.{add_search_service.__name__}"],
        "request_timeout_s": request_timeout_s,
        "enable_reflection": False,
    }
