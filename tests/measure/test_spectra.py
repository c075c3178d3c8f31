from __future__ import annotations

import inspect
import math
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from torch import nn

from lightning_doctor import measure
from lightning_doctor.measure import spectrum
from lightning_doctor.measure.spectra import Spectrum
from tests.measure.dense import ROWS, TARGETS, dense, perceptron, squared_error, waves


def test_the_spectrum_of_a_network_is_that_of_its_dense_hessian() -> None:
    net, batch = perceptron(2, 8, 8, 1, dtype=torch.float64), waves(40)
    exact = torch.linalg.eigvalsh(dense(net, batch))
    found = spectrum(net, batch, squared_error)
    assert found.samples == 40
    assert found.ends.converged
    # A residual r leaves an error of r² over the gap to the next eigenvalue: far less than the 1 % allowed to it.
    assert abs(found.ends.high - float(exact[-1])) < 0.01 * found.ends.span
    assert abs(found.ends.low - float(exact[0])) < 0.01 * found.ends.span
    assert found.trace.error is not None
    assert abs(found.trace.value - float(exact.sum())) < 4 * found.trace.error
    assert found.products == found.ends.products + found.density.products + found.trace.products + 1


def test_the_three_weight_regression() -> None:
    line = nn.Linear(3, 1, bias=False).double()
    found = spectrum(line, (ROWS, TARGETS), squared_error)
    assert isinstance(found, Spectrum)
    # The larger root of λ² − 91λ + 54, exact but for rounding of three numbers under a hundred.
    assert [found.ends.low, found.ends.high] == pytest.approx([0, (91 + math.sqrt(91**2 - 4 * 54)) / 2], abs=1e-12)


def test_a_module_without_anything_to_train_raises() -> None:
    with pytest.raises(ValueError, match="no parameter"):
        spectrum(nn.Tanh(), None, lambda module, batch: torch.ones(()))
    with pytest.raises(ValueError, match="no elements"):
        spectrum(nn.ParameterList([torch.ones(0)]), None, lambda module, batch: module[0].sum())


def test_public_functions_stay_functions_whatever_is_imported() -> None:
    for found in pkgutil.iter_modules(measure.__path__):
        import_module(f"lightning_doctor.measure.{found.name}")
        # A module of the same name would have taken its place.
        assert found.name not in measure.__all__
    assert all(inspect.isfunction(getattr(measure, name)) for name in measure.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        measure.nothing  # noqa: B018


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, lightning_doctor.measure; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
