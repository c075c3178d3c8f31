"""Who leads a case when there are several monitors or Doctors in one Trainer."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from lightning_doctor.callbacks import ranks
from lightning_doctor.callbacks.case import Case
from lightning_doctor.callbacks.doctor import MONITORS, Doctor
from lightning_doctor.callbacks.facts import all_callbacks
from lightning_doctor.callbacks.losses import LossMonitor
from lightning_doctor.callbacks.monitor import Monitor

if TYPE_CHECKING:
    from lightning_doctor.callbacks.base import LightningModule, Trainer


def admit(monitor: Monitor, trainer: Trainer, module: LightningModule) -> None:
    """Opens a case for this ``fit`` if ``monitor`` is to lead it, and has the Trainer's other monitors join it.

    The first Doctor leads; without one, the first monitor. A Doctor from the environment gives way to any other.
    """
    monitors = list(dict.fromkeys(callback for callback in all_callbacks(trainer) if isinstance(callback, Monitor)))
    doctors = sorted((m for m in monitors if isinstance(m, Doctor)), key=lambda doctor: doctor.from_environment)
    leader = doctors[0] if doctors else monitors[0]
    if monitor is not leader:
        return
    if len([doctor for doctor in doctors if not doctor.from_environment]) > 1:
        warnings.warn("this Trainer has several Doctors: the first one works, the others rest", stacklevel=2)
    parts = _parts(leader, monitors)
    unwatched = [kind for kind in MONITORS if kind not in map(type, parts)]
    case = Case(leader, parts, unwatched, leader.settings, trainer, module)
    earlier = leader._case
    if earlier is not None and earlier.followed_by(trainer):
        case.carry_on(earlier)
    for other in monitors:
        other._case = case
    for part in parts:
        part.prepare(trainer)
    ranks.announce(True)


def _parts(leader: Monitor, monitors: list[Monitor]) -> list[Monitor]:
    # What the user made has the user's options: it goes before the leader's own of the same class.
    own = [m for m in monitors if not isinstance(m, Doctor)]
    brought = leader.parts() if isinstance(leader, Doctor) else []
    # Whatever else is watched, every rule wants the loss, and it is the cheapest signal of all.
    company = [kind() for part in own for kind in part.company]
    parts = [LossMonitor(), *company, *brought, *own]
    return list({type(part): part for part in parts}.values())
