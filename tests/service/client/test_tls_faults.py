"""What is wrong with a TLS connection is said, one sentence a fault, with gRPC's own words."""

import shutil
import subprocess
from pathlib import Path

import pytest

from service.client.client import AsyncClassifier
from service.errors import UnavailableError

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")

CONFIG = """
[ca]
default_ca = d
[d]
database = {folder}/index
new_certs_dir = {folder}
serial = {folder}/serial
default_md = sha256
policy = p
x509_extensions = e
[p]
commonName = supplied
[e]
subjectAltName = {name}
basicConstraints = CA:TRUE
"""
DATES = {"past": ("20200101", "20200102"), "present": ("20200101", "20900101")}


@pytest.fixture
def issue(tmp_path):
    """Give `issue(dates, name)`: a certificate that signs itself, and its key."""

    def make(dates: str = "present", name: str = "IP:127.0.0.1") -> tuple[Path, Path]:
        folder = tmp_path / f"tls-{len(list(tmp_path.glob('tls-*')))}"
        folder.mkdir()
        (folder / "ca.cnf").write_text(CONFIG.format(folder=folder, name=name))
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        key, request, certificate = (folder / f"server.{kind}" for kind in ("key", "csr", "pem"))
        start, end = (f"{date}000000Z" for date in DATES[dates])
        for command in (
            ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-subj", "/CN=server", "-keyout", key, "-out", request],
            ["ca", "-batch", "-selfsign", "-notext", "-startdate", start, "-enddate", end,
             "-config", folder / "ca.cnf", "-keyfile", key, "-in", request, "-out", certificate],
        ):  # fmt: skip
            subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
        return certificate, key

    return make


@pytest.mark.parametrize(
    ("fault", "sentence", "cause"),
    [
        ("expired", "has expired", "CERTIFICATE_VERIFY_FAILED"),
        ("another authority", "not signed by the trusted authority", "CERTIFICATE_VERIFY_FAILED"),
        ("another name", "is for another name", "Hostname Verification"),
        ("plain text to TLS", "may want TLS", "closed"),
        ("TLS to plain text", "speaks no TLS", "WRONG_VERSION_NUMBER"),
    ],
)
async def test_each_fault_has_its_sentence(publish, serve, issue, photo, fault, sentence, cause):
    """It is not 'no service answers; start one': one does."""
    publish("food")
    certificate, key = issue(
        "past" if fault == "expired" else "present",
        "DNS:kitchen.example" if fault == "another name" else "IP:127.0.0.1",
    )
    tls = {"tls_certificate": certificate, "tls_key": key}
    server = await serve(**({} if fault == "TLS to plain text" else tls))
    ca = issue()[0] if fault == "another authority" else certificate
    settings = {} if fault == "plain text to TLS" else {"ca": ca}
    address = f"127.0.0.1:{server.port}"
    async with AsyncClassifier(address, retries=0, **settings) as classifier:
        with pytest.raises(UnavailableError, match=sentence) as caught:
            await classifier.classify([photo("red")])
    assert cause in str(caught.value)
    assert "start one" not in str(caught.value)


@pytest.mark.parametrize(("dates", "warnings"), [("past", 1), ("present", 0)])
async def test_a_certificate_out_of_date_is_warned_of(
    publish, serve, issue, caplog, dates, warnings
):
    """The server serves, and its log says why callers will not come."""
    publish("food")
    certificate, key = issue(dates)
    await serve(tls_certificate=certificate, tls_key=key)
    assert warnings == caplog.text.count("certificate has expired; callers will refuse it")
