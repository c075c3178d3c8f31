"""What TensorBoard loads at its start: light, and nothing here can fail for want of data."""

from __future__ import annotations

from typing import Any

from tensorboard.plugins.base_plugin import TBLoader

# A snapshot tells the whole course of its run, and the newest of a tag is always kept: more would fill the memory of
# TensorBoard, and tell nothing.
_SAMPLES = 1


class DoctorLoader(TBLoader):  # type: ignore[misc]
    """Makes the plugin."""

    def fix_flags(self, flags: Any) -> None:
        """Asks TensorBoard to keep the newest snapshot of each run, unless the user wants more of them."""
        from lightning_doctor.sinks.snapshot_bytes import PLUGIN_NAME

        samples = getattr(flags, "samples_per_plugin", None)
        if isinstance(samples, dict):
            samples.setdefault(PLUGIN_NAME, _SAMPLES)

    def load(self, context: Any) -> Any:
        """Returns the plugin; None where TensorBoard has no data provider to read by."""
        from lightning_doctor.tensorboard_plugin.plugin import DoctorPlugin

        return None if context.data_provider is None else DoctorPlugin(context)
