"""A LightningCLI with a ``--doctor`` flag.

Off by default, on with any of these::

    python examples/cli.py fit --config examples/cli.yaml
    python examples/cli.py fit --doctor true
    python examples/cli.py fit --doctor.overhead 0.01 --doctor.stop_on error
"""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import DoctorCLI


class Polynomial(LightningModule):
    """Fits a polynomial to points.

    Args:
        degree: Its degree.
        lr: Learning rate of gradient descent.
    """

    def __init__(self, degree: int = 5, lr: float = 0.1) -> None:
        super().__init__()
        self.degree = degree
        self.lr = lr
        self.layer = nn.Linear(degree + 1, 1)

    def loss(self, batch: list[Tensor]) -> Tensor:
        """Returns the mean squared error."""
        x, y = batch
        return nn.functional.mse_loss(self.layer(x ** torch.arange(self.degree + 1)), y)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Returns the loss."""
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor]) -> None:
        """Logs the loss."""
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns gradient descent with momentum."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Points(LightningDataModule):
    """Noisy points on a cubic.

    Args:
        batch_size: Points in a batch.
    """

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Draws them."""
        x = torch.rand(640, 1) * 2 - 1
        y = x**3 - x + 0.05 * torch.randn_like(x)
        self.training, self.validation = TensorDataset(x[:512], y[:512]), TensorDataset(x[512:], y[512:])

    def train_dataloader(self) -> DataLoader:
        """Returns 512 of them."""
        return DataLoader(self.training, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Returns the other 128."""
        return DataLoader(self.validation, 128)


if __name__ == "__main__":
    DoctorCLI(Polynomial, Points, seed_everything_default=0)
