from __future__ import annotations

import ssl
from pathlib import Path

import certifi
import pytest

from pipesd_core.errors import ConfigError
from pipesd_core.service import trust
from pipesd_core.service.trust import client_context, server_context, without_authorities


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A file with one authority of certifi's."""
    first = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    file = tmp_path / "one.pem"
    file.write_text(first[0] + first[1] + "\n")
    return file


@pytest.fixture
def no_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No certificates of the system."""
    nowhere = str(tmp_path / "nowhere")
    paths = ssl.DefaultVerifyPaths("", "", "SSL_CERT_FILE", nowhere, "SSL_CERT_DIR", nowhere)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)


def count(context: ssl.SSLContext) -> int:
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    return len(context.get_ca_certs())


@pytest.mark.usefixtures("no_system")
def test_whom_a_client_trusts(authority: Path, tmp_path: Path) -> None:
    assert count(client_context({"SSL_CERT_FILE": str(authority)})) == 1
    assert count(client_context({"SSL_CERT_FILE": "/nowhere"}, authority)) == 1, "ca_file alone counts"
    assert count(client_context({"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""})) > 50, "certifi's"
    folders = f"{tmp_path / 'nowhere'}:{tmp_path}"
    assert count(client_context({"SSL_CERT_FILE": str(authority), "SSL_CERT_DIR": folders})) == 1
    assert count(client_context({"SSL_CERT_DIR": folders})) == 0, "those are looked up when they are asked for"
    assert count(without_authorities()) == 0


def test_the_system_s_authorities_are_the_default(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ssl.DefaultVerifyPaths("", "", "SSL_CERT_FILE", str(authority), "SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    assert count(client_context({})) == 1
    authority.write_text("")
    with pytest.raises(
        ConfigError, match=rf"there is {authority}, which cannot be used .*name another by SSL_CERT_FILE"
    ):
        client_context({})


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text"])
def test_a_file_of_authorities_that_cannot_be_used_is_named(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        file.write_text("" if kind == "empty" else "no certificate")
    with pytest.raises(ConfigError, match=rf"variable SSL_CERT_FILE names '{file}', which cannot .*or unset it"):
        client_context({"SSL_CERT_FILE": str(file)})
    with pytest.raises(ConfigError, match=rf"cannot use ca_file {file}"):
        client_context({}, file)


def test_folders_of_authorities_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SSL_CERT_DIR must name a folder"):
        client_context({"SSL_CERT_DIR": f"{tmp_path / 'a'}:{tmp_path / 'b'}"})


def test_a_file_for_session_keys_that_cannot_be_written_is_named(
    tmp_path: Path, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python reads the variable by itself, and raises what nobody expects."""
    environ = {"SSLKEYLOGFILE": str(tmp_path / "nowhere" / "keys")}
    monkeypatch.setenv("SSLKEYLOGFILE", environ["SSLKEYLOGFILE"])
    says = r"SSLKEYLOGFILE names .* cannot be written to"
    with pytest.raises(ConfigError, match=says):
        client_context(environ, authority)
    with pytest.raises(ConfigError, match=says):
        server_context(environ, authority, None)
    good = str(tmp_path / "keys")
    monkeypatch.setenv("SSLKEYLOGFILE", good)
    assert client_context({trust.SESSION_KEYS: good}, authority).keylog_filename == good


def test_a_server_s_certificate_that_cannot_be_used_is_named(tmp_path: Path, authority: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot use tls_cert .*nowhere.*No such file"):
        server_context({}, tmp_path / "nowhere", None)
    with pytest.raises(ConfigError, match=r"the key without a passphrase"):
        server_context({}, authority, None)
