"""Ask a server whether it serves, for orchestrators: exit 0 if so, else 1. Imports no onnxruntime.

    python -m service.probe [HOST:PORT]

Where the server wants TLS: `--ca`, with `--server-name` if its certificate is not for `localhost`,
and `--certificate` and `--key` for mTLS. Health asks for no token.
"""

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def serving(
    address: str, *, timeout_s: float, credentials: grpc.ChannelCredentials | None, name: str
) -> str:
    """Return what health says, such as `SERVING`, or why it cannot be asked."""
    options = [("grpc.ssl_target_name_override", name)] if name else []
    channel = (
        grpc.secure_channel(address, credentials, options)
        if credentials
        else grpc.insecure_channel(address, options)
    )
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main() -> int:
    """Ask, print the answer, and return the exit code."""
    parser = argparse.ArgumentParser(prog="service.probe", description=__doc__)
    parser.add_argument("address", nargs="?", default="localhost:8500")
    parser.add_argument("--timeout-s", type=float, default=3.0)
    parser.add_argument("--ca", type=Path, help="authority of the server's certificate, PEM")
    parser.add_argument("--certificate", type=Path, help="for mTLS, PEM")
    parser.add_argument("--key", type=Path, help="its private key, PEM")
    parser.add_argument("--server-name", default="", help="the name in the server's certificate")
    given = parser.parse_args()
    credentials = None
    if given.ca:
        try:
            files = [
                path.read_bytes() if path else None
                for path in (given.ca, given.key, given.certificate)
            ]
        except OSError as error:
            print(f"error: cannot read {error.filename}: {error.strerror}", file=sys.stderr)
            return 1
        credentials = grpc.ssl_channel_credentials(*files)
    found = serving(
        given.address,
        timeout_s=given.timeout_s,
        credentials=credentials,
        name=given.server_name,
    )
    print(found)
    return 0 if found == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
