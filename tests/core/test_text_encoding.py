"""Text as other programs save it: what is taken for the same text, and what is refused by its name."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import pytest

from pipesd_core.errors import ConfigError
from pipesd_core.text_encoding import MAX_FILE_BYTES, NotUtf8, decode_text, read_text, without_mark

TEXT = "first = 'ä'\nsecond = 2\n"
SAVED: dict[str, bytes] = {
    "as it is": TEXT.encode(),
    "with a mark": codecs.BOM_UTF8 + TEXT.encode(),
    "on Windows": TEXT.replace("\n", "\r\n").encode(),
    "by Notepad": codecs.BOM_UTF8 + TEXT.replace("\n", "\r\n").encode(),
    "on an old Macintosh": TEXT.replace("\n", "\r").encode(),
}
"""One text as editors save it."""
REFUSED: dict[str, tuple[bytes, str]] = {
    "UTF-16": (TEXT.encode("utf-16"), "UTF-16 text"),
    "UTF-16, big-endian": (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "UTF-16 text"),
    "UTF-32": (TEXT.encode("utf-32"), "UTF-32 text"),
    "UTF-16 without a mark": ("key\n".encode("utf-16-le"), "not UTF-8 text: it has NUL bytes, as UTF-16 has"),
    "Latin-1": (TEXT.encode("latin-1"), "not UTF-8 text: its byte 10 is 0xe4"),
}


@pytest.mark.parametrize("saved", SAVED.values(), ids=SAVED)
def test_one_text_however_it_is_saved(saved: bytes, tmp_path: Path) -> None:
    assert decode_text(saved) == TEXT
    (tmp_path / "f").write_bytes(saved)
    assert read_text(tmp_path / "f", "file") == TEXT


@pytest.mark.parametrize(("saved", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_utf8(saved: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(NotUtf8, match=f"^{re.escape(why)}$"):
        decode_text(saved)
    (tmp_path / "f").write_bytes(saved)
    with pytest.raises(ConfigError, match=f"^the key file .*/f is {re.escape(why)}; save it as UTF-8$"):
        read_text(tmp_path / "f", "key file")


def test_marks_are_taken_from_the_beginning_only() -> None:
    assert without_mark(b'\xef\xbb\xbf{"a": "\xef\xbb\xbf"}') == b'{"a": "\xef\xbb\xbf"}'
    assert without_mark(b"") == b""


@pytest.mark.parametrize(
    ("name", "why"), [("none", "No such file or directory"), ("", "Is a directory"), ("a\0b", "embedded null byte")]
)
def test_files_that_cannot_be_read(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^cannot read the key file .*: {why}$"):
        read_text(Path(f"{tmp_path}/{name}"), "key file")


def test_a_file_without_an_end_has_a_bound() -> None:
    with pytest.raises(ConfigError, match=f"the key file /dev/zero has more than {MAX_FILE_BYTES} bytes"):
        read_text(Path("/dev/zero"), "key file")
