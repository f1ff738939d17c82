"""The path of a lane: what commits and drafts make of it, and how the drafter's copy follows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.drafting.lane_path import CommitEffect, LanePath, PathEdit

PROMPT = (1, 2)
EOS = 9
MAX_LENGTH = 12


def lane_path(limit: int = 8) -> LanePath:
    """A path with its first commit, of no tokens, which the drafter has as a whole."""
    path = LanePath(PROMPT, frozenset((EOS,)))
    assert not wants(path), "nothing is drafted before the first commit"
    assert path.commit((), limit) is CommitEffect.NONE
    assert path.edit(MAX_LENGTH) == PathEdit(0, [1, 2], truncates=False)
    return path


def wants(path: LanePath) -> bool:
    return path.wants_draft


def draft(path: LanePath, *tokens: int) -> None:
    for token in tokens:
        assert path.add_draft(DraftToken(len(path), token, 0.5), path.version)


def test_drafts_that_the_target_decides_stay() -> None:
    path = lane_path()
    draft(path, 3, 4)
    version = path.version
    assert path.commit((3,), 8) is CommitEffect.NONE
    assert (path.version, path.commits, len(path)) == (version, 2, 4)
    assert path.edit(MAX_LENGTH) == PathEdit(4, [], truncates=False)


def test_a_contradiction_discards_what_comes_after_it() -> None:
    path = lane_path()
    draft(path, 3, 4, 5)
    assert path.commit((3, 7), 8) is CommitEffect.CONTRADICTED
    assert path.edit(MAX_LENGTH) == PathEdit(3, [7], truncates=True)
    assert path.edit(MAX_LENGTH) == PathEdit(4, [], truncates=False)


def test_tokens_that_were_not_drafted_extend_the_path() -> None:
    path = lane_path()
    draft(path, 3)
    assert path.commit((3, 4, 5), 8) is CommitEffect.EXTENDED
    assert path.edit(MAX_LENGTH) == PathEdit(3, [4, 5], truncates=False)


def test_several_commits_between_two_forwards_are_one_edit() -> None:
    path = lane_path()
    draft(path, 3, 4, 5)
    path.commit((3, 6), 8)
    path.commit((7,), 8)
    assert path.edit(MAX_LENGTH) == PathEdit(3, [6, 7], truncates=True)


def test_a_draft_for_another_version_or_at_the_limit_is_not_taken() -> None:
    path = lane_path(limit=3)
    version = path.version
    path.commit((3,), 3)
    assert not path.add_draft(DraftToken(2, 3, 0.5), version)
    assert not path.add_draft(DraftToken(3, 4, 0.5), path.version), "the limit"
    assert len(path) == 3
    assert path.edit(MAX_LENGTH) == PathEdit(2, [3], truncates=True)


def test_when_a_draft_is_wanted() -> None:
    path = lane_path(limit=5)
    assert wants(path)
    assert path.set_exhausted(path.version)
    assert not wants(path), "until the path changes"
    path.commit((3,), 5)
    assert wants(path)
    assert not path.set_exhausted(path.version - 1)
    draft(path, EOS)
    assert not wants(path), "the answer is over"
    path.commit((4,), 5)
    assert wants(path)
    draft(path, 5)
    assert not wants(path), "the limit"


def test_an_end_of_sequence_token_in_the_prompt_ends_nothing() -> None:
    path = LanePath((1, EOS), frozenset((EOS,)))
    path.commit((), 8)
    assert wants(path)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(st.integers(1, 3), max_size=3), st.integers(0, 14)),
        st.tuples(st.just("forward"), st.integers(1, 3), st.lists(st.integers(1, 3), max_size=2)),
    ),
    max_size=30,
)


@given(steps)
def test_the_drafters_copy_is_the_path_after_each_edit(steps: list[tuple[str, object, object]]) -> None:
    """Against a plain model: committed tokens and drafts as two lists."""
    path = LanePath(PROMPT, frozenset())
    committed, drafts, copy = list(PROMPT), list[int](), list[int]()
    limit = 0

    def commit(tokens: list[int]) -> None:
        nonlocal drafts
        agreed = tokens == drafts[: len(tokens)]
        path.commit(tokens, limit)
        committed.extend(tokens)
        drafts = drafts[len(tokens) :] if agreed else []

    for kind, first, second in steps:
        if kind == "commit":
            assert isinstance(first, list)
            assert isinstance(second, int)
            limit = second
            commit(first)
            continue
        assert isinstance(first, int)
        assert isinstance(second, list)
        edit = path.edit(MAX_LENGTH)
        assert edit.truncates == (len(copy) > edit.keep)
        copy = copy[: edit.keep] + edit.ids
        assert copy == (committed + drafts)[:MAX_LENGTH]
        wants, version = path.wants_draft and len(path) < MAX_LENGTH, path.version
        assert wants == (len(committed + drafts) < min(limit, MAX_LENGTH))
        before = len(path)
        if second:
            commit(second)  # while the forward is under way
        if wants:
            copy.append(first)
            if path.add_draft(DraftToken(before, first, 0.5), version):
                drafts.append(first)
                assert path.version == version + 1
        assert len(path) == len(committed + drafts)
