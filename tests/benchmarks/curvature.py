"""What curvature costs, in gradients, beside other packages: `python -m tests.benchmarks.curvature`.

The arms take turns in one process, so that a machine that slows down slows all of them, and are compared turn by turn.
Other packages are compared where they are installed, by `pip install -c tests/constraints.txt -e
".[benchmark-curvature]"`, and `pip uninstall torchvision`, which one of them brings, where it does not fit PyTorch.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_doctor.measure.lanczos import ends, random_start
from lightning_doctor.measure.landscape import Landscape
from lightning_doctor.measure.twice import twice_differentiable
from tests.benchmarks.memory import peak
from tests.benchmarks.models import MODELS, Batch

EIGENTHINGS, CURVLINOPS = "hessian-eigenthings", "curvlinops-for-pytorch"
# What is aimed at: a product in those of hessian-eigenthings, on each model, and in gradients on the first.
PEER_AIM, GRADIENT_AIM = 0.75, 2.1


def loss(module: Any, batch: Batch) -> Tensor:
    return cross_entropy(module(batch[0]), batch[1])


def eigenthings(net: nn.Module, batch: Batch) -> Any:
    return import_module("hessian_eigenthings").HessianOperator(net, [batch], loss)


def curvlinops(net: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]:
    operator = import_module("curvlinops").HessianLinearOperator(
        net, nn.CrossEntropyLoss(), list(net.parameters()), [batch], check_deterministic=False
    )
    return lambda vector: operator @ vector


@contextmanager
def settled() -> Iterator[None]:
    """The kernels that can be differentiated twice, for all arms alike but the plain gradient."""
    with twice_differentiable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def seconds(work: Callable[[], object]) -> float:
    # Of the processor, on one thread: what other programs take meanwhile does not count.
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(arms: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    for work in arms.values():
        work()
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(turns):
        for arm in list(arms) if turn % 2 else list(arms)[::-1]:
            times[arm].append(seconds(arms[arm]))
    return times


def ratio(times: dict[str, list[float]], arm: str, beside: str) -> tuple[float, float, float]:
    """The quartiles of the ratio within each turn."""
    low, middle, high = quantiles([a / b for a, b in zip(times[arm], times[beside], strict=True)], n=4)
    return low, middle, high


def shown(quartiles: tuple[float, float, float]) -> str:
    low, middle, high = quartiles
    return f"{middle:6.2f} ({low:.2f} … {high:.2f})"


def tried(
    name: str, make: Callable[[], Callable[[Tensor], Tensor]], vector: Tensor, ours: Tensor
) -> tuple[Callable[[Tensor], Tensor] | None, str]:
    """Another package's product; or None, and why."""

    def product(vector: Tensor) -> Tensor:
        with settled():
            return made(vector)

    try:
        with settled():
            made = make()
        error = float((product(vector) - ours).norm() / ours.norm())
    except ModuleNotFoundError as reason:
        return None, f"{name} is not installed ({reason.name})"
    except Exception as reason:  # noqa: BLE001
        return None, f"{name} fails: {type(reason).__name__}: {str(reason).splitlines()[0][:80]}"
    # The same matrix, as far as float32 goes; a loss averaged in another way would be off by a factor.
    return (product, "") if error < 0.01 else (None, f"{name} gives another product, off by {error:.0%}")


def products(net: nn.Module, batch: Batch, turns: int) -> tuple[dict[str, list[float]], list[str]]:
    """Times a gradient, and a product by each package; and says which are not there."""
    parameters = list(net.parameters())
    hessian = Landscape(net, loss).hessian(batch)
    vector = random_start(hessian.gradient, torch.Generator().manual_seed(0))
    arms: dict[str, Callable[[], object]] = {
        "gradient": lambda: torch.autograd.grad(loss(net, batch), parameters),
        "lightning-doctor": lambda: hessian(vector),
    }
    makers = {EIGENTHINGS: lambda: eigenthings(net, batch).matvec, CURVLINOPS: lambda: curvlinops(net, batch)}
    missing = []
    for name, make in makers.items():
        product, reason = tried(name, make, vector, hessian(vector))
        if product is None:
            missing.append(reason)
        else:
            arms[name] = partial(product, vector)
    times = in_turns(arms, turns)
    hessian.release()
    return times, missing


@dataclass
class Verdicts:
    """Both ends of the spectrum, certified, and by another package after as many products."""

    products: int
    stopped: str
    times: dict[str, list[float]]
    differences: tuple[float, float] | None


