"""Train the target, by the wall clock.

    python train.py --init ../target --data data --out run --minutes 80

The schedule is warm-up, constant, then linear to nothing over the last part of the time. The state is saved
every few minutes, and on SIGTERM, under a temporary name and renamed; the same command continues the run.

On a machine that others use too, set OMP_WAIT_POLICY=passive: threads that wait actively for one another waste
the little that the others leave.
"""

from __future__ import annotations

import argparse
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from data import Windows, validation
from export import save_folder
from model import LM, load_model
from optim import Optimizer
from torch import Tensor


@dataclass
class Clock:
    """Learning-rate factor as a function of wall-clock time (seconds since the epoch) and step."""

    start: float
    end: float
    decay: float  # last part of the time, 0..1, in which the rate falls to 0
    warmup: int  # steps

    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        return (time.time() - self.start) / (self.end - self.start)

    def factor(self, step: int) -> float:
        """The factor for this step."""
        return min(1.0, (step + 1) / self.warmup) * max(0.0, min(1.0, (1 - self.progress()) / self.decay))


@torch.no_grad()
def evaluate(model: LM, windows: dict[str, Tensor], batch: int = 8) -> dict[str, float]:
    """Mean loss in nats per token by kind, in float32."""
    out = {}
    model.eval()
    for kind, rows in windows.items():
        losses = [model.loss(r[:, :-1], r[:, 1:]) * len(r) for r in torch.split(rows, batch)]
        out[kind] = float(torch.stack(losses).sum() / len(rows))
    out["mean"] = sum(out.values()) / len(out)
    model.train()
    return out


def save_state(path: Path, state: dict[str, object]) -> None:
    """Write under a temporary name, then rename, so that a broken run leaves the old state whole."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", type=Path, required=True, help="model folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="folder made by prep.py")
    parser.add_argument("--out", type=Path, required=True, help="state and exported model go here")
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--until", type=float, help="end at this time instead (seconds since the epoch)")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--matrix-lr", type=float, default=0.02)
    parser.add_argument("--other-lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--decay", type=float, default=0.3)
    parser.add_argument("--warmup", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="order of the windows; another one after new data")
    parser.add_argument("--validate-every", type=float, default=6, help="minutes")
    parser.add_argument("--save-every", type=float, default=3, help="minutes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    model = load_model(args.init)
    optimizer = Optimizer(model, args.matrix_lr, args.other_lr, args.weight_decay)
    windows = Windows(args.data / "train.bin", args.length, args.seed)
    now = time.time()
    clock = Clock(now, args.until or now + 60 * args.minutes, args.decay, args.warmup)
    step, tokens = 0, 0
    state_file = args.out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        clock.start, step, tokens = state["start"], state["step"], state["tokens"]
        if args.until is None:
            clock.end = state["end"]
        if state["seed"] == args.seed:
            windows.position = state["position"]
        print(f"continuing at step {step}", flush=True)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model.loss(x, y)

    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    compiled = torch.compile(loss_of)
    check = validation(args.data, args.length, share=0.2)
    average: Tensor | None = None
    last_print = last_save = last_check = began = time.time()
    began_tokens = tokens
    done = False
    while not done:
        rows = windows.next(args.batch)
        loss = compiled(rows[:, :-1], rows[:, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = clock.factor(step)
        optimizer.step(factor)
        step, tokens = step + 1, tokens + rows[:, 1:].numel()
        average = loss.detach() if average is None else average.lerp(loss.detach(), 0.03)
        now = time.time()
        if now - last_print > 30:
            speed = (tokens - began_tokens) / (now - began)
            print(
                f"{time.strftime('%H:%M:%S')} step {step} {tokens / 1e6:.2f} M tokens, loss {average.item():.3f}, "
                f"factor {factor:.3f}, {speed:.0f} tokens/s",
                flush=True,
            )
            last_print = now
        done = stopped or clock.progress() >= 1
        if done or now - last_save > 60 * args.save_every:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "start": clock.start,
                "end": clock.end,
                "step": step,
                "tokens": tokens,
                "seed": args.seed,
                "position": windows.position,
            }
            save_state(state_file, state)
            save_folder(model, args.init, args.out / "model")
            last_save = now
        if clock.progress() >= 1 or now - last_check > 60 * args.validate_every:
            figures = evaluate(model, check)
            print("validation (a fifth): " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()), flush=True)
            last_check = time.time()


if __name__ == "__main__":
    main()
