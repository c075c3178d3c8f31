"""``--doctor`` for scripts that run on a LightningCLI."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Union

from lightning_doctor.callbacks.doctor import Doctor
from lightning_doctor.callbacks.facts import all_callbacks

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
else:
    # The package that the script imported before this one, for its command line accepts only its own models. The
    # Doctor imports lightning first, so that is the choice where the script has imported neither.
    _package = next(name for name in sys.modules if name in ("lightning.pytorch", "pytorch_lightning"))
    _cli = import_module(f"{_package}.cli")
    LightningArgumentParser, LightningCLI = _cli.LightningArgumentParser, _cli.LightningCLI


class DoctorCLI(LightningCLI):
    """A LightningCLI with one more flag.

    ``--doctor true`` adds a :class:`~lightning_doctor.Doctor`, ``--doctor.overhead 0.01`` one with that option, and
    the same works from YAML (``doctor: true``, or ``doctor:`` with options under it). Off by default.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--doctor``. A subclass that overrides this calls it too."""
        parser.add_argument(
            "--doctor",
            type=Union[bool, Doctor],  # noqa: UP007
            default=False,
            help="Watch the training run: true, or options of lightning_doctor.Doctor.",
        )

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Puts the Doctor among the Trainer's callbacks."""
        trainer = super().instantiate_trainer(**kwargs)
        doctor = self._get(self.config_init, "doctor")
        if doctor is True:
            doctor = Doctor()
        if isinstance(doctor, Doctor):
            all_callbacks(trainer).append(doctor)
        return trainer
