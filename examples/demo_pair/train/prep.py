"""Turn corpus.jsonl into token files: train.bin and val.bin (uint16) with val.json (what lies where).

The split is by the hash of a whole file, and everything made of a file goes to the file's own side. Functions
and files that nearly equal something on the training side are dropped from the validation side.

    python prep.py --corpus corpus.jsonl --tokenizer ../target/tokenizer.json --out data
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import textbook
from functions import Function, chat, functions, standalone
from lessons import lesson
from tokenizers import Tokenizer

END_OF_TEXT = 0
VAL_ONE_IN = 50  # one file in so many is for validation
VAL_TOKENS = 200 * 512  # of each kind
TESTS = re.compile(r"(^|/)(tests?|testing|_tests|benchmarks|conftest)(/|\.py$)|(^|/)test_[^/]*\.py$|_test\.py$")
# Small textbook algorithms are nearest to what people ask a demo for, so each is seen this often.
REPEATED = {"algorithms": 4}


def digest(text: str) -> bytes:
    """Hash of a file's text."""
    return hashlib.sha256(text.strip().encode()).digest()


def is_validation(text: str) -> bool:
    """Which side a file belongs to; depends on its text alone, so it never changes."""
    return int.from_bytes(digest(text)[:4], "big") % VAL_ONE_IN == 0


def line_set(text: str) -> set[int]:
    """Hashes of the lines that are long enough to tell one file from another."""
    return {hash(line.strip()) for line in text.splitlines() if len(line.strip()) >= 25}


def body_key(f: Function) -> str:
    """The code of a function without white space, to find copies."""
    return re.sub(r"\s+", "", f.bare)


def group(fs: list[Function], rng: random.Random) -> Iterator[list[Function]]:
    """Mostly single functions, sometimes two for a conversation of two turns."""
    i = 0
    while i < len(fs):
        n = 2 if rng.random() < 0.12 else 1
        yield fs[i : i + n]
        i += n


def texts_of(fs: list[Function], rng: random.Random) -> tuple[list[str], list[str]]:
    """Chat texts and stand-alone functions; a function becomes both, a method seldom and then one of the two."""
    for_chat, alone = [], []
    for f in fs:
        if not f.method:
            for_chat.append(f)
            alone.append(f)
        elif rng.random() < 0.4:
            (for_chat if rng.random() < 0.55 else alone).append(f)
    rng.shuffle(for_chat)
    rng.shuffle(alone)
    return [chat(g, rng) for g in group(for_chat, rng)], [standalone(f, rng) for f in alone]


def encode(tokenizer: Tokenizer, texts: Iterable[str], limit: int) -> list[np.ndarray]:
    """Token ids of each text, led by the end-of-text mark, until ``limit`` tokens are there."""
    out: list[np.ndarray] = []
    total, batch = 0, []
    for text in chain(texts, [None]):
        if text is not None:
            batch.append(text)
            if len(batch) < 256:
                continue
        for e in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            out.append(np.array([END_OF_TEXT, *e.ids], dtype=np.uint16))
            total += len(out[-1])
        batch = []
        if total >= limit:
            break
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("corpus.jsonl"))
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--raw", type=float, default=9e6, help="training tokens of whole files, at most")
    parser.add_argument("--functions", type=float, default=7e6, help="training tokens of single functions, at most")
    parser.add_argument("--chat", type=float, default=8e6, help="training tokens of chat turns, at most")
    parser.add_argument("--repeats", type=int, default=60, help="how often each function of textbook.py is seen")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))

    files = [json.loads(line) for line in args.corpus.open()]
    files.sort(key=lambda row: digest(row["text"]))  # the validation set must not depend on the seed
    train: list[tuple[str, list[Function]]] = []
    val: list[tuple[str, list[Function]]] = []
    often: list[Function] = []  # further copies of the functions worth repeating
    seen: set[str] = set()
    for row in files:
        side = val if is_validation(row["text"]) else train
        side.append((row["text"] if not TESTS.search(row["path"]) else "", list(functions(row["text"]))))
        if side is train:
            often += (REPEATED.get(row["source"], 1) - 1) * side[-1][1]
            seen |= {body_key(f) for f in side[-1][1]}
    train_lines = set().union(*(line_set(text) for text, _ in train))

    def unseen(text: str) -> bool:
        lines = line_set(text)
        return bool(lines) and len(lines & train_lines) < 0.5 * len(lines)

    val = [(text if unseen(text) else "", [f for f in fs if body_key(f) not in seen]) for text, fs in val]

    rng.shuffle(train)
    kept: set[str] = set()
    unique: list[Function] = []
    for f in chain.from_iterable(fs for _, fs in train):
        if (key := body_key(f)) not in kept:
            kept.add(key)
            unique.append(f)
    many = unique + often
    rng.shuffle(many)
    chats, alone = texts_of(many, rng)
    raw = [text for text, _ in train if text]
    own = list(functions(Path(textbook.__file__).read_text()))
    lessons = [lesson(f, textbook.ALSO.get(f.name, []), rng) for f in own for _ in range(args.repeats)]
    parts = {
        "raw": encode(tokenizer, raw, int(args.raw)),
        "functions": encode(tokenizer, alone, int(args.functions)),
        "chat": encode(tokenizer, chats, int(args.chat)),
        "textbook": encode(tokenizer, lessons, 10**9) if lessons else [],
    }
    for name, part in parts.items():
        print(f"train {name}: {len(part)} documents, {sum(map(len, part)) / 1e6:.2f} M tokens")
    documents = list(chain.from_iterable(parts.values()))
    rng.shuffle(documents)
    args.out.mkdir(exist_ok=True)
    np.concatenate(documents).tofile(args.out / "train.bin")

    val_rng = random.Random(0)  # apart from the seed, so that the validation set stays fixed
    val_chats, val_alone = texts_of([f for _, fs in val for f in fs], val_rng)
    ranges: dict[str, list[int]] = {}
    flat: list[np.ndarray] = []
    for name, texts in (("raw", [t for t, _ in val if t]), ("functions", val_alone), ("chat", val_chats)):
        ids = np.concatenate(encode(tokenizer, texts, VAL_TOKENS))[:VAL_TOKENS]
        start = sum(len(part) for part in flat)
        ranges[name] = [start, start + len(ids)]
        flat.append(ids)
        print(f"validation {name}: {len(ids)} tokens")
    np.concatenate(flat).tofile(args.out / "val.bin")
    (args.out / "val.json").write_text(json.dumps(ranges, indent=1) + "\n")


if __name__ == "__main__":
    main()
