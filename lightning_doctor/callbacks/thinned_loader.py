"""A training loader less some of its rows: rebuilt as it was, over what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_doctor.callbacks.loaders import working

# A generator of its own, and the same on every rank.
_SEED = 2718
_FEWEST = 8


class CannotThin(Exception):  # noqa: N818
    """This loader cannot be rebuilt; the message is the reason, as a clause."""


class Kept(Subset[Any]):
    """The rows that are left; whatever else is asked of it, the whole data set answers."""

    def __getattr__(self, name: str) -> Any:
        # Before it is unpickled it has no data set to ask.
        if name.startswith("__") or name in ("dataset", "indices"):
            raise AttributeError(name)
        return getattr(self.dataset, name)


@dataclass
class Thinned:
    """A loader and what it does not serve.

    Attributes:
        loader: Over the rows that are left.
        dataset: The whole data set.
        held_out: The indices of the rows that were taken out.
        collate: What makes a batch of rows.
    """

    loader: DataLoader[Any]
    dataset: Dataset[Any]
    held_out: list[int]
    collate: Any


def thinned(loader: Any, share: float) -> Thinned:
    """Returns the loader without a random share of its rows, always the same ones for so many rows.

    Args:
        loader: A plain loader over a data set with a length.
        share: In (0, 1).

    Raises:
        CannotThin: For any other.
    """
    if type(loader) is not DataLoader:
        raise CannotThin(f"the training data comes from a {type(loader).__name__}, no plain DataLoader")
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise CannotThin(f"a {type(dataset).__name__} has no rows that could be left out by their index")
    batches = loader.batch_sampler
    if batches is None:
        raise CannotThin(f"with batch_size=None it is the {type(dataset).__name__} that makes batches, not the loader")
    if type(batches) is not BatchSampler:
        raise CannotThin(f"its batches come from a {type(batches).__name__}, which cannot be rebuilt")
    # A loader that was given its batches whole has no size of its own, and a sampler that it never asks.
    sampler: Any = batches.sampler
    served = _served(sampler, len(dataset))
    count = round(share * len(served))
    if count < _FEWEST or count >= len(served):
        raise CannotThin(f"a share of {share:g} of {len(served)} rows is {count}: {_FEWEST} at least are needed")
    order = torch.randperm(len(served), generator=torch.Generator().manual_seed(_SEED)).tolist()
    held_out = sorted(served[place] for place in order[:count])
    out = set(held_out)
    kept = [index for index in range(len(dataset)) if index not in out]
    subset = Kept(dataset, kept)
    rebuilt: DataLoader[Any] = DataLoader(
        subset,
        batch_size=batches.batch_size,
        drop_last=batches.drop_last,
        sampler=_rebuilt(sampler, subset, kept),
        generator=loader.generator,
        **working(loader),
    )
    return Thinned(rebuilt, dataset, held_out, loader.collate_fn)


def _served(sampler: Any, length: int) -> Sequence[int]:
    """Returns the indices that a sampler may draw."""
    if type(sampler) is SubsetRandomSampler:
        return [int(index) for index in sampler.indices]
    if type(sampler) is WeightedRandomSampler:
        if len(sampler.weights) != length:
            raise CannotThin(f"its sampler has {len(sampler.weights)} weights for {length} rows")
        # A row of no weight is never trained on, held out or not.
        return [index for index, weight in enumerate(sampler.weights.tolist()) if weight > 0]
    if type(sampler) is RandomSampler and sampler._num_samples is not None and not sampler.replacement:
        raise CannotThin("its sampler draws a part of the rows an epoch, which cannot be rebuilt")
    if type(sampler) in (RandomSampler, SequentialSampler, DistributedSampler):
        over: Any = sampler.dataset if type(sampler) is DistributedSampler else sampler.data_source
        if len(over) != length:
            raise CannotThin(f"its sampler draws among {len(over)} rows of {length}, which cannot be rebuilt")
        return range(length)
    raise CannotThin(f"a {type(sampler).__name__} cannot be rebuilt over fewer rows")


def _rebuilt(sampler: Any, subset: Kept, kept: Sequence[int]) -> Sampler[Any]:
    if type(sampler) is SubsetRandomSampler:
        places = {index: place for place, index in enumerate(kept)}
        return SubsetRandomSampler(
            [places[int(index)] for index in sampler.indices if int(index) in places], generator=sampler.generator
        )
    if type(sampler) is WeightedRandomSampler:
        weights = sampler.weights[torch.as_tensor(kept)]
        # As often each: without replacement there may be no more draws than rows with a weight.
        share = int((weights > 0).sum()) / int((sampler.weights > 0).sum())
        number = max(1, math.floor(sampler.num_samples * share))
        return WeightedRandomSampler(weights.tolist(), number, sampler.replacement, generator=sampler.generator)
    if type(sampler) is RandomSampler:
        return RandomSampler(subset, sampler.replacement, sampler._num_samples, generator=sampler.generator)
    if type(sampler) is DistributedSampler:
        return DistributedSampler(
            subset, sampler.num_replicas, sampler.rank, sampler.shuffle, sampler.seed, sampler.drop_last
        )
    return SequentialSampler(subset)
