"""What a cross-validation takes its samples from, and the loaders it makes of a part of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset
from torch.utils.data import TensorDataset as Tensors

from lightning_doctor.callbacks.loaders import working


class Source:
    """Samples that can be picked by their number.

    Args:
        dataset: A map-style dataset.
        batch_size: Of the loaders.
        shuffle: Whether training is shuffled.
        drop_last: Whether a last training batch that is not full is left out.
        options: Of both loaders, for ``DataLoader``.
    """

    def __init__(
        self, dataset: Any, batch_size: int, *, shuffle: bool = True, drop_last: bool = False, **options: Any
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._training: dict[str, Any] = {"shuffle": shuffle, "drop_last": drop_last}
        self._options = options

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self._dataset)

    def loader(self, indices: Sequence[int], *, training: bool) -> DataLoader[Any]:
        """Returns a loader over some of the samples; for validation all of them, in order."""
        options = self._training if training else {}
        return DataLoader(Subset(self._dataset, indices), self._batch_size, **options, **self._options)

    def classes(self, stratify: bool | Sequence[Hashable] | None) -> list[Hashable] | None:
        """Returns the class of each sample; None where it is not known.

        Args:
            stratify: The classes themselves; True to load every sample and take its last item; else those that the
                dataset shows without being loaded.

        Raises:
            ValueError: Where the last item of a sample is no class.
        """
        if isinstance(stratify, bool) or stratify is None:
            shown = _shown(self._dataset)
            if shown is None and stratify:
                return [_class(self._dataset[index], index) for index in range(self.samples)]
            return shown
        return listed(stratify)


def source(given: Any, batch_size: int) -> Source:
    """Reads a dataset, or the training data of a datamodule.

    Args:
        given: A map-style dataset, or whatever has a ``train_dataloader``.
        batch_size: Where a dataset is given.

    Raises:
        ValueError: Where its samples cannot be picked by their number, or its loader cannot be rebuilt over a part of
            them; the message says why.
    """
    if not callable(getattr(given, "train_dataloader", None)):
        return Source(_picked(given), batch_size)
    for prepare, arguments in (("prepare_data", ()), ("setup", ("fit",))):
        getattr(given, prepare, lambda *_: None)(*arguments)
    loader = given.train_dataloader()
    if not isinstance(loader, DataLoader):
        raise ValueError(f"train_dataloader must return one DataLoader to be cut into folds, got {_kind(loader)}")
    dataset = _picked(loader.dataset)
    batches = loader.batch_sampler
    if batches is None:
        raise ValueError(
            f"train_dataloader has batch_size=None, where the {_kind(dataset)} makes its batches itself: its samples "
            f"cannot be told apart; pass a dataset of samples"
        )
    # A loader that was given its batches whole has no size of its own, and a sampler that it never asks.
    sampler: Any = getattr(batches, "sampler", None)
    if type(batches) is not BatchSampler or type(sampler) not in (RandomSampler, SequentialSampler):
        own = sampler if type(batches) is BatchSampler else batches
        raise ValueError(
            f"train_dataloader draws its samples with a {_kind(own)}, which cannot be rebuilt over a part of them: "
            f"it must be a DataLoader with batch_size and shuffle alone, or pass the dataset itself"
        )
    shuffle = isinstance(sampler, RandomSampler)
    return Source(dataset, batches.batch_size, shuffle=shuffle, drop_last=batches.drop_last, **working(loader))


def listed(values: Any) -> list[Hashable]:
    """Returns what may be a tensor or an array as a list of plain values."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _picked(dataset: Any) -> Any:
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f"{_kind(dataset)} streams its samples: folds need a map-style dataset, whose samples have a number"
        )
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"data must be a map-style dataset, with __len__ and __getitem__, or a LightningDataModule, "
            f"got {_kind(dataset)}"
        )
    return dataset


def _shown(dataset: Any) -> list[Hashable] | None:
    """The classes that a dataset shows without loading a sample: whole numbers, one a sample."""
    if isinstance(dataset, Subset):
        whole = _shown(dataset.dataset)
        return None if whole is None else [whole[index] for index in dataset.indices]
    found = dataset.tensors[-1] if isinstance(dataset, Tensors) else getattr(dataset, "targets", None)
    if isinstance(found, Tensor) and (found.ndim != 1 or found.is_floating_point()):
        return None
    if found is None or not hasattr(found, "__len__") or len(found) != len(dataset):
        return None
    classes = listed(found)
    return classes if all(isinstance(each, int) for each in classes) else None


def _class(sample: Any, index: int) -> Hashable:
    found = sample[-1] if isinstance(sample, (tuple, list)) and sample else sample
    if isinstance(found, Tensor) and found.numel() == 1:
        found = found.item()
    if isinstance(found, (bool, int, str)) or (isinstance(found, float) and found.is_integer()):
        return found
    raise ValueError(
        f"stratify=True takes the last item of a sample for its class, and that of sample {index} is a "
        f"{_kind(found)}: pass the classes themselves, stratify=[…]"
    )


def _kind(value: Any) -> str:
    return type(value).__name__
