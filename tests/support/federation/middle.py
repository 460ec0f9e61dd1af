"""A coordinator in the middle: it carries calls on, and says what it likes instead."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from tests.support.teacher.teacher_server import WAIT_SECONDS, Served

Hook = Callable[[str, bytes, Any], bytes]
"""Is given a method's name, an answer and the call; returns what the site is told."""


@contextmanager
def in_the_middle(served: Served, hook: Hook) -> Iterator[int]:
    """Stands before a teacher, with a certificate that the authority signed for it.

    Args:
        served: The teacher.
        hook: Sees each answer, and may abort the call in its place.

    Yields:
        The port that sites reach.
    """
    certificate, key = served.pki.server()
    server = grpc.server(ThreadPoolExecutor(16))
    with served.channel(served.pki.site("site-a"), grpc) as channel:
        server.add_generic_rpc_handlers((_Carrier(channel, hook),))
        port = server.add_secure_port(
            "127.0.0.1:0",
            grpc.ssl_server_credentials([(key, certificate)], served.pki.ca_pem, True),
        )
        server.start()
        try:
            yield port
        finally:
            server.stop(grace=None).wait(WAIT_SECONDS)


class _Carrier(grpc.GenericRpcHandler):
    def __init__(self, channel: grpc.Channel, hook: Hook) -> None:
        self._channel, self._hook = channel, hook

    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method
        method: Any = self._channel.stream_stream(name)

        def carried(requests: Any, context: Any) -> Iterator[bytes]:
            call = method(requests, timeout=WAIT_SECONDS)
            context.add_callback(call.cancel)
            try:
                for answer in call:
                    yield self._hook(name.rpartition("/")[2], answer, context)
            except grpc.RpcError:
                context.abort(call.code(), call.details())

        return grpc.stream_stream_rpc_method_handler(carried)
