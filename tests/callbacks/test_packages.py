"""Works with either Lightning package, or with both."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = textwrap.dedent(
    """
    import sys
    missing, package = sys.argv[1:]
    if missing != "none":
        sys.modules[missing] = None
    import importlib
    pl = importlib.import_module(package)
    import torch
    from lightning_doctor import Doctor

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(3, 1)
        def training_step(self, batch, batch_idx):
            return self.net(batch).square().mean()
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    doctor = Doctor(strict=True)
    assert isinstance(doctor, pl.Callback)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[doctor], logger=False, enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.randn(32, 3), 4))
    assert len(doctor.report.history["train_loss"]) == 16
    """
)


@pytest.mark.parametrize(
    ("missing", "package"),
    [
        ("none", "lightning.pytorch"),
        ("none", "pytorch_lightning"),
        ("pytorch_lightning", "lightning.pytorch"),
        ("lightning", "pytorch_lightning"),
    ],
)
def test_a_doctor_works_with_the_package_that_is_installed(tmp_path: Path, missing: str, package: str) -> None:
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    variables.pop("LIGHTNING_DOCTOR", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, missing, package],
        capture_output=True, text=True, timeout=120, check=False, env=variables, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_any_the_error_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None; import lightning_doctor; lightning_doctor.Doctor"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "lightning-doctor needs lightning or pytorch_lightning: pip install lightning" in done.stderr
