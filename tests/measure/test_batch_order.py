from __future__ import annotations

import math

import torch

from lightning_doctor.measure.batch_order import BatchOrder


def serve(order: BatchOrder, epoch: int, served: list[int], *, every: int = 1) -> None:
    """Serves batches with these fingerprints, of which every so-manyth is measured."""
    for index, fingerprint in enumerate(served):
        worth = order.arrives(epoch, index)
        measured = (epoch * len(served) + index) % every == 0
        if measured or worth:
            order.add(epoch * len(served) + index, index, torch.tensor(fingerprint), measured=measured)


def compared(order: BatchOrder) -> tuple[list[float], list[float]]:
    """Returns what is known about repeats and about the order."""
    steps, equal = order.take()
    assert equal is not None
    assert equal.shape == (2, len(steps))
    repeated, same = ([value for value in row if not math.isnan(value)] for row in equal.tolist())
    return repeated, same


def test_a_batch_that_comes_again_within_four_is_a_repeat() -> None:
    order = BatchOrder()
    serve(order, 0, [1, 2, 3, 4, 1, 5, 6, 7, 8, 5, 9, 2])
    repeats, _ = compared(order)
    # The 1 comes after four, the 5 after four, the 2 after ten.
    assert repeats == [0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]


def test_the_first_batch_of_an_epoch_repeats_nothing_of_the_epoch_before() -> None:
    order = BatchOrder()
    serve(order, 0, [1, 2, 3])
    serve(order, 1, [3, 2, 1])
    repeats, same = compared(order)
    assert repeats == [0, 0, 0, 0]
    assert same == [0, 1, 0]


def test_the_same_order_again_is_seen_across_windows() -> None:
    order = BatchOrder()
    serve(order, 0, [1, 2, 3])
    compared(order)
    serve(order, 1, [1, 2, 3])
    _, same = compared(order)
    assert same == [1, 1, 1]


def test_an_epoch_of_one_batch_and_one_that_was_missed_are_not_compared() -> None:
    order = BatchOrder()
    for epoch in range(3):
        serve(order, epoch, [1])
    assert order.take() == ([], None)
    serve(order, 5, [1, 2])
    serve(order, 7, [1, 2])
    assert compared(order) == ([0, 0], [])


def test_a_fingerprint_of_zero_equals_nothing_that_is_missing() -> None:
    order = BatchOrder()
    serve(order, 0, [0, 1, 0])
    serve(order, 1, [5, 0])
    repeats, same = compared(order)
    assert repeats == [0, 1, 0]
    assert same == [0, 0]


def test_few_measured_batches_still_show_repeats_and_order() -> None:
    order = BatchOrder()
    for epoch in range(4):
        serve(order, epoch, [7] * 10, every=7)
    repeats, same = compared(order)
    assert len(repeats) >= 4
    assert set(repeats) == {1}
    # The first batch of each epoch is looked at, measured or not.
    assert len(same) >= 3
    assert set(same) == {1}


def test_only_the_first_64_batches_of_an_epoch_are_remembered() -> None:
    order = BatchOrder()
    serve(order, 0, list(range(100)))
    serve(order, 1, list(range(100)))
    _, same = compared(order)
    assert same == [1] * 64
