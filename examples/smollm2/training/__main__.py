"""Train SmolLM2's draft: the target writes texts, some of its layers learn to guess them.

    python -m examples.smollm2.training --out .build/draft-run --minutes 9 --device cuda --rows 1024 --batch 48
    nice -n 19 python -m examples.smollm2.training --out .build/draft-run --minutes 90 --threads 1

Needs torch, tokenizers, numpy and gguf, and the folder of `python -m examples.smollm2.build vllm`. Writing and training
take turns, in `--turns` turns. Leaves layers-F16.gguf (to go on from) and
layers-Q4_0.gguf (to ship as examples/smollm2/draft_layers.gguf) in --out after each turn, and curve.csv.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from examples.smollm2.build import OUTPUTS
from examples.smollm2.training.distil import Trainer, agreement, load_layers, packed, save_layers
from examples.smollm2.training.generate import Generator, Text
from examples.smollm2.training.llama import load
from examples.smollm2.training.prompts import Prompts

HELD_OUT = 24
"""Texts that agreement is measured on, the first that are written."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=OUTPUTS["vllm"].path, help="Hugging Face folder (%(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (%(default)s)")
    parser.add_argument("--minutes", type=float, required=True, help="for all of it")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--writing", type=float, default=0.4, help="share of the time (%(default)s)")
    parser.add_argument("--rows", type=int, default=32, help="texts written at once (%(default)s)")
    parser.add_argument("--batch", type=int, default=3, help="rows of 512 tokens a step (%(default)s)")
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--layers", default="0,1,2,3,26,27,28,29", help="of the target, to begin with (%(default)s)")
    parser.add_argument("--resume", type=Path, help="layers-F16.gguf to go on from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    draft = load(args.target, [int(number) for number in args.layers.split(",")], rounds=True).to(device)
    if args.resume:
        load_layers(draft, args.resume)
    target = load(args.target).to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    tokenizer = Tokenizer.from_file(str(args.target / "tokenizer.json"))
    writer = Generator(target, tokenizer, Prompts(args.seed), rows=args.rows, seed=args.seed)
    trainer, random = Trainer(draft, args.rate), np.random.default_rng(args.seed)
    held_out: list[Text] = []
    texts: list[Text] = []

    def keep(text: Text) -> None:
        if len(text.ids) - text.prompt >= 8:
            (held_out if len(held_out) < HELD_OUT else texts).append(text)

    turn_s = 60 * args.minutes / args.turns
    began, written, trained = time.monotonic(), 0, 0
    with (args.out / "curve.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("seconds", "cpu_s", "written", "trained", "cross_entropy", "agreement"))
        for turn in range(args.turns):
            written += writer.run(turn_s * args.writing, keep)
            while len(texts) < 8:  # a slow machine: nothing is finished yet
                written += writer.run(turn_s * args.writing, keep)
            losses: list[float] = []
            while time.monotonic() - began < turn_s * (turn + 1) or not losses:
                batch = packed(texts, args.batch, random, device)
                losses.append(trainer.step(batch, (time.monotonic() - began) / (60 * args.minutes)))
                trained += len(batch.where)
            figures = (written, trained, round(float(np.mean(losses[-50:])), 3), round(agreement(draft, held_out), 4))
            table.writerow((round(time.monotonic() - began), round(time.process_time()), *figures))
            file.flush()
            print(round(time.monotonic() - began), "s", *figures, flush=True)
            for matrices in ("F16", "Q4_0"):
                save_layers(draft, args.out / f"layers-{matrices}.gguf", matrices)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
