"""Updates: how far steps move the weights, how successive gradients agree, and which parameters never move."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_doctor.callbacks.census import MOST_NAMES, Census, plain_name
from lightning_doctor.callbacks.examination import is_compiled
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.shards import engine
from lightning_doctor.history import SERIES_CAPACITY
from lightning_doctor.measure.carried import CarriedGradients
from lightning_doctor.measure.norms import are_sharded
from lightning_doctor.measure.slopes import without_slope
from lightning_doctor.measure.unregistered import unregistered
from lightning_doctor.measure.updates import Page, TensorUpdate, UpdateTable

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.case import Case

MOST_LAYERS = 64
_LAYER_CAPACITY = 128
# Losses whose graphs are searched for parameters that the module does not know.
_SEARCHES = 4
# Elements of a parameter that tell whether it is as it was.
_CORNER = 16
_COSINES = ("gradient_cosine", "update_cosine")
# Why a signal may be missing from a run whose steps were examined.
_UNKNOWN = {
    "update_ratio": "no examined step had trained weights that were finite and not zero",
    "weight_norm": "no examined step had trained weights that were finite",
    "gradient_cosine": "no two successive gradients were finite and not zero",
    "update_cosine": "no two successive updates were finite and not zero",
    "zero_gradient_share": "no examined step had a gradient of a trained parameter",
}


class UpdateMonitor(Monitor):
    """Records, on examined steps, what an optimizer's step does to the weights and along which gradient.

    ``update_ratio`` is the norm of the change over the norm of the weights, ``weight_norm`` the latter, both also for
    each layer; ``gradient_cosine`` and ``update_cosine`` compare with the step before; ``zero_gradient_share`` is the
    share of gradient elements that are exactly zero, ``gradients_kept`` is 1 where nobody has set the last step's
    gradients to zero, ``loss_scale`` is that of an fp16 scaler. Of several optimizers each has cosines of its own,
    ``gradient_cosine/optimizer0`` and so on. All but the last two are estimated from a fixed sample of elements.

    The fact ``parameters`` says which parameters are frozen, in no optimizer, without a gradient, or never change, and
    which optimizers have stepped without any gradient so far.
    """

    signals = (
        "update_ratio",
        "weight_norm",
        "gradient_cosine",
        "update_cosine",
        "zero_gradient_share",
        "gradients_kept",
        "loss_scale",
        "parameters",
    )

    def begin(self, case: Case) -> None:
        """Lists the parameters of each optimizer."""
        run = case.run
        names: dict[Tensor, str] = {p: plain_name(name) for name, p in run.module.named_parameters()}
        self._tables = [UpdateTable(names, optimizer) for optimizer in run.optimizers]
        self._carried = [CarriedGradients() for _ in run.optimizers]
        self._steps = [0] * len(run.optimizers)
        self._idle = set(range(len(run.optimizers)))
        self._census = Census()
        self._unfrozen: set[Tensor] = set()
        self._ran: list[str] = []
        self._searches = _SEARCHES
        self._verdicts: dict[int, list[Tensor | bool]] = defaultdict(list)
        self._owed = False
        self._sent_backward = False
        self._measured = False
        self._engine = engine(run.trainer)
        self._first = self._beginnings(case)
        # A compiled model's loss is examined apart, before its gradients have been set to zero.
        self._hears_backward = not (run.automatic and is_compiled(run.module))
        layers = list(dict.fromkeys(layer for table in self._tables for layer in table.layers))
        spread = min(MOST_LAYERS, len(layers))
        self._layers = {layers[len(layers) * i // spread] for i in range(spread)}

    def end(self, case: Case) -> None:
        """Lets go of the model."""
        self._tables.clear()
        self._unfrozen.clear()
        self._verdicts.clear()
        self._first.clear()

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Has the gradients followed from the step before an examined one."""
        if case.examining_next:
            for carried in self._carried:
                carried.wanted = True

    def layer_ran(self, case: Case, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Notes the layers that have parameters, but for a teacher's, which lie on no way to the loss."""
        if next(module.parameters(recurse=False), None) is not None and _requires_grad(output):
            self._ran.append(layer)

    def examine_loss(self, case: Case, loss: Tensor) -> None:
        """Looks whether gradients are still there, after Lightning has called ``zero_grad``, and whose they will be."""
        if case.run.automatic and self._hears_backward:
            self._backward_begins(case)
        # A compiled model's loss is that of a copy, whose parameters are others.
        if self._searches > 0 and not is_compiled(case.run.module):
            self._searches -= 1
            held = [p for optimizer in case.run.optimizers for group in optimizer.param_groups for p in group["params"]]
            self._census.find(unregistered(loss, case.run.module, held))
            if not are_sharded(held):
                self._census.meet(without_slope(loss, set(held)))

    def before_backward(self, case: Case, loss: Tensor) -> None:
        """Looks whether gradients are still there."""
        self._sent_backward = True
        self._backward_begins(case)

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Looks at the weights and gradients of an examined step, and of the one before."""
        index = case.run.index(optimizer)
        self._steps[index] += 1
        # At every step until there is one: gradients may come at some steps only.
        if index in self._idle and any(p.grad is not None for g in optimizer.param_groups for p in g["params"]):
            self._idle.discard(index)
        verdict = self._carried[index].step(again=case.examining_next)
        if verdict is not None:
            self._verdicts[index].append(verdict)
        examined = case.examining or self._owed
        if not (examined or case.examining_next):
            return
        self._unfrozen.update(p for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
        # Without any gradient there was no backward pass, or what it left was set to zero: then the step does nothing.
        if self._sent_backward or any(p.grad is not None for p in case.run.module.parameters()):
            self._tables[index].look(self._steps[index], examined=examined)

    def after_batch(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Looks at the weights again and puts what has changed into the window."""
        if not case.stepped:
            return
        self._sent_backward = False
        pages = [(i, page) for i, table in enumerate(self._tables) if (page := table.finish()) is not None]
        if case.examining:
            run = case.run
            self._census.look(run.module, run.optimizers, self._unfrozen, self._ran)
            # Of an engine's optimizers the model's parameters are never among those that they hold.
            if not pages and self._engine is None:
                self._write(case)
        self._ran.clear()
        self._unfrozen.clear()
        # In manual optimization an examined batch need not be one that steps: then the next that does is taken.
        takes_turns = not case.run.automatic and not self._troubles()
        self._owed = takes_turns and (case.examining or self._owed) and not pages
        if pages:
            packed = self._pack(case, pages)
            case.window.put(case.run.step, packed, partial(self._receive, case, pages))

    def before_close(self, case: Case) -> None:
        """Says why what is not there is missing."""
        history = case.history
        trouble = next(iter(self._troubles()), None)
        reasons = dict.fromkeys(self.signals, trouble or "no step with a gradient was examined")
        if self._measured and trouble is None:
            reasons.update(_UNKNOWN)
        if len(self._tables) > 1:
            reasons |= dict.fromkeys(_COSINES, f"{len(self._tables)} optimizers: each has a gradient of its own")
        if case.run.scaler is None:
            reasons["loss_scale"] = "there is no fp16 scaler"
        if not self._hears_backward:
            reasons["gradients_kept"] = "the model is compiled"
        elif not case.run.automatic:
            reasons["gradients_kept"] = "manual_backward was not called between two steps"
        if "parameters" in history.facts:
            del reasons["parameters"]
            history.absent.pop("parameters", None)
        for name, reason in reasons.items():
            history.lack([name], reason)

    def _troubles(self) -> list[str]:
        if self._engine is not None:
            return [self._engine]
        return [table.trouble for table in self._tables if table.trouble is not None]

    def _backward_begins(self, case: Case) -> None:
        for carried, optimizer in zip(self._carried, case.run.optimizers, strict=True):
            carried.backward_begins(p for group in optimizer.param_groups for p in group["params"])

    def _pack(self, case: Case, pages: Sequence[tuple[int, Page]]) -> Tensor:
        first = pages[0][1].packed
        kept = first.new_full((), math.nan)
        # Not before it is known of every optimizer that steps.
        if self._verdicts and all(index in self._verdicts for index, steps in enumerate(self._steps) if steps):
            verdicts = [verdict for some in self._verdicts.values() for verdict in some]
            flags = [v.to(first) if isinstance(v, Tensor) else first.new_full((), float(v)) for v in verdicts]
            kept = torch.stack(flags).max()
            self._verdicts.clear()
        scale = case.run.loss_scale()
        scale = first.new_full((), math.nan) if scale is None else scale.to(first)
        return torch.cat([torch.stack([kept, scale]), *(page.packed.to(first) for _, page in pages)])

    def _receive(self, case: Case, pages: Sequence[tuple[int, Page]], step: int, numbers: list[float]) -> None:
        kept, scale, *numbers = numbers
        _record(case, "gradients_kept", step, kept)
        _record(case, "loss_scale", step, scale)
        moved: list[TensorUpdate] = []
        several = len(self._tables) > 1
        for index, page in pages:
            size = page.packed.numel()
            tensors, gradient_cosine, update_cosine = page.read(numbers[:size])
            numbers = numbers[size:]
            suffix = f"/optimizer{index}" if several else ""
            _record(case, f"gradient_cosine{suffix}", step, gradient_cosine)
            _record(case, f"update_cosine{suffix}", step, update_cosine)
            # A scaler keeps the optimizer from stepping where gradients overflow; gradients of zeros do not move it.
            still = not any(tensor.update for tensor in tensors) and any(tensor.nonzero for tensor in tensors)
            skipped = case.run.scaler is not None and still
            self._census.count(tensors, skipped=skipped)
            if not skipped:
                moved += [tensor for tensor in tensors if tensor.trainable]
        self._measured = True
        self._census.step()
        self._write(case)
        # Optimizers that take turns have no step in common: a sum over some of them would jump.
        if len(pages) == len(self._tables):
            _record_sums(case, "", step, moved)
        layers: dict[str, list[TensorUpdate]] = defaultdict(list)
        for tensor in moved:
            layers[tensor.layer].append(tensor)
        for layer, tensors in layers.items():
            if len(self._layers) < MOST_LAYERS:
                self._layers.add(layer)
            if layer in self._layers:
                _record_sums(case, f"/{layer}", step, tensors)

    def _write(self, case: Case) -> None:
        idle = [index for index in sorted(self._idle) if self._steps[index]]
        unstepped = self._unstepped(case)
        fact = self._census.fact()
        fact["counts"]["unstepped"] = len(unstepped)
        fact |= {"idle_optimizers": idle, "unstepped": unstepped[:MOST_NAMES]}
        case.history.facts["parameters"] = fact

    def _beginnings(self, case: Case) -> list[list[tuple[Tensor, int, Tensor]]]:
        """Returns the parameters of each optimizer that users step, and what changes with any step, heard or not."""
        held = [[p for group in o.param_groups for p in group["params"] if not is_lazy(p)] for o in case.run.optimizers]
        if case.run.automatic or self._engine is not None or any(map(are_sharded, held)):
            return []
        # Writing through `.data` counts as no new version.
        return [[(p, p._version, _corner(p)) for p in each] for each in held]

    def _unstepped(self, case: Case) -> list[str]:
        """Returns the parameters of optimizers that nobody has stepped, heard or unheard, where that is up to users."""
        idle = {
            parameter
            for steps, held in zip(self._steps, self._first, strict=False)
            if not steps and all(p._version == version and torch.equal(_corner(p), c) for p, version, c in held)
            for parameter, _, _ in held
        }
        return [plain_name(name) for name, parameter in case.run.module.named_parameters() if parameter in idle]


def _corner(parameter: Tensor) -> Tensor:
    """Returns some elements as they are now."""
    return parameter.detach().reshape(-1)[:_CORNER].clone()


def _requires_grad(output: Any) -> bool:
    parts = output if isinstance(output, (tuple, list)) else [output]
    return any(part.requires_grad for part in parts if isinstance(part, Tensor))


def _record_sums(case: Case, suffix: str, step: int, tensors: Iterable[TensorUpdate]) -> None:
    tensors = list(tensors)
    weight = math.hypot(*(tensor.weight for tensor in tensors))
    update = math.hypot(*(tensor.update for tensor in tensors))
    if tensors:
        _record(case, f"weight_norm{suffix}", step, weight)
    _record(case, f"update_ratio{suffix}", step, update / weight if weight else math.nan)
    held = [tensor for tensor in tensors if tensor.has_gradient]
    size = sum(tensor.size for tensor in held)
    zeros = sum(math.nan if tensor.zeros is None else tensor.zeros for tensor in held)
    _record(case, f"zero_gradient_share{suffix}", step, zeros / size if size else math.nan)


def _record(case: Case, name: str, step: int, value: float) -> None:
    # What is not finite is not known.
    if math.isfinite(value):
        case.history.record(name, step, value, capacity=_LAYER_CAPACITY if "/" in name else SERIES_CAPACITY)
