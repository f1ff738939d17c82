"""Certificate authorities of our own, and certificates of theirs for 127.0.0.1, made by the openssl program."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """Files in a folder: ca.pem, and for each name that a certificate was issued to NAME.pem and NAME.key."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.file = folder / "ca.pem"
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority"),
            *("-addext", "keyUsage=critical,keyCertSign", "-out", self.file, "-keyout", folder / "ca.key"),
        )

    def issue(self, name: str, subject: str = "IP:127.0.0.1") -> tuple[Path, Path]:
        """(certificate, key)"""
        certificate, key, request = (self._folder / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={subject}\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-out", request, "-keyout", key)
        _openssl(
            *("x509", "-req", "-in", request, "-days", "2", "-extfile", extensions, "-out", certificate),
            *("-CA", self.file, "-CAkey", self._folder / "ca.key", "-set_serial", "7"),
        )
        return certificate, key


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
