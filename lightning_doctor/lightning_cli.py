"""``--doctor`` and ``crossval`` for scripts that run on a LightningCLI."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentError
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Union

from lightning_doctor.callbacks.doctor import Doctor
from lightning_doctor.callbacks.facts import all_callbacks

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
else:
    # The package that the script imported before this one, for its command line accepts only its own models. The
    # Doctor imports lightning first, so that is the choice where the script has imported neither.
    _package = next(name for name in sys.modules if name in ("lightning.pytorch", "pytorch_lightning"))
    _cli = import_module(f"{_package}.cli")
    LightningArgumentParser, LightningCLI = _cli.LightningArgumentParser, _cli.LightningCLI


class DoctorCLI(LightningCLI):
    """A LightningCLI with one more flag and one more subcommand.

    ``--doctor true`` adds a :class:`~lightning_doctor.Doctor`, ``--doctor.overhead 0.01`` one with that option, and
    the same works from YAML (``doctor: true``, or ``doctor:`` with options under it). Off by default.

    ``crossval --folds 3`` cross-validates instead of ``fit``, with a doctor for each fold; with
    ``--candidates '[{"model.lr": 0.1}, {"model.lr": 0.01}]'`` it compares.
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

    def crossval(
        self,
        folds: int = 3,
        stratify: Union[bool, None] = None,  # noqa: UP007
        metric: Union[str, None] = None,  # noqa: UP007
        mode: Union[Literal["min", "max"], None] = None,  # noqa: UP007
        candidates: Union[dict[str, dict[str, Any]], list[dict[str, Any]], None] = None,  # noqa: UP007
    ) -> None:
        """Cross-validates the model on the data of its training loader.

        Args:
            folds: How many.
            stratify: Whether every fold has the classes' shares; by default where the dataset shows its classes.
            metric: The logged figure that counts; the usual one by default.
            mode: Whether a lower or a higher figure is better; known by the names of usual figures.
            candidates: What to compare on the same folds, as options that each adds to this command line, such as
                [{"model.lr": 0.1}, {"model.lr": 0.01}], or by name {"fast": {"model.lr": 0.1}, "wide": {"config":
                "wide.yaml"}}. Trainer and data are the same for all.
        """
        from lightning_doctor.crossval import cross_validate

        makers = None if candidates is None else self._candidates(candidates)
        self.config_init = self.parser.instantiate_classes(self.config)
        options = dict(self._get(self.config_init, "trainer", default={}))
        options["callbacks"] = self._fold_callbacks(options.get("callbacks"))
        seed = self._get(self.config, "seed_everything")
        data = self._get(self.config_init, "data")
        print(
            cross_validate(
                self._new_model,
                self._get(self.config_init, "model") if data is None else data,
                folds,
                trainer_kwargs=options,
                stratify=stratify,
                candidates=makers,
                metric=metric,
                mode=mode,
                seed=seed if type(seed) is int else 0,
            )
        )

    def _fold_callbacks(self, given: Any) -> list[Any]:
        """The callbacks that a Trainer of this command line has, but for the one that saves the configuration."""
        callbacks = list(given) if isinstance(given, list) else [given]
        callbacks += [self._get(self.config_init, key) for key in self._parser(self.subcommand).callback_keys]
        default = self.trainer_defaults.get("callbacks")
        callbacks += default if isinstance(default, list) else [default]
        doctor = self._get(self.config_init, "doctor")
        return [each for each in [*callbacks, doctor] if each is not None and not isinstance(each, bool)]

    def _candidates(self, given: dict[str, dict[str, Any]] | list[dict[str, Any]]) -> dict[str, Callable[[], Any]]:
        """A function for each candidate that makes its model; ends the program where one cannot be."""
        named = given if isinstance(given, dict) else {_name(options): options for options in given}
        if not named or len(named) < len(given):
            self.parser.error(f"--candidates must be at least one, and no two alike, got {given}")
        return {name: partial(self._new_model, self._candidate(name, options)) for name, options in named.items()}

    def _candidate(self, name: str, options: dict[str, Any]) -> Namespace:
        command = str(self.subcommand)
        parser, base = self._parser(command), self.config[command]
        parser.exit_on_error = False
        try:
            # As if they stood at the end of the command line.
            own = parser.parse_args([f"--{option}={_text(value)}" for option, value in options.items()], base.clone())
        except ArgumentError as error:
            self.parser.error(f"candidate {name}: {error}")
        finally:
            parser.exit_on_error = True
        shared = ["trainer", "data", "doctor", "seed_everything", *parser.callback_keys]
        shared += self._subcommand_method_arguments[command]
        changed = [key for key in shared if own.get(key) != base.get(key)]
        if changed:
            self.parser.error(f"candidate {name}: {', '.join(changed)} must be the same for all candidates")
        config: Namespace = self.config.clone()
        config[command] = own
        return config

    def _new_model(self, config: Namespace | None = None) -> Any:
        base = self.config
        self.config = base if config is None else config
        # What `save_hyperparameters` sees is read off this copy, which Lightning makes only once.
        self.__dict__.pop("config_dump", None)
        try:
            self.config_init = self.parser.instantiate_classes(self.config)
            self.model = self._get(self.config_init, "model")
            self._add_configure_optimizers_method_to_model(self.subcommand)
        finally:
            self.config = base
            self.__dict__.pop("config_dump", None)
        return self.model

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        # The others are methods of the Trainer, which is where Lightning looks for all of them.
        super()._add_subcommands(parser, **kwargs)
        text = "Cross-validates the model on the data of its training loader."
        own = self.init_parser(**{"description": text, **kwargs.get("crossval", {})})
        self._add_arguments(own)
        self._subcommand_method_arguments["crossval"] = own.add_method_arguments(DoctorCLI, "crossval")
        self._subcommand_parsers["crossval"] = own
        subcommands: Any = parser._subcommands_action
        subcommands.add_subcommand("crossval", own, help=text)

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand != "crossval":
            super()._run_subcommand(subcommand)
            return
        names = self._subcommand_method_arguments[subcommand]
        self.crossval(**{name: value for name, value in self.config_init[subcommand].items() if name in names})


def _name(options: dict[str, Any]) -> str:
    return ", ".join(f"{option}={_text(value)}" for option, value in options.items()) or "as configured"


def _text(value: Any) -> str:
    """Writes a value as it stands on a command line."""
    # A class with its arguments has become a Namespace.
    return value if isinstance(value, str) else json.dumps(value, default=vars)
