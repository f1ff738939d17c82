"""A plain Llama-architecture language model whose parameter names are those of Hugging Face.

Shapes in the comments: B sequences, T positions, D hidden size, V vocabulary size.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The sizes of a model; the same facts as in its ``config.json``."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    context: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


TARGET = Config(vocab=4096, hidden=256, layers=6, heads=4, kv_heads=2, ff=704)
DRAFT = Config(vocab=4096, hidden=96, layers=2, heads=3, kv_heads=1, ff=256)
BLOCK = 128  # queries handled together by blockwise_attention


@dataclass
class Cache:
    """Keys and values of the positions so far, for generation; one (B, kv_heads, length, head_dim) a layer."""

    length: int  # room, in positions
    used: int = 0
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, kv_heads, T, head_dim) of the new positions; return those of all positions."""
        if layer == len(self.keys):
            self.keys.append(k.new_empty(*k.shape[:2], self.length, k.shape[3]))
            self.values.append(torch.empty_like(self.keys[-1]))
        end = self.used + k.shape[2]
        self.keys[layer][:, :, self.used : end] = k
        self.values[layer][:, :, self.used : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), in the dtype of ``x``."""
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions in the half-split form that Hugging Face uses; x is (B, heads, T, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention in plain matrix products; all arguments (B, heads, T, head_dim).

    Compiled, this trains a quarter faster on a CPU than PyTorch's own kernel, whose backward pass is slow. Each
    block of queries looks only at the keys up to its own end, so that little is computed and then masked.
    """
    length, scale = q.shape[2], q.shape[3] ** -0.5
    out = []
    for start in range(0, length, BLOCK):
        end = start + BLOCK
        scores = q[:, :, start:end] @ k[:, :, :end].mT * scale
        visible = torch.ones(BLOCK, end, dtype=torch.bool, device=q.device).tril(start)
        weights = scores.masked_fill(~visible, float("-inf")).float().softmax(dim=-1)
        out.append(weights.to(v.dtype) @ v[:, :, :end])
    return torch.cat(out, dim=2)


class Attention(nn.Module):
    """Causal self-attention with grouped key/value heads."""

    def __init__(self, cfg: Config, layer: int) -> None:
        super().__init__()
        self.cfg, self.layer = cfg, layer
        kv = cfg.kv_heads * cfg.head_dim
        self.q_proj = nn.Linear(cfg.hidden, cfg.hidden, bias=False)
        self.k_proj = nn.Linear(cfg.hidden, kv, bias=False)
        self.v_proj = nn.Linear(cfg.hidden, kv, bias=False)
        self.o_proj = nn.Linear(cfg.hidden, cfg.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); with a cache that holds something already, T must be 1."""
        batch, length, _ = x.shape
        cfg = self.cfg
        q = self.q_proj(x).view(batch, length, cfg.heads, cfg.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, cfg.kv_heads, cfg.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, cfg.kv_heads, cfg.head_dim).transpose(1, 2)
        groups = cfg.heads // cfg.kv_heads
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        if length == 1:
            # The heads of a group stand in for positions: no copy of the cache for each of them.
            grouped = q.view(batch, cfg.kv_heads, groups, cfg.head_dim)
            out = F.scaled_dot_product_attention(grouped, k, v)
            single: Tensor = self.o_proj(out.reshape(batch, 1, -1))
            return single
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        if self.training and length % BLOCK == 0:
            out = blockwise_attention(q, k, v)
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        joined: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        return joined


class MLP(nn.Module):
    """The gated feed-forward layer (SwiGLU)."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(cfg.hidden, cfg.ff, bias=False)
        self.up_proj = nn.Linear(cfg.hidden, cfg.ff, bias=False)
        self.down_proj = nn.Linear(cfg.ff, cfg.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One transformer layer."""

    def __init__(self, cfg: Config, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.hidden, cfg.norm_eps)
        self.self_attn = Attention(cfg, layer)
        self.post_attention_layernorm = RMSNorm(cfg.hidden, cfg.norm_eps)
        self.mlp = MLP(cfg)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class LM(nn.Module):
    """The whole model; the output projection is the embedding matrix (tied)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab, cfg.hidden)
        self.layers = nn.ModuleList(Block(cfg, i) for i in range(cfg.layers))
        self.norm = RMSNorm(cfg.hidden, cfg.norm_eps)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, 0.0, 0.02 / math.sqrt(2 * cfg.layers) if into_stream else 0.02)
        inverse = cfg.rope_theta ** (-torch.arange(0, cfg.head_dim, 2).float() / cfg.head_dim)
        angles = torch.arange(cfg.context).float()[:, None] * inverse
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def hidden(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Token ids (B, T) -> states after the last norm (B, T, D); ids follow what is in the cache."""
        start = 0 if cache is None else cache.used
        end = start + ids.shape[1]
        x: Tensor = self.embed_tokens(ids)
        if torch.is_autocast_enabled("cpu"):
            # Without this the residual stream, and all traffic on it, would stay in float32.
            x = x.to(torch.get_autocast_dtype("cpu"))
        cos, sin = self.cos[start:end].to(x.dtype), self.sin[start:end].to(x.dtype)
        for block in self.layers:
            x = block(x, cos, sin, cache)
        if cache is not None:
            cache.used = end
        out: Tensor = self.norm(x)
        return out

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) -> logits (B, T, V)."""
        return F.linear(self.hidden(ids), self.embed_tokens.weight)

    def next_logits(self, ids: Tensor, cache: Cache) -> Tensor:
        """Logits (B, V) after the last of the new ids (B, T)."""
        return F.linear(self.hidden(ids, cache)[:, -1], self.embed_tokens.weight)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token; both arguments (B, T)."""
        logits = self.forward(ids).float()
        return F.cross_entropy(logits.view(-1, self.cfg.vocab), targets.reshape(-1))


def load_config(folder: Path) -> Config:
    """Read the sizes from a Hugging Face ``config.json``."""
    raw = json.loads((folder / "config.json").read_text())
    return Config(
        vocab=raw["vocab_size"],
        hidden=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"],
        kv_heads=raw["num_key_value_heads"],
        ff=raw["intermediate_size"],
        context=raw["max_position_embeddings"],
        rope_theta=raw["rope_theta"],
        norm_eps=raw["rms_norm_eps"],
    )


def load_model(folder: Path) -> LM:
    """Load a Hugging Face folder; the weights become float32."""
    model = LM(load_config(folder))
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): w.float() for name, w in weights.items()})
    return model
