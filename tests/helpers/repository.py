"""Where things are in this repository, however deep a test lies in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / ".build"
"""The demo pair's models, made by `make models`."""
