"""A server that takes bytes and answers a few: what gRPC alone costs in Python. It has no model."""

import os

import grpc
import uvloop

_ANSWER = bytes(120)
"""As long as an answer with five classes."""


async def classify(data, context):
    """Answer one call."""
    del data, context
    return _ANSWER


class Handler(grpc.GenericRpcHandler):
    """Bytes in, bytes out, without generated messages."""

    def service(self, details):
        """Return the one method."""
        del details
        return grpc.unary_unary_rpc_method_handler(classify)


async def main():
    """Serve until the process is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
