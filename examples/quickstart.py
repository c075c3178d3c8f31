"""The shortest use: one callback. Run it with ``python examples/quickstart.py``."""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import Doctor


class Regression(LightningModule):
    """Learns a sine, at a learning rate that is far too high."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 1))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Returns the mean squared error."""
        x, y = batch
        return nn.functional.mse_loss(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns plain gradient descent. The doctor says what is wrong with it."""
        return torch.optim.SGD(self.parameters(), lr=10.0)


def main() -> None:
    """Trains, and reads the report."""
    seed_everything(0)
    x = torch.linspace(-3, 3, 512).unsqueeze(1)
    batches = DataLoader(TensorDataset(x, torch.sin(2 * x)), batch_size=32, shuffle=True)

    doctor = Doctor(stop_on="error")
    trainer = Trainer(max_epochs=20, callbacks=[doctor], accelerator="cpu")
    trainer.fit(Regression(), batches)

    for finding in doctor.report.findings:
        print(finding.code, finding.name, finding.severity, "at step", finding.step)
        print("  ", finding.summary)
        print("  ", finding.remedy)


if __name__ == "__main__":
    main()
