from __future__ import annotations

import math

import numpy as np
import pytest

from pipesd_core.llamacpp.openai.logits_processing import LogitsProcessing
from pipesd_core.llamacpp.runtime.logprobs import Logprobs, Ranked, rank
from pipesd_core.llamacpp.runtime.target_sampler import TargetSampler
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Sampler

INF = float("inf")


def piece(token: int) -> bytes:
    return [b"a", b" b", b"\xc3", b"\xc3", b"<end>"][token]


def test_rank_is_the_log_softmax() -> None:
    row = np.random.default_rng(3).normal(0, 3, 50).astype(np.float32)
    total = math.log(sum(math.exp(float(x)) for x in row))
    ranked = rank(row, 7, 5)
    assert ranked.token == 7
    assert ranked.logprob == pytest.approx(float(row[7]) - total, abs=1e-12)
    best = sorted(range(50), key=lambda token: -row[token])[:5]
    assert [token for token, _ in ranked.top] == best
    assert [logprob for _, logprob in ranked.top] == pytest.approx([float(row[token]) - total for token in best])
    assert rank(row, 7, 0) == Ranked(7, ranked.logprob, ())


def test_ties_go_to_the_smallest_id_and_short_vocabularies_have_no_more() -> None:
    row = np.array([1, 2, 2, 2, -INF], dtype=np.float32)
    assert [token for token, _ in rank(row, 0, 2).top] == [1, 2]
    ranked = rank(row, 4, 20)
    assert [token for token, _ in ranked.top] == [1, 2, 3, 0, 4]
    assert ranked.logprob == -INF


def test_they_are_of_the_distribution_before_any_processing() -> None:
    row = np.array([0.5, 2.0, 1.0], dtype=np.float32)
    logits_processing = LogitsProcessing(presence_penalty=2, logit_bias=((0, 50.0),), logprobs=1)
    target_sampler = TargetSampler(Sampler(3), SamplingParams(temperature=0.0), logits_processing, [1])
    assert [target_sampler.sample(row, 1), target_sampler.sample(row, 2)] == [0, 0]
    assert target_sampler.take_ranked() == (rank(row, 0, 1),) * 2
    assert target_sampler.take_ranked() == ()


def test_of_a_chat() -> None:
    logprobs = Logprobs(Endpoint.CHAT_COMPLETIONS, piece)
    logprobs.push(Ranked(2, -0.25, ((1, -0.5), (2, -0.25))), 0)
    logprobs.push(Ranked(4, -INF, ()), 1)
    first = logprobs.take(1)
    assert first == {
        "content": [
            {
                "token": "�", "logprob": -0.25, "bytes": [0xC3],
                "top_logprobs": [
                    {"token": " b", "logprob": -0.5, "bytes": [32, 98]},
                    {"token": "�", "logprob": -0.25, "bytes": [0xC3]},
                ],
            }
        ],
        "refusal": None,
    }  # fmt: skip
    second = logprobs.take(1)
    assert second is not None
    assert second["content"] == [{"token": "<end>", "logprob": -9999.0, "bytes": [*b"<end>"], "top_logprobs": []}]
    assert logprobs.take(0) is None


def test_of_a_completion() -> None:
    logprobs = Logprobs(Endpoint.COMPLETIONS, piece)
    logprobs.push(Ranked(0, -3.0, ((2, -0.5), (3, -1.0))), 0)
    logprobs.push(Ranked(1, -0.25, ((1, -0.25),)), 1)
    assert logprobs.take(2) == {
        "tokens": ["a", " b"],
        "token_logprobs": [-3.0, -0.25],
        "top_logprobs": [{"�": -0.5, "a": -3.0}, {" b": -0.25}],
        "text_offset": [0, 1],
    }