def verdicts(net: nn.Module, batch: Batch, turns: int) -> Verdicts:
    land = Landscape(net, loss)
    parameters = list(net.parameters())
    kept: dict[str, Any] = {}

    def ours() -> None:
        hessian = land.hessian(batch)
        kept["ours"] = ends(hessian, hessian.gradient)
        hessian.release()

    ours()
    count = kept["ours"].products
    arms: dict[str, Callable[[], object]] = {
        "gradient": lambda: torch.autograd.grad(loss(net, batch), parameters),
        "lightning-doctor": ours,
    }
    try:
        lanczos = import_module("hessian_eigenthings").lanczos
    except ModuleNotFoundError:
        pass
    else:

        def theirs() -> None:
            # One run for both ends, with the reorthogonalisation that makes it as accurate: its cheapest way.
            with settled():
                kept["theirs"] = lanczos(
                    eigenthings(net, batch), k=count, max_iter=count, which="LA", reorthogonalize=True, seed=0
                )

        arms[EIGENTHINGS] = theirs
    times = in_turns(arms, turns)
    differences = None
    if "theirs" in kept:
        values = kept["theirs"].eigenvalues
        span = kept["ours"].span
        differences = (float(values.min()) - kept["ours"].low) / span, (float(values.max()) - kept["ours"].high) / span
    return Verdicts(count, kept["ours"].stopped, times, differences)


def memory(net: nn.Module, batch: Batch) -> dict[str, int]:
    """The transient memory of a training step, of a probe, and of a verdict by another package [bytes]."""
    land = Landscape(net, loss)
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(net, batch).backward()

    step()
    state = peak(optimizer.step)
    optimizer.zero_grad(set_to_none=True)
    found = {"training step": peak(step), "optimizer state": state}
    optimizer.zero_grad(set_to_none=True)
    counts = []

    def probe() -> None:
        hessian = land.hessian(batch)
        spectrum = ends(hessian, hessian.gradient)
        hessian.release()
        counts.append(0 if spectrum is None else spectrum.products)

    def product() -> None:
        hessian = land.hessian(batch)
        hessian(hessian.gradient)
        hessian.release()

    found["one product"] = peak(product)
    found["verdict"] = peak(probe)
    try:
        lanczos = import_module("hessian_eigenthings").lanczos
    except ModuleNotFoundError:
        return found

    def theirs() -> None:
        with settled():
            lanczos(eigenthings(net, batch), k=2, max_iter=counts[0], which="LA", reorthogonalize=True, seed=0)

    found[f"verdict, {EIGENTHINGS}"] = peak(theirs)
    return found


def installed(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures what products with the Hessian and verdicts cost.")
    parser.add_argument("--turns", type=int, default=15, help="turns of all arms (default: %(default)s)")
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, one thread, {turns} turns; medians of ratios")
    print("of processor time within a turn, and their quartiles")
    for package in (EIGENTHINGS, CURVLINOPS):
        print(f"{package}: {installed(package)}")
    missed = False
    for number, (name, make) in enumerate(MODELS.items()):
        torch.manual_seed(0)
        net, batch = make()
        weights = sum(parameter.numel() for parameter in net.parameters())
        times, missing = products(net, batch, turns)
        alone = 1e3 * median(times["gradient"])
        print(f"\n{name}: {weights:,} weights, {len(batch[1])} samples, a gradient {alone:.1f} ms")
        for arm in list(times)[1:]:
            print(f"  a product, {arm:24}{shown(ratio(times, arm, 'gradient'))} gradients")
        for line in missing:
            print(f"  {line}")
        if EIGENTHINGS in times:
            beside = ratio(times, "lightning-doctor", EIGENTHINGS)
            print(f"  in products of {EIGENTHINGS:20}{shown(beside)} aim {PEER_AIM}")
            missed |= beside[1] > PEER_AIM
        missed |= number == 0 and ratio(times, "lightning-doctor", "gradient")[1] > GRADIENT_AIM
        both = verdicts(net, batch, max(3, turns // 3))
        print(f"  a verdict of {both.products} products ({both.stopped})")
        for arm in list(both.times)[1:]:
            print(f"    {arm:33}{shown(ratio(both.times, arm, 'gradient'))} gradients")
        if both.differences is not None:
            low, high = both.differences
            print(f"    in verdicts of {EIGENTHINGS:18}{shown(ratio(both.times, 'lightning-doctor', EIGENTHINGS))}")
            print(f"    its smallest value lies {low:+.2%} of the range from ours, its largest {high:+.2%}")
            missed |= ratio(both.times, "lightning-doctor", EIGENTHINGS)[1] > 1
        taken = memory(net, batch)
        step = taken["training step"]
        for what, size in taken.items():
            print(f"  memory, {what:31}{size / 2**20:8.1f} MiB, {size / step:5.2f} training steps")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
