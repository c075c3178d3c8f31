"""Networks whose curvature is measured, each with a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


class Block(nn.Module):
    """A transformer block with PyTorch's own attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        rows, length, width = tokens.shape
        mixed = self.mix(self.before(tokens)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*mixed.unbind(0), is_causal=True)
        tokens = tokens + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        return tokens + self.inner(self.after(tokens))


class Transformer(nn.Module):
    """A language model of about three million weights."""

    def __init__(self, words: int = 1024, width: int = 192, layers: int = 6, length: int = 64) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Parameter(0.02 * torch.randn(length, width))
        nn.init.normal_(self.words.weight, std=0.02)
        self.blocks = nn.Sequential(*[Block(width, 6) for _ in range(layers)])
        self.last = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = self.last(self.blocks(self.words(tokens) + self.places))
        return (seen @ self.words.weight.T).transpose(1, 2)


def perceptron() -> tuple[nn.Module, Batch]:
    net = nn.Sequential(nn.Linear(784, 100), nn.Tanh(), nn.Linear(100, 64), nn.Tanh(), nn.Linear(64, 10))
    return net, (torch.randn(256, 784), torch.randint(0, 10, (256,)))


def convolutional() -> tuple[nn.Module, Batch]:
    layers: list[nn.Module] = []
    for inside, outside in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.GroupNorm(8, outside), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))
    return net, (torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,)))


def transformer() -> tuple[nn.Module, Batch]:
    return Transformer(), (torch.randint(0, 1024, (4, 64)), torch.randint(0, 1024, (4, 64)))


MODELS = {"MLP": perceptron, "CNN, GroupNorm": convolutional, "GPT, SDPA": transformer}
