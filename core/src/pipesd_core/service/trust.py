"""TLS contexts, of clients and of servers, and the variables of the environment that Python and OpenSSL read for them.

A file that cannot be used is an error that names where it was given; without this, OpenSSL would pass over it without a
word, and trust nobody.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipesd_core.errors import ConfigError

CA_FILE: Final = "SSL_CERT_FILE"
CA_FOLDERS: Final = "SSL_CERT_DIR"
SESSION_KEYS: Final = "SSLKEYLOGFILE"


def client_context(environ: Mapping[str, str], ca_file: Path | None = None) -> ssl.SSLContext:
    """The context of a client. Raises ConfigError.

    ca_file: the only authorities to trust; None: those of SSL_CERT_FILE and SSL_CERT_DIR, and where one is not set, the
    system's, or certifi's where the system has none.
    """
    _check_session_keys(environ)
    if ca_file is not None:
        try:
            return ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # SSLError is one
            raise ConfigError(f"cannot use ca_file {ca_file}: {error}") from error
    compiled_in = ssl.get_default_verify_paths()
    file, folders = environ.get(CA_FILE, ""), environ.get(CA_FOLDERS, "")
    if folders and not any(map(os.path.isdir, folders.split(os.pathsep))):
        raise ConfigError(
            f"the environment variable {CA_FOLDERS} must name a folder of certificates, but there is no folder "
            f"{folders!r}: correct or unset it"
        )
    folders = folders or (compiled_in.openssl_capath if os.path.isdir(compiled_in.openssl_capath) else "")
    system = compiled_in.openssl_cafile if os.path.isfile(compiled_in.openssl_cafile) else ""
    if not (file or system or folders):
        import certifi  # of the HTTP library

        system = certifi.where()
    try:
        return ssl.create_default_context(cafile=file or system or None, capath=folders or None)
    except OSError as error:
        where = f"the environment variable {CA_FILE} names {file!r}" if file else f"there is {system or folders}"
        remedy = "correct or unset it" if file else f"name another by {CA_FILE}"
        raise ConfigError(
            f"{where}, which cannot be used as a file of certificates ({_why(error)}): {remedy}"
        ) from error


def server_context(environ: Mapping[str, str], cert: Path, key: Path | None) -> ssl.SSLContext:
    """The context of a server with this certificate chain. key: None: it is in that file too. Raises ConfigError."""
    _check_session_keys(environ)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password="")  # never ask at a terminal for one
    except OSError as error:  # SSLError is one
        why = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else error
        raise ConfigError(
            f"cannot use tls_cert {cert} with tls_key {key or cert}: {why}; both are PEM files, the key without a "
            "passphrase"
        ) from error
    return context


def without_authorities() -> ssl.SSLContext:
    """The context of a client that is not to use TLS: it trusts nobody, and costs no reading of files."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _check_session_keys(environ: Mapping[str, str]) -> None:
    """Check the file to which Python writes the keys of TLS sessions where a user wants to look into them."""
    if not (file := environ.get(SESSION_KEYS)):
        return
    try:
        open(file, "ab").close()
    except OSError as error:
        raise ConfigError(
            f"the environment variable {SESSION_KEYS} names {file!r}, which cannot be written to ({_why(error)}): "
            "correct or unset it"
        ) from error


def _why(error: OSError) -> str:
    return str(error) if isinstance(error, ssl.SSLError) else error.strerror or str(error)
