"""Requests over HTTP by the standard library's client, which adds and hides nothing."""

import asyncio
import http.client
import json
import ssl
from dataclasses import dataclass

import pytest


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        """Return the body as JSON."""
        return json.loads(self.body)


def send(port, method, path, body=None, headers=None, *, tls=None) -> Answer:
    """Send one request over a connection of its own."""
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=tls)
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    )
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


@pytest.fixture
def call():
    """Give `await call(server, "GET", path, body, headers)`."""

    async def one(server, method, path, body=None, headers=None, *, tls=None) -> Answer:
        return await asyncio.to_thread(send, server.http_port, method, path, body, headers, tls=tls)

    return one


@pytest.fixture
def trusting():
    """Give `trusting(ca, certificate, key)`, a context that trusts one authority."""

    def make(ca, certificate=None, key=None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=ca)
        if certificate:
            context.load_cert_chain(certificate, key)
        return context

    return make
