"""The gRPC interface of the search endpoint, for its clients and for `serve.grpc`."""
