"""What one writes in an afternoon: grpc's thread pool, decode, one image a run."""

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
from common import CORES, PORT, likeliest, pixels, session

model = session()


def classify(data, context):
    """Answer one call."""
    del context
    (rows,) = model.run(None, {"images": pixels(data)[None]})
    return json.dumps(likeliest(rows[0])).encode()


class Handler(grpc.GenericRpcHandler):
    """Bytes in, bytes out, without generated messages."""

    def service(self, details):
        """Return the one method."""
        del details
        return grpc.unary_unary_rpc_method_handler(classify)


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(2 * CORES))
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"127.0.0.1:{PORT}")
    server.start()
    server.wait_for_termination()
