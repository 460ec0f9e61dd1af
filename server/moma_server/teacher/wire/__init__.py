"""The teacher's gRPC services: unpack, call, pack."""
