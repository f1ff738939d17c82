"""Distil the draft from the target, half on corpus text and half on the target's own continuations.

    python distil.py --target ../target --init ../draft --data data --out run-draft --minutes 16

What counts for a draft is agreement on the text that the target itself writes, hence the second half: the
target continues the beginnings of training documents, greedily and by sampling.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from data import Windows, validation
from export import save_folder
from generate import generate
from model import LM, load_model
from optim import Optimizer
from torch import Tensor
from train import Clock, evaluate

END_OF_TEXT, ASSISTANT = 0, 2


def prompts_from(path: Path, count: int, rng: random.Random) -> list[list[int]]:
    """Beginnings of training documents: a chat up to the answer, anything else 24 to 160 tokens long.

    Half of them lose the end-of-text mark before them, as a server gets prompts without it.
    """
    ids = np.fromfile(path, dtype=np.uint16)
    starts = np.flatnonzero(ids == END_OF_TEXT)
    out: list[list[int]] = []
    while len(out) < count:
        i = rng.randrange(len(starts) - 1)
        document = ids[starts[i] : starts[i + 1]].tolist()
        cut = document.index(ASSISTANT) + 1 if ASSISTANT in document else rng.randint(24, 160)
        if cut < min(len(document), 200):
            out.append(document[int(rng.random() < 0.5) : cut])
    return out


def own_text(target: LM, path: Path, minutes: float, out: Path, seed: int, batch: int = 128, new: int = 160) -> None:
    """Write prompts with the target's continuations to ``out`` (uint16) for about so many minutes."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    target = target.to(torch.bfloat16)
    parts: list[int] = []
    began = time.time()
    pool: list[list[int]] = []
    while time.time() - began < 60 * minutes:
        if not pool:
            # Batches of like lengths spend few steps on forced ids; their order is random, as time may end early.
            many = sorted(prompts_from(path, 8 * batch, rng), key=len)
            batches = [many[i : i + batch] for i in range(0, len(many), batch)]
            rng.shuffle(batches)
            pool = [prompt for part in batches for prompt in part]
        prompts, pool = pool[:batch], pool[batch:]
        heat = [0.0 if rng.random() < 0.6 else rng.choice((0.5, 0.8, 1.0)) for _ in prompts]
        for prompt, continuation in zip(prompts, generate(target, prompts, new, heat), strict=True):
            parts += prompt + continuation
        speed = len(parts) / (time.time() - began)
        print(f"own text: {len(parts) / 1e6:.2f} M tokens, {speed:.0f} tokens/s", flush=True)
    np.array(parts, dtype=np.uint16).tofile(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True, help="draft folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="folder made by prep.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--own-minutes", type=float, default=5, help="of writing the target's own text")
    parser.add_argument("--minutes", type=float, default=16, help="of training, after the generation")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16, help="half corpus, half own text")
    parser.add_argument("--matrix-lr", type=float, default=0.02)
    parser.add_argument("--other-lr", type=float, default=4e-3)
    parser.add_argument("--decay", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    own_file = args.out / "own.bin"
    if not own_file.exists():
        own_text(load_model(args.target), args.data / "train.bin", args.own_minutes, own_file, args.seed)
    corpus = Windows(args.data / "train.bin", args.length, args.seed)
    own = Windows(own_file, args.length, args.seed)

    teacher = load_model(args.target).eval()
    student = load_model(args.init)
    vocab = student.cfg.vocab
    optimizer = Optimizer(student, args.matrix_lr, args.other_lr, weight_decay=0.02)

    def teach(ids: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            logits: Tensor = teacher(ids)
            return logits

    def loss_of(ids: Tensor, wanted: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = student(ids)
        scores = torch.log_softmax(logits.float().view(-1, vocab), dim=-1)
        return -(torch.softmax(wanted.float().view(-1, vocab), dim=-1) * scores).sum(-1).mean()

    teach, loss_of = torch.compile(teach), torch.compile(loss_of)
    check = validation(args.data, args.length, share=0.2)
    now = time.time()
    clock = Clock(now, now + 60 * args.minutes, args.decay, warmup=60)
    step, average, last = 0, 0.0, now
    while clock.progress() < 1:
        ids = torch.cat((corpus.next(args.batch // 2), own.next(args.batch - args.batch // 2)))[:, :-1]
        loss = loss_of(ids, teach(ids))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step(clock.factor(step))
        step += 1
        average = loss.item() if step == 1 else 0.97 * average + 0.03 * loss.item()
        if time.time() - last > 30:
            speed = step * ids.numel() / (time.time() - now)
            print(f"{time.strftime('%H:%M:%S')} step {step}, loss {average:.3f}, {speed:.0f} tokens/s", flush=True)
            last = time.time()
            save_folder(student, args.init, args.out / "model")
    save_folder(student, args.init, args.out / "model")
    print("validation (a fifth): " + ", ".join(f"{k} {v:.3f}" for k, v in evaluate(student, check).items()), flush=True)


if __name__ == "__main__":
    main()
