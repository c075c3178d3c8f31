from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_doctor.measure.lanczos import Ends, Krylov, ends, failure, missed_share, random_start
from tests.benchmarks.memory import peak

F64 = torch.float64


def matrix(values: Tensor, seed: int = 0) -> Tensor:
    """A dense matrix with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=F64))
    whole = (basis * values) @ basis.T
    return (whole + whole.T) / 2


def ends_of(whole: Tensor, **options: object) -> Ends:
    found = ends(lambda vector: whole @ vector, torch.zeros(len(whole), dtype=whole.dtype), **options)  # type: ignore[arg-type]
    assert found is not None
    return found


def random_values(seed: int) -> Tensor:
    """Spectra of all kinds: clustered at zero, with outliers, positive, of low rank."""
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(2, 80, (1,), generator=generator))
    values = torch.randn(size, generator=generator, dtype=F64)
    values *= torch.rand(size, generator=generator, dtype=F64) ** (seed % 5)
    if seed % 3 == 0:
        values.abs_()
    if seed % 4 == 0:
        values[: size // 2] = 0
    return values * 10.0 ** (seed % 7 - 3)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_ritz_values_lie_within_their_residuals_of_an_eigenvalue_on_200_random_matrices(dtype: torch.dtype) -> None:
    for seed in range(200):
        whole = matrix(random_values(seed), seed).to(dtype)
        # Of the matrix as it was rounded, which is no matter of the method.
        exact = torch.linalg.eigvalsh(whole.double())
        found = ends_of(whole, most=2 + seed % 30, seed=seed, tolerance=1e-3)
        for value, residual in ((found.low, found.low_residual), (found.high, found.high_residual)):
            # The residual covers rounding: no tolerance of its own.
            assert float((exact - value).abs().min()) <= residual
            # A Rayleigh quotient is never outside the spectrum, but for rounding.
            slack = 10 * torch.finfo(dtype).eps * float(exact.abs().max())
            assert exact[0] - slack <= value <= exact[-1] + slack


def test_what_is_said_to_be_certain_is_true_on_200_random_matrices() -> None:
    wrong = 0
    for seed in range(200):
        values = random_values(seed)
        found = ends_of(matrix(values, seed), share=0.05, seed=seed)
        span = float(values.max().clamp(min=0) - values.min().clamp(max=0))
        if found.stopped == "certain":
            # By up to 1e-14 of the range a zero eigenvalue is negative in float64.
            wrong += float(values.min()) < -(0.05 + 1e-12) * span
        elif found.stopped == "negative":
            assert float(values.min()) < -0.05 * span
    # The bound allows one in twenty; it is far from sharp.
    assert wrong <= 2


def test_vectors_have_their_values_as_rayleigh_quotients_and_their_residuals() -> None:
    whole = matrix(torch.linspace(-1, 3, 50, dtype=F64))
    found = ends_of(whole, most=20)
    for value, residual, vector in (
        (found.low, found.low_residual, found.low_vector),
        (found.high, found.high_residual, found.high_vector),
    ):
        # Sums of fifty numbers of about one, in float64.
        assert float(vector.norm()) == pytest.approx(1, abs=1e-13)
        assert float(vector @ whole @ vector) == pytest.approx(value, abs=1e-12)
        assert float((whole @ vector - value * vector).norm()) == pytest.approx(residual, rel=1e-6, abs=1e-12)


def test_the_basis_stays_orthonormal_where_ritz_values_have_converged_long_ago() -> None:
    # One large eigenvalue: without reorthogonalisation it would come back again and again.
    values = torch.cat([torch.linspace(0, 1e-3, 199, dtype=F64), torch.ones(1, dtype=F64)])
    whole = matrix(values)
    space = Krylov(lambda vector: whole @ vector, random_start(values, torch.Generator().manual_seed(0)))
    for _ in range(80):
        space.extend()
    basis = torch.stack([space._basis_vector(index) for index in range(80)])
    # Rounding of each vector, and of eighty projections.
    assert torch.allclose(basis @ basis.T, torch.eye(80, dtype=F64), atol=1e-13)
    ritz, _ = space.ritz()
    assert int((ritz > 0.5).sum()) == 1


def test_no_more_vectors_are_in_memory_than_the_basis_and_three_of_what_comes_of_it() -> None:
    values = torch.linspace(-1e-6, 1, 100_000)

    def work() -> None:
        found = ends(lambda vector: values * vector, values, most=9)
        assert found is not None
        assert found.products == 9

    # Nine of the basis, and a product and what is left of it; or both ends and the next vector.
    assert peak(work) <= 12.1 * values.nbytes


def test_it_stops_at_a_negative_curvature_that_matters() -> None:
    values = torch.linspace(0, 1, 500, dtype=F64)
    values[0] = -0.5
    found = ends_of(matrix(values))
    assert found.stopped == "negative"
    assert found.products < 20
    assert found.low + found.low_residual < -0.02 * found.span


def test_it_says_that_there_is_none_only_after_as_many_products_as_the_bound_asks_for() -> None:
    # Both ends stand apart, and have converged long before.
    values = torch.linspace(0.4, 0.6, 500, dtype=F64)
    values[0], values[-1] = 0, 1
    found = ends_of(matrix(values), share=0.05)
    assert found.stopped == "certain"
    assert found.converged
    # 1.648·√500·exp(−√0.05·(2k − 1)) is under 0.05 from k = 16 on.
    assert found.products == 16
    assert found.least_share <= 0.05
    assert found.failure(0.05) <= 0.05 < found.failure(0.03)


def test_negative_curvature_beside_which_none_can_be_excluded_uses_all_products() -> None:
    values = torch.linspace(0, 1, 500, dtype=F64)
    # Under 2 % of the range, by too little for the bound.
    values[0] = -0.0199
    found = ends_of(matrix(values), most=40)
    assert (found.stopped, found.products) == ("products", 40)
    assert found.failure(0.02) > 0.05
    assert found.failure(0.01) == 1


def test_an_exhausted_space_is_exact() -> None:
    values = torch.tensor([-1.0, -1.0, 0.0, 0.0, 0.0, 2.0, 2.0], dtype=F64)
    found = ends_of(matrix(values))
    assert (found.exact, found.products, found.missed) == (True, 3, 0.0)
    # Three numbers of about one, in float64.
    assert (found.low, found.high) == pytest.approx((-1, 2), abs=1e-14)


def test_a_space_of_one_dimension_and_an_operator_that_is_zero() -> None:
    one = ends_of(torch.tensor([[-3.0]], dtype=F64))
    assert (one.low, one.high, one.exact, one.stopped) == (-3, -3, True, "negative")
    none = ends_of(torch.zeros(5, 5, dtype=F64))
    assert (none.low, none.high, none.exact, none.span, none.stopped) == (0, 0, True, 0, "certain")
    assert ends(lambda vector: vector, torch.zeros(0)) is None


def test_it_stops_when_there_is_no_leave_to_go_on() -> None:
    left = iter([True, True, False])
    found = ends_of(matrix(torch.linspace(-1e-6, 1, 300, dtype=F64)), may_go_on=lambda: next(left))
    assert (found.stopped, found.products) == ("time", 3)
    assert found.missed == 1


def test_a_product_that_is_not_finite_raises() -> None:
    with pytest.raises(ArithmeticError, match="not finite"):
        ends(lambda vector: vector / 0, torch.zeros(3))


def test_the_bound_is_the_one_that_was_published() -> None:
    # A million weights and a hundredth of the range need 53 products.
    assert missed_share(53, 10**6) <= 0.01 < missed_share(52, 10**6)
    assert failure(53, 10**6, 0.01) == pytest.approx(1648 * math.exp(-0.1 * 105))
    # Solved for the share, and put in again.
    assert failure(40, 1234, missed_share(40, 1234)) == pytest.approx(0.05)


def test_random_starts_are_uniform_on_the_sphere_and_draw_no_global_number() -> None:
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    starts = torch.stack([random_start(torch.zeros(3, dtype=F64), generator) for _ in range(4000)])
    assert torch.equal(torch.get_rng_state(), state)
    # Each coordinate is uniform on [−1, 1] (Archimedes): mean 0 ± √(1/3)/√4000, and fourth moment 1/5 ± 0.267/√4000.
    assert starts.mean(dim=0).abs().max() < 4 * 0.0092
    assert (starts**4).mean(dim=0).tolist() == pytest.approx([0.2] * 3, abs=4 * 0.0043)
