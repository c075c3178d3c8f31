"""What a copy of the model sees in place of the run: it may set and log what it likes."""

from __future__ import annotations

from typing import Any


class Screen:
    """An object of the run as a copy may see it: what is set stays here, the rest is read from behind it.

    Args:
        behind: The object.
        own: What is to be read instead, by name.
    """

    def __init__(self, behind: Any, **own: Any) -> None:
        self.__dict__.update(_behind=behind, **own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_behind"], name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Screen:
        return self


class Mute:
    """A logger that takes anything and writes nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Mute:
        """Does nothing, and takes whatever is asked of what it returns."""
        return self
