"""Constraints on what may be written: which tokens may come next in a grammar. The only module that imports llguidance.

A grammar is a text in llguidance's dialect of Lark; `openai.json_schema.lark_of` has that of a JSON schema, as an
expression that may stand in a longer grammar. One `Vocabulary` per model, made once; one `Constraint` per answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from msgspec import Struct
from numpy.typing import NDArray

from pipesd_core.errors import InvalidRequest

LIMITS: Final = LLParserLimits(
    max_items_in_row=2_000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=25_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
"""What a grammar may take: about a second to begin with, and 0.1 s for a token; by far the most take a hundredth."""
_HEAD: Final = '%llguidance {"no_forcing": true}\n'
"""Every token that the text may go on with is allowed, also where there is one text only: the model chooses how to cut
it. Otherwise llguidance would ask a tokenizer."""
_PLACE: Final = re.compile(r"^(at \d+\(\d+\): )?((failed to compile JSON schema|Parser Error): )?")
_SHOWN: Final = 300


class Grammar(Struct, frozen=True):
    """What an answer has to follow.

    lark: in llguidance's dialect; its rule `start` is the whole answer. param: the request's parameter that asks for
    it, for messages.
    """

    lark: str
    param: str


class Vocabulary:
    """The tokens of a model, as constraints see them. May be shared by threads.

    Args:
        pieces: bytes of each id; empty for those that no text shows.
        eog_ids: they end a text, and are no part of it.
    """

    def __init__(self, pieces: Sequence[bytes], eog_ids: Sequence[int]) -> None:
        self.n_vocab: Final = len(pieces)
        self._eog_ids = frozenset(eog_ids)
        self._tokenizer: LLTokenizer | None = None
        if eog_ids:
            self._tokenizer = LLTokenizer(TokenizerWrapper(_Pieces(pieces, eog_ids)), eos_token=list(eog_ids))

    def constraint(self, grammar: Grammar) -> Constraint:
        """The constraint of a text that has yet to begin. Raises InvalidRequest for what llguidance does not take."""
        if self._tokenizer is None:
            raise InvalidRequest(f"{grammar.param}: this model has no token that ends a text", param=grammar.param)
        matcher = LLMatcher(self._tokenizer, _HEAD + grammar.lark, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise _not_taken(grammar, matcher.get_error())
        constraint = Constraint(matcher, grammar.param, self.n_vocab, self._eog_ids)
        constraint.allowed()  # raises where there is no text at all
        return constraint


def check(grammar: Grammar) -> None:
    """Check a grammar, without a vocabulary. Raises InvalidRequest for what llguidance does not take."""
    if error := LLMatcher.validate_grammar(_HEAD + grammar.lark, limits=LIMITS):
        raise _not_taken(grammar, error)


class Constraint:
    """State of a text in a grammar. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, param: str, n_vocab: int, eog_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._param = param
        self._n_vocab = n_vocab
        self._eog_ids = eog_ids
        self._ends = 0
        """Tokens after a text that cannot go on: ends, which llguidance does not count."""

    def allowed(self) -> NDArray[np.int64]:
        """The ids that may come next, ascending; end-of-generation tokens are among them if the text is complete.

        Raises InvalidRequest where no token can go on, or to find out takes too much: the answer ends there.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()  # its mask is then that of a complete text
        return np.flatnonzero(np.unpackbits(bits, count=self._n_vocab, bitorder="little"))

    def accepts(self, token: int) -> bool:
        """Advance by the next token; False, and nothing is changed, if it is not allowed.

        Raises InvalidRequest where that takes too much; nothing can be done after that.
        """
        if self._matcher.is_stopped():
            taken = token in self._eog_ids
            self._ends += taken
            return taken
        taken = bool(self._matcher.try_consume_tokens([token]))
        self._check()
        return taken

    def accept(self, token: int) -> None:
        """Advance by the next token. Raises as `accepts`, and InvalidRequest for one that is not allowed."""
        if not self.accepts(token):
            raise InvalidRequest(f"{self._param} does not allow token {token} here", param=self._param)

    def rollback(self, count: int) -> None:
        """Take the last `count` tokens back. Raises ValueError if there are not as many."""
        uncounted = min(count, self._ends)
        self._ends -= uncounted
        if count > uncounted and not self._matcher.rollback(count - uncounted):
            raise ValueError(f"{count} tokens cannot be taken back")

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(
                f"{self._param} cannot be held to any further: {_reason(self._matcher.get_error())}", param=self._param
            )


class _Pieces:
    """What llguidance asks of a tokenizer, but for the cutting of texts, which it needs for what we switch off."""

    bos_token_id: Final = None

    def __init__(self, pieces: Sequence[bytes], eog_ids: Sequence[int]) -> None:
        self.tokens = list(pieces)
        self.eos_token_id = eog_ids[0]
        self.special_token_ids = list(eog_ids)

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError("no text is ever cut into tokens here")


def _not_taken(grammar: Grammar, error: str) -> InvalidRequest:
    return InvalidRequest(f"{grammar.param} cannot be held to: {_reason(error)}", param=grammar.param)


def _reason(error: str) -> str:
    """What llguidance says: its first line, without the place in a text that nobody has seen."""
    line = _PLACE.sub("", error.partition("\n")[0])[:_SHOWN]
    if "Current row" in line:
        return "there are too many ways to read the text, or to go on with it"
    return "no token of this model can go on with the text" if line == "NoExtensionBias" else line
