"""Hooks of mkdocs: pages from outside of docs/; links and anchors that mean on the site what they mean on GitHub."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[1]
ELSEWHERE: Final = {
    "README.md": "index.md",
    "SECURITY.md": "SECURITY.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "examples/demo_pair/README.md": "examples/demo_pair/README.md",
    "examples/smollm2/README.md": "examples/smollm2/README.md",
}
"""Pages outside of docs/: their path in the repository, and on the site."""
LINK: Final = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def in_repository(page: str) -> str:
    """The path in the repository of a page of the site."""
    return next((path for path, of in ELSEWHERE.items() if of == page), f"docs/{page}")


def site_path(path: str) -> str:
    """The path on the site of a file of the repository; files that are no page are below source/."""
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}"


def target(link: str, page: str) -> str:
    """The path in the repository of what a page (also a path in the repository) links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def slug(heading: str, separator: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make mkdocs name anchors as GitHub does."""
    config.mdx_configs["toc"] = {**config.mdx_configs.get("toc", {}), "slugify": slug}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside of docs/, and the files of the repository that any page links to."""
    for path, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    for file in list(files.documentation_pages()):
        page = in_repository(file.src_uri)
        for link in LINK.findall(file.content_string):
            path = target(link, page)
            source = site_path(path)
            if source.startswith("source/") and (ROOT / path).is_file() and not files.get_file_from_path(source):
                files.append(File.generated(config, source, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links between files of the repository into links between pages of the site."""
    here = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        there = site_path(target(link[0], in_repository(here)))
        return posixpath.relpath(there, posixpath.dirname(here) or ".")

    return LINK.sub(moved, markdown)
