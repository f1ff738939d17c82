"""SmolLM2 in plain PyTorch: the target, which writes the training texts, and a draft made of some of its layers.

Shapes: B rows (texts), N positions, WIDTH = 576 features. The order of rows in Q and K is Hugging Face's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.smollm2.hugging_face import read_safetensors

WIDTH: Final = 576
HEADS: Final = 9
KV_HEADS: Final = 3
SIZE: Final = 64
FEED: Final = 1536
VOCABULARY: Final = 49_152
EPSILON: Final = 1e-5
THETA: Final = 100_000.0
BLOCK: Final = 32
"""Numbers that share a scale in Q4_0."""

MATRICES: Final = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (KV_HEADS * SIZE, WIDTH),
    "self_attn.v_proj": (KV_HEADS * SIZE, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (FEED, WIDTH),
    "mlp.up_proj": (FEED, WIDTH),
    "mlp.down_proj": (WIDTH, FEED),
}
NORMS: Final = ("input_layernorm", "post_attention_layernorm")


def rounded_to_q4_0(weight: Tensor) -> Tensor:
    """The weight as llama.cpp's Q4_0 holds it; the gradient passes through as if nothing were rounded.

    Blocks of 32 share a scale d (float16), which maps the number of largest magnitude to -8 d (ggml-quants.c).
    """
    blocks = weight.detach().float().reshape(-1, BLOCK)
    extreme = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = (extreme / -8).half().float()
    inverse = torch.where(extreme == 0, 0.0, -8 / extreme)
    levels = (blocks * inverse + 8.5).floor().clamp_(0, 15) - 8
    rounded = (levels * scale).reshape(weight.shape)
    return weight + (rounded - weight.detach()).to(weight.dtype)


def rotation(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions, shape (…, SIZE)."""
    speeds = THETA ** (-torch.arange(0, SIZE, 2, dtype=torch.float32, device=positions.device) / SIZE)
    angles = positions.float()[..., None] * speeds
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, -1)
    return (x * cos + torch.cat((-high, low), -1) * sin).to(x.dtype)


class Layer(nn.Module):
    """One layer. rounds: whether its matrices act as Q4_0 will hold them."""

    def __init__(self, *, rounds: bool) -> None:
        super().__init__()
        self.rounds = rounds
        self.matrices = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(torch.empty(shape)) for name, shape in MATRICES.items()}
        )
        self.norms = nn.ParameterDict({name: nn.Parameter(torch.ones(WIDTH)) for name in NORMS})

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight = self.matrices[name.replace(".", "/")]
        return F.linear(x, rounded_to_q4_0(weight) if self.rounds else weight)

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q, K and V of (…, WIDTH), each (…, heads, SIZE)."""
        x = F.rms_norm(x, (WIDTH,), self.norms["input_layernorm"].to(x.dtype), EPSILON)
        q, k, v = (self.linear(x, f"self_attn.{part}_proj") for part in "qkv")
        return q.unflatten(-1, (HEADS, SIZE)), k.unflatten(-1, (KV_HEADS, SIZE)), v.unflatten(-1, (KV_HEADS, SIZE))

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer's output, from its input and what attention gave, (…, WIDTH)."""
        x = x + self.linear(attended, "self_attn.o_proj")
        y = F.rms_norm(x, (WIDTH,), self.norms["post_attention_layernorm"].to(x.dtype), EPSILON)
        return x + self.linear(F.silu(self.linear(y, "mlp.gate_proj")) * self.linear(y, "mlp.up_proj"), "mlp.down_proj")


class Llama(nn.Module):
    """The model without its head, which is the embedding: logits are `F.linear(hidden, model.embedding)`."""

    def __init__(self, layers: int, *, rounds: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(VOCABULARY, WIDTH), requires_grad=False)
        self.layers = nn.ModuleList(Layer(rounds=rounds) for _ in range(layers))
        self.norm = nn.Parameter(torch.ones(WIDTH))

    def hidden(self, ids: Tensor, starts: Tensor) -> Tensor:
        """Normed final states (B, N, WIDTH) of packed texts.

        ids, starts: int64 (B, N); starts: the position at which the text of each position begins.
        """
        at = torch.arange(ids.shape[1], device=ids.device)
        cos, sin = (part[None, :, None] for part in rotation(at))
        mask = ((at[None, :] <= at[:, None])[None] & (at[None, None, :] >= starts[:, :, None]))[:, None]
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            q, k, v = layer.projected(x)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            k, v = (part.repeat_interleave(HEADS // KV_HEADS, 2) for part in (k, v))
            y = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)), attn_mask=mask)
            x = layer.after(x, y.transpose(1, 2).flatten(2))
        return F.rms_norm(x, (WIDTH,), self.norm.to(x.dtype), EPSILON)


class Decoder:
    """A model that writes B texts at once, each at a position of its own. Feed it with `step`."""

    def __init__(self, model: Llama, rows: int, length: int) -> None:
        self.model = model
        shape = (len(model.layers), rows, KV_HEADS, length, SIZE)
        self.keys = torch.zeros(shape, dtype=model.embedding.dtype, device=model.embedding.device)
        self.values = torch.zeros_like(self.keys)

    @torch.inference_mode()
    def step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Normed final states (B, WIDTH) behind one more token of each row; a row begins anew at position 0.

        ids, positions: int64 (B,).
        """
        rows, longest = torch.arange(len(ids), device=ids.device), int(positions.max()) + 1
        cos, sin = (part[:, None] for part in rotation(positions))
        mask = (torch.arange(longest, device=ids.device)[None] <= positions[:, None])[:, None, None]
        x = F.embedding(ids, self.model.embedding)
        for number, layer in enumerate(self.model.layers):
            assert isinstance(layer, Layer)
            q, k, v = layer.projected(x)
            keys, values = self.keys[number], self.values[number]
            keys[rows, :, positions] = rotate(k, cos, sin)
            values[rows, :, positions] = v
            # The query heads that share a KV head are its queries: (B, KV_HEADS, HEADS / KV_HEADS, SIZE).
            grouped = rotate(q, cos, sin).unflatten(1, (KV_HEADS, HEADS // KV_HEADS))
            y = F.scaled_dot_product_attention(grouped, keys[:, :, :longest], values[:, :, :longest], attn_mask=mask)
            x = layer.after(x, y.flatten(1))
        return F.rms_norm(x, (WIDTH,), self.model.norm.to(x.dtype), EPSILON)


def load(folder: Path, chosen: Sequence[int] | None = None, *, rounds: bool = False) -> Llama:
    """The model of a Hugging Face folder, or the one of some of its layers, in float32 on the CPU."""
    arrays = read_safetensors(folder / "model.safetensors")
    numbers = list(range(30)) if chosen is None else list(chosen)
    model = Llama(len(numbers), rounds=rounds)

    def take(name: str) -> Tensor:
        return torch.from_numpy(arrays[f"model.{name}.weight"].astype("float32"))

    with torch.no_grad():
        model.embedding.copy_(take("embed_tokens"))
        model.norm.copy_(take("norm"))
        for layer, number in zip(model.layers, numbers, strict=True):
            assert isinstance(layer, Layer)
            for name in MATRICES:
                layer.matrices[name.replace(".", "/")].copy_(take(f"layers.{number}.{name}"))
            for name in NORMS:
                layer.norms[name].copy_(take(f"layers.{number}.{name}"))
    return model
