"""scripts/docs_site.py: links and anchors that mean on the site what they mean on GitHub."""

from __future__ import annotations

import pytest
from docs_site import ELSEWHERE, LINK, in_repository, site_path, slug, target


@pytest.mark.parametrize(
    ("link", "page", "path", "on_site"),
    [
        ("docs/api.md", "README.md", "docs/api.md", "api.md"),
        ("../SECURITY.md", "docs/operation.md", "SECURITY.md", "SECURITY.md"),
        ("../README.md", "docs/operation.md", "README.md", "index.md"),
        ("../configs/agent.toml", "docs/quickstart.md", "configs/agent.toml", "source/configs/agent.toml"),
        ("../architecture.md", "docs/notes/papers.md", "docs/architecture.md", "architecture.md"),
    ],
)
def test_where_a_link_leads(link: str, page: str, path: str, on_site: str) -> None:
    assert target(link, page) == path
    assert site_path(path) == on_site


def test_pages_have_one_place_each() -> None:
    assert [in_repository(site_path(path)) for path in (*ELSEWHERE, "docs/api.md")] == [*ELSEWHERE, "docs/api.md"]


def test_which_links_are_moved() -> None:
    text = "[a](docs/api.md) [b](docs/limits.md#part) [c](#here) [d](https://pipesd.example/) ![e](f.svg)"
    assert LINK.findall(text) == ["docs/api.md", "docs/limits.md", "f.svg"]


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Triggers and confidences at T = 1", "triggers-and-confidences-at-t--1"),
        ("4. The session protocol (`pipesd.v1`)", "4-the-session-protocol-pipesdv1"),
        ("Health, and the end", "health-and-the-end"),
    ],
)
def test_anchors_are_github_s(heading: str, anchor: str) -> None:
    assert slug(heading, "-") == anchor
