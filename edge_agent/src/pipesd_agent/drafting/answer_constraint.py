"""The form of an answer as the drafter holds to it: drafts that the target could not write are not proposed.

It is a hint. The target decides by its own rules, which may be others (a vLLM with a backend of its own, thoughts
before the answer): while a path does not follow the form, and where the form is none that the embedded engine would
serve, nothing is left out.
"""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipesd_agent.drafting.drafter import AnswerForm
from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.constraint import Constraint, Grammar
from pipesd_core.llamacpp.openai.logits_processing import response_grammar

log = logging.getLogger(__name__)


class Model(Protocol):
    """The part of `binding.Model` that this module needs."""

    def constraint(self, grammar: Grammar) -> Constraint: ...


class AnswerConstraint:
    """State of one lane's answer in its form. For one thread."""

    def __init__(self, model: Model, form: AnswerForm) -> None:
        self._begins = form.begins
        self._taken = 0
        """Tokens of the answer that the constraint has taken."""
        self._strays = False
        """The token after them is not allowed."""
        self._constraint: Constraint | None = None
        try:
            grammar = response_grammar(form.response_format)
            self._constraint = None if grammar is None else model.constraint(grammar)
        except InvalidRequest as error:
            log.debug("drafting without the form of the answer: %s", error)

    def allowed(self, path: NDArray[np.int32], n_draftable: int) -> NDArray[np.int64] | None:
        """The ids below `n_draftable` that may follow a path, ascending; None: any."""
        constraint = self._constraint
        if constraint is None or self._strays or len(path) < self._begins:
            return None
        try:
            for token in path[self._begins + self._taken :]:
                self._strays = not constraint.accepts(int(token))
                if self._strays:
                    return None
                self._taken += 1
            allowed = constraint.allowed()
        except InvalidRequest as error:  # it takes too much
            log.debug("drafting without the form of the answer from here: %s", error)
            self._constraint = None
            return None
        allowed = allowed[: np.searchsorted(allowed, n_draftable)]
        return allowed if len(allowed) else None

    def truncate(self, length: int) -> None:
        """Follow a cut of the path to `length` ids."""
        taken = max(length, self._begins) - self._begins
        if taken <= self._taken:
            self._strays = False
            if self._constraint is not None:
                self._constraint.rollback(self._taken - taken)
            self._taken = taken
