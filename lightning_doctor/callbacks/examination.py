"""One forward pass that is looked at: every leaf layer as it runs, and the loss before it is sent backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric

from lightning_doctor.callbacks.rehearsal import Rehearsal

if TYPE_CHECKING:
    from lightning_doctor.callbacks.base import LightningModule, Trainer

LayerRan = Callable[[str, nn.Module, tuple[Any, ...], Any], None]
ExamineLoss = Callable[[Tensor], None]


class Examination:
    """Forward hooks on the leaf layers of the model, from :meth:`start` to :meth:`stop`.

    A compiled model is left alone, for hooks would break its graph: a copy of it runs the batch once, uncompiled.

    Args:
        layer_ran: Told of every call of a leaf layer, in order.
        examine_loss: Told of each loss, with its graph.
    """

    def __init__(self, layer_ran: LayerRan, examine_loss: ExamineLoss) -> None:
        self._layer_ran = layer_ran
        self._examine_loss = examine_loss
        self._hooks: list[Any] = []
        self._waits = False

    def start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begins with this batch.

        Raises:
            Unrehearsable: For a compiled model that cannot be copied.
        """
        if is_compiled(module):
            rehearsal = Rehearsal(trainer, module)
            self._hook(rehearsal.module)
            loss = rehearsal.loss(batch, batch_idx, train=True, with_graph=True)
            if loss is not None:
                self._examine_loss(loss)
            self.stop()
            return
        self._hook(module)
        self._waits = True

    def backward(self, loss: Tensor) -> None:
        """A loss is about to be sent backward, where checkpointed layers may run again: that is not a forward pass."""
        self._unhook()
        if self._waits:
            self._examine_loss(loss)

    def stop(self) -> None:
        """Takes every hook off."""
        self._unhook()
        self._waits = False

    def _hook(self, module: nn.Module) -> None:
        for name, layer in _leaves(module):

            def ran(layer: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                with torch.no_grad():
                    self._layer_ran(name, layer, inputs if isinstance(inputs, tuple) else (inputs,), output)

            self._hooks.append(layer.register_forward_hook(ran))

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def is_compiled(module: nn.Module) -> bool:
    """Whether the model or a part of it goes through ``torch.compile``."""
    return getattr(module, "_compiler_ctx", None) is not None or any(
        isinstance(part, OptimizedModule) or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )


def _leaves(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in module.named_modules():
        others = (_Loss, Metric, torch.jit.ScriptModule)
        if layer is not module and not isinstance(layer, others) and not any(True for _ in layer.children()):
            yield name.replace("_orig_mod.", "").removesuffix("._orig_mod"), layer
