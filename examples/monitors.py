"""The monitors one by one, without a Doctor: ``python examples/monitors.py``.

Each works alone; beside each other they share one history and one report, whichever of them you ask for it.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import GeneralizationMonitor, GradientMonitor, LossMonitor, OptimizerMonitor


class Classifier(LightningModule):
    """Tells the inside of a ring from its outside, with clipped gradients and a decaying learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Returns the loss: the LossMonitor records it, logged or not."""
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor]) -> None:
        """Logs loss and accuracy: the GeneralizationMonitor finds them by their names."""
        points, inside = batch
        self.log("val_loss", self.loss(batch))
        self.log("val_acc", ((self.network(points) > 0) == inside.bool()).float().mean())

    def loss(self, batch: list[Tensor]) -> Tensor:
        """Returns the binary cross-entropy."""
        points, inside = batch
        return nn.functional.binary_cross_entropy_with_logits(self.network(points), inside)

    def configure_optimizers(self) -> dict[str, object]:
        """Returns Adam and its schedule: the OptimizerMonitor records learning rate and momentum of each step."""
        optimizer = torch.optim.Adam(self.parameters(), lr=0.03)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)}


def main() -> None:
    """Trains under four monitors and prints what each recorded."""
    seed_everything(0)
    points = torch.randn(2000, 2)
    data = TensorDataset(points, (points.norm(dim=1, keepdim=True) < 1.2).float())
    training, validation = torch.utils.data.random_split(data, [1500, 500])

    monitors = [LossMonitor(), GradientMonitor(), GeneralizationMonitor(metric="val_acc"), OptimizerMonitor()]
    trainer = Trainer(max_epochs=10, callbacks=monitors, accelerator="cpu", gradient_clip_val=0.2)
    trainer.fit(Classifier(), DataLoader(training, 50, shuffle=True), DataLoader(validation, 500))

    history = monitors[0].report.history
    for name in history.names():
        series = history[name]
        print(f"{name:30} {len(series):4} values, the last {series.values[-1]:.4g} at step {series.steps[-1]}")


if __name__ == "__main__":
    main()
