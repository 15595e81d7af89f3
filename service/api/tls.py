"""TLS and mTLS, with certificates that may be replaced while the server runs.

gRPC asks for the certificates at every handshake. Open connections keep the old ones.
"""

import logging
import ssl
from pathlib import Path
from typing import Self

import grpc

from service.config import ServerConfig
from service.errors import InvalidArgumentError
from service.files import file_state

_DATES = (9, 10)
"""OpenSSL's codes of a certificate that is not valid yet, and of one that is no longer."""

logger = logging.getLogger(__name__)


class Certificates:
    """The server's certificate and key, read again whenever a file has changed."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Read the files once, so that a mistake is found at the start.

        Args:
            certificate: The server's chain, PEM.
            key: Its private key, PEM.
            client_ca: Must have signed callers' certificates (mTLS), PEM; None: no mTLS.

        Raises:
            InvalidArgumentError: A file cannot be read, or holds no such PEM.
        """
        self._paths = (certificate, key, client_ca)
        self._seen = self._state()
        self._now = self._read()
        self._context: ssl.SSLContext
        self._context_seen = self._seen

    @classmethod
    def of(cls, config: ServerConfig) -> Self | None:
        """Return the certificates that a server is configured with; None: no TLS.

        Raises:
            InvalidArgumentError: As the constructor.
        """
        if config.tls_certificate is None or config.tls_key is None:
            return None
        return cls(config.tls_certificate, config.tls_key, config.tls_client_ca)

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for gRPC's `add_secure_port`, which follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._now,
            self._changed,  # type: ignore[arg-type]  # the stubs lack None, which keeps the old
            require_client_authentication=self._paths[2] is not None,
        )

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of the HTTP port, which follows the files, too."""
        self._context = self._new_context()
        outer = self._new_context()
        outer.sni_callback = self._choose
        return outer

    def _choose(self, connection: ssl.SSLObject, name: str | None, outer: ssl.SSLContext) -> None:
        """Give a connection the current certificates; ssl calls this at every handshake."""
        del name, outer
        seen = self._state()
        if seen != self._context_seen:
            self._context_seen = seen
            try:
                self._context = self._new_context()
            except InvalidArgumentError as error:
                logger.error("the old certificates are kept for HTTP: %s", error)
        connection.context = self._context

    def _new_context(self) -> ssl.SSLContext:
        certificate, key, client_ca = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate, key)
            if client_ca is not None:
                context.load_verify_locations(client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (ssl.SSLError, OSError) as error:
            raise InvalidArgumentError(
                f"{certificate} and {key} cannot be used: {error}"
            ) from error
        return context

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new configuration, or None if nothing changed. gRPC calls this."""
        try:
            seen = self._state()
            if seen == self._seen:
                return None
            # Noted first: broken files are reported once.
            self._seen = seen
            self._now = self._read()
        except InvalidArgumentError as error:
            logger.error("the old certificates are kept: %s", error)
            return None
        logger.info("new certificates are used from now on")
        return self._now

    def _state(self) -> list[object]:
        return [file_state(path) for path in self._paths if path is not None]

    def _read(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, client_ca = self._paths
        chain, secret = _pem(certificate, "CERTIFICATE"), _pem(key, "PRIVATE KEY")
        roots = None if client_ca is None else _pem(client_ca, "CERTIFICATE")
        _check_pair(certificate, key)
        if out_of_date := _out_of_date(certificate, key):
            logger.warning("%s: %s; callers will refuse it: renew it", certificate, out_of_date)
        return grpc.ssl_server_certificate_configuration([(secret, chain)], roots)


def _check_pair(certificate: Path, key: Path) -> None:
    """Refuse a key that does not fit the certificate, such as during a renewal."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgumentError(
            f"{certificate} and {key} are no pair of certificate and key: {error}"
        ) from error


def _out_of_date(certificate: Path, key: Path) -> str:
    """Return what is wrong with the certificate's dates; empty if nothing is.

    OpenSSL tells in a handshake with ourselves, in which the client trusts this certificate.
    """
    server, client = (
        ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )
    server.load_cert_chain(certificate, key)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for end in ends * 2:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            return error.verify_message if error.verify_code in _DATES else ""
        except ssl.SSLError:
            return ""
    return ""


def _pem(path: Path, kind: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror}") from error
    if b"-----BEGIN " not in data or kind.encode() not in data:
        raise InvalidArgumentError(f"{path} holds no {kind.lower()} in PEM")
    return data
