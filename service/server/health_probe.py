"""Asks a server for its health, for orchestrators: exit 0 if it is SERVING, else 1.

    python -m service.probe [HOST:PORT]

For a server with TLS, give `--ca`, and `--server-name` if its certificate is not for `localhost`.
For mTLS, also give `--certificate` and `--key`. Without arguments, those in HANSANG_PROBE count: an
image's health check has none. Health needs no token. To start fast, this module imports no
onnxruntime.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def serving(
    address: str, *, timeout_s: float, credentials: grpc.ChannelCredentials | None, name: str
) -> str:
    """Return the server's health, such as `SERVING`, or the error that asking for it gave."""
    # A proxy is for the world outside; it does not lead back to this machine's server.
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if name:
        options.append(("grpc.ssl_target_name_override", name))
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
    """Print the health of the server that the arguments name; return the exit code."""
    parser = argparse.ArgumentParser(prog="service.probe", description=__doc__)
    parser.add_argument("address", nargs="?", default="localhost:8500")
    parser.add_argument("--timeout-s", type=float, default=3.0)
    parser.add_argument("--ca", type=Path, help="authority of the server's certificate, PEM")
    parser.add_argument("--certificate", type=Path, help="for mTLS, PEM")
    parser.add_argument("--key", type=Path, help="its private key, PEM")
    parser.add_argument("--server-name", default="", help="the name in the server's certificate")
    given = parser.parse_args(sys.argv[1:] or shlex.split(os.environ.get("HANSANG_PROBE", "")))
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
