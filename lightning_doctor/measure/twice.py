"""A forward pass that can be differentiated twice, whatever kernels the model would like best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Has attention and recurrent layers use the kernels whose backward pass has a backward pass of its own.

    The fused kernels of ``scaled_dot_product_attention``, the CPU's too, and cuDNN's recurrent ones have none; compiled
    code has none either, and runs eagerly. For a forward pass: what is recorded in it stays what it is.
    """
    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.cudnn.flags(enabled=False),
        torch.compiler.set_stance("force_eager"),
    ):
        yield
