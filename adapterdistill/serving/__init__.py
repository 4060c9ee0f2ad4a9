"""The gRPC interface of serving, for its clients as much as for `serve.grpc.rpc`."""
