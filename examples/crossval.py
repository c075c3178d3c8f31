"""Two networks compared on the same folds: ``python examples/crossval.py``.

Needs the extra ``crossval``: ``pip install "lightning-doctor[crossval]"``.
"""

import torch
from lightning.pytorch import LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_doctor import cross_validate


class Classifier(LightningModule):
    """Tells ten handwritten digits apart.

    Args:
        width: Units of its hidden layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Returns the cross-entropy."""
        pixels, digits = batch
        return nn.functional.cross_entropy(self.network(pixels), digits)

    def validation_step(self, batch: list[Tensor]) -> None:
        """Logs the accuracy, which candidates are compared by."""
        pixels, digits = batch
        self.log("val_acc", (self.network(pixels).argmax(dim=1) == digits).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.003)


def main() -> None:
    """Cross-validates a narrow and a wide network and prints which is better, and whether that is sure."""
    pixels, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digits))
    result = cross_validate(
        Classifier,
        data,
        folds=3,
        candidates={"4 units": {"width": 4}, "64 units": {"width": 64}},
        trainer_kwargs={"max_epochs": 5, "accelerator": "cpu"},
    )
    print(result)
    for fold in result.best.folds:
        print(f"fold {fold.number}: {len(fold.report.findings)} findings, {fold.folder}")


if __name__ == "__main__":
    main()
