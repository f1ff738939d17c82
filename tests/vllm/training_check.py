"""Run under .venv-vllm's python by test_vllm_training.py: the training of SmolLM2's draft computes what it says."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer

from examples.smollm2.build import OUTPUTS
from examples.smollm2.training.distil import Trainer, agreement, load_layers, packed, save_layers
from examples.smollm2.training.generate import Generator, Text
from examples.smollm2.training.llama import Decoder, Llama, load, rounded_to_q4_0
from examples.smollm2.training.prompts import Prompts

FOLDER = OUTPUTS["vllm"].path
LAYERS = (0, 29)


def check_rounding() -> None:
    """Q4_0 as gguf writes it, and the gradient of no rounding at all."""
    weight = torch.randn(8, 96, requires_grad=True)
    rounded = rounded_to_q4_0(weight)
    kind = gguf.GGMLQuantizationType.Q4_0
    stored = gguf.dequantize(gguf.quantize(weight.detach().numpy(), kind), kind)
    np.testing.assert_allclose(rounded.detach().numpy(), stored, atol=1e-6)
    rounded.sum().backward()
    assert weight.grad is not None
    assert bool((weight.grad == 1).all())


def check_decoder(model: Llama) -> None:
    """Step by step, each row at a position of its own, it is the whole text at once; an earlier text leaves nothing."""
    ids = torch.randint(3, 49_000, (2, 9))
    whole = model.hidden(ids, torch.zeros_like(ids))
    decoder = Decoder(model, 2, 16)
    for position in range(4):
        decoder.step(ids[:, -1 - position], torch.tensor([position, position]))
    first = [decoder.step(ids[:, 0], torch.tensor([0, 0]))]
    first += [decoder.step(torch.stack((ids[0, i], ids[1, 0])), torch.tensor([i, 0])) for i in range(1, 9)]
    torch.testing.assert_close(torch.stack([hidden[0] for hidden in first]), whole[0], atol=1e-3, rtol=1e-3)


def check_packing(model: Llama, texts: list[Text]) -> None:
    """A text says the same of its tokens wherever it stands in a row."""
    batch = packed(texts, 2, np.random.default_rng(0), torch.device("cpu"))
    hidden = model.hidden(batch.ids, batch.starts).reshape(-1, batch.hidden.shape[1])[batch.where]
    answers = batch.weights == 1
    near = torch.nn.functional.cosine_similarity(hidden, batch.hidden, dim=1)[answers]
    assert float(near.min()) > 0.99, "the states that were kept with the texts are the target's"


def check_training(texts: list[Text]) -> None:
    """A draft learns a few texts, and comes back from its file as it went."""
    draft = load(FOLDER, LAYERS, rounds=True)
    trainer, rng = Trainer(draft, 1e-3), np.random.default_rng(0)
    before = agreement(draft, texts)
    losses = [trainer.step(packed(texts, 1, rng, torch.device("cpu")), 0.0) for _ in range(12)]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3]), losses
    assert agreement(draft, texts) > before
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.gguf"
        save_layers(draft, path, "F32")
        again = load(FOLDER, LAYERS[::-1], rounds=True)
        load_layers(again, path)
    for name, parameter in draft.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name


def main() -> None:
    torch.manual_seed(1)
    random.seed(1)
    check_rounding()
    target = load(FOLDER)
    with torch.inference_mode():
        check_decoder(target)
    texts: list[Text] = []
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    writer = Generator(target, tokenizer, Prompts(1), rows=4, seed=1)
    while len(texts) < 2:
        writer.run(2.0, texts.append)
    assert all(text.prompt < len(text.ids) for text in texts)
    with torch.inference_mode():
        check_packing(target, texts)
    check_training(texts)
    print("the training computes what it says")


if __name__ == "__main__":
    main()
