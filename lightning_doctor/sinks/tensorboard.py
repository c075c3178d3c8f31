"""The run's own loggers: scalars to each of them, the letter to those that can show text, a layout to TensorBoard."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lightning_doctor.sinks.snapshot import VERSION
from lightning_doctor.sinks.snapshot_bytes import PLUGIN_NAME, TAG

REPORT_TAG = "doctor/report"
SPECTRUM_TAG = "doctor/curvature/spectrum"

Spectrum = Sequence[tuple[float, float]]

# Category and chart of the Custom Scalars tab, and the series in it; a star stands for any ending.
_CATEGORY = "Doctor"
_CHARTS: Mapping[str, tuple[str, ...]] = {
    "loss: training and validation": ("train_loss", "train_loss/*", "val_loss", "val_loss/*"),
    "validation metric": ("val_metric",),
    "gradient norm: before and after clipping": ("grad_norm", "grad_norm_clipped"),
    "clip factor: share of the gradient that clipping leaves": ("clip_factor",),
    "gradient norm by layer": ("grad_norm/*",),
    "non-finite gradients and skipped steps": ("grad_non_finite", "scaler_skips"),
    "learning rate": ("learning_rate", "learning_rate/*"),
    "momentum": ("momentum", "momentum/*"),
    "effective step of Adagrad": ("adagrad_step", "adagrad_step/*"),
    "step scan: change of the loss at multiples of the step": ("scan/*",),
    "skill: share of the constant predictor's errors avoided": ("skill", "train_accuracy"),
    "curvature: ends of the spectrum, along the gradient": ("curvature/high", "curvature/low", "curvature/sharpness"),
}
_LAYOUT_TAG = b"custom_scalars__config__"
# A layout is written as a run begins; a resumed run may lie beside gigabytes of events.
_SEARCHED = 1 << 26


@dataclass(frozen=True)
class Failure:
    """A logger that was dropped.

    Attributes:
        logger: Its class.
        doing: What it failed at, as a clause: ``"writing scalars"``.
        error: What it raised.
    """

    logger: str
    doing: str
    error: Exception

    def __str__(self) -> str:
        return f"{self.logger} failed at {self.doing} and gets no more: {type(self.error).__name__}: {self.error}"


class Letterbox:
    """Delivers to the loggers of a run. One that fails is dropped, the others go on.

    Loggers are known by what they can do, not by their class: ``log_metrics``, and an ``experiment`` with
    ``add_text`` (TensorBoard), with ``log_text`` (MLflow, Comet), or a ``log_text`` of their own (Weights & Biases).

    Args:
        loggers: The loggers of the trainer; there may be none.
    """

    def __init__(self, loggers: Iterable[Any] | None = ()) -> None:
        self._loggers = list(loggers or ())
        self._failures: list[Failure] = []
        self._letter: str | None = None
        self._snapshot: bytes | None = None
        self._layout: dict[str, Any] | None = None
        self._arranged: list[str] = []
        self._foreign_layout: dict[int, bool] = {}

    def failures(self) -> list[Failure]:
        """Returns the failures since the last call."""
        failures, self._failures = self._failures, []
        return failures

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Logs values of one step; their names are the tags."""
        if values:
            # A copy each: a logger may change what it is given.
            self._each("writing scalars", lambda logger: logger.log_metrics(dict(values), step=step))

    def text(self, markdown: str, step: int) -> bool:
        """Shows the letter, under ``doctor/report`` in TensorBoard, if it is another than the last.

        Returns:
            Whether it was another one.
        """
        if markdown == self._letter:
            return False
        self._letter = markdown
        self._each("writing the report", lambda logger: _show_text(logger, markdown, step))
        return True

    def snapshot(self, data: bytes, step: int) -> None:
        """Writes what the Doctor tab shows to TensorBoard's event files, if it is another than the last.

        Args:
            data: Of :func:`lightning_doctor.sinks.snapshot_bytes.encode`.
            step: On the axis of the scalars.
        """
        if data != self._snapshot:
            self._snapshot = data
            self._each("writing what the Doctor tab shows", lambda logger: _write_snapshot(logger, data, step))

    def pictures(self, pictures: Mapping[str, Any], spectrum: Spectrum | None, step: int) -> None:
        """Shows pictures and the spectrum of the Hessian to the loggers that can: TensorBoard's.

        Args:
            pictures: By tag, each ``[height, width, 3]`` of uint8.
            spectrum: Points with the number of eigenvalues near each.
            step: On the axis of the scalars.
        """
        self._each("writing pictures", lambda logger: _show(logger, pictures, spectrum, step))

    def layout(self, names: Iterable[str]) -> None:
        """Groups the charts of these series in TensorBoard's Custom Scalars tab.

        Writes only when there is another set of charts than the last time, and never over a layout of the user's.

        Args:
            names: The series there are, without ``doctor/``.
        """
        names = list(names)
        if names == self._arranged:
            return
        self._arranged = names
        charts = {
            title: patterns
            for title, patterns in _CHARTS.items()
            if any(re.match(_regex(pattern), name) for pattern in patterns for name in names)
        }
        if not charts or charts == self._layout:
            return
        self._layout = dict(charts)
        self._each("writing the layout of the charts", lambda logger: self._arrange(logger, charts))

    def _arrange(self, logger: Any, charts: Mapping[str, tuple[str, ...]]) -> None:
        experiment = getattr(logger, "experiment", None)
        arrange = getattr(experiment, "add_custom_scalars", None)
        if not callable(arrange):
            return
        if id(logger) not in self._foreign_layout:
            self._foreign_layout[id(logger)] = _has_layout(experiment)
        if self._foreign_layout[id(logger)]:
            return
        stem = _stem(logger)
        arrange(
            {
                _CATEGORY: {
                    title: ["Multiline", [_regex(p, f"{stem}doctor/") for p in patterns]]
                    for title, patterns in charts.items()
                }
            }
        )

    def _each(self, doing: str, deliver: Callable[[Any], None]) -> None:
        self._loggers = [logger for logger in self._loggers if self._delivered(logger, doing, deliver)]

    def _delivered(self, logger: Any, doing: str, deliver: Callable[[Any], None]) -> bool:
        try:
            deliver(logger)
        except Exception as error:  # noqa: BLE001
            self._failures.append(Failure(type(logger).__name__, doing, error))
            return False
        return True


def _show_text(logger: Any, markdown: str, step: int) -> None:
    if "columns" in _parameters(getattr(logger, "log_text", None)):
        # Weights & Biases: text is a table there.
        logger.log_text(key=REPORT_TAG, columns=["report"], data=[[markdown]], step=step)
        return
    experiment = getattr(logger, "experiment", None)
    if callable(getattr(experiment, "add_text", None)):
        experiment.add_text(REPORT_TAG, markdown, global_step=step)  # type: ignore[union-attr]
        flush = getattr(experiment, "flush", None)
        if callable(flush):
            flush()
        return
    parameters = _parameters(getattr(experiment, "log_text", None))
    if "artifact_file" in parameters:
        # MLflow: a file of the run, overwritten each time.
        experiment.log_text(run_id=logger.run_id, text=markdown, artifact_file=f"{REPORT_TAG}.md")  # type: ignore[union-attr]
    elif "text" in parameters and "step" in parameters:
        # Comet.
        experiment.log_text(markdown, step=step)  # type: ignore[union-attr]


def _write_snapshot(logger: Any, data: bytes, step: int) -> None:
    experiment = getattr(logger, "experiment", None)
    package = type(experiment).__module__
    if not package.startswith(("torch.utils.tensorboard", "tensorboardX")):
        return
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=f'{{"version": {VERSION}}}'.encode())
    # Without a data class TensorBoard's data provider does not list the tag.
    metadata = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)
    value = Summary.Value(tag=TAG, metadata=metadata, tensor=TensorProto(dtype=DT_STRING, string_val=[data]))
    summary = Summary(value=[value])
    if package.startswith("tensorboardX"):
        from tensorboardX.proto.summary_pb2 import Summary as OtherSummary

        # Its messages are a copy of the same that lacks the data class: what it does not know it keeps as it is.
        summary = OtherSummary.FromString(summary.SerializeToString())
    # tensorboardX writes from a thread that a flush does not wait for: what is read of a live run is two minutes late.
    # A closed writer opens a new file for whatever comes next; only this method does so.
    experiment._get_file_writer().add_summary(summary, step)  # type: ignore[union-attr]
    experiment.flush()  # type: ignore[union-attr]


def _show(logger: Any, pictures: Mapping[str, Any], spectrum: Spectrum | None, step: int) -> None:
    experiment = getattr(logger, "experiment", None)
    if callable(getattr(experiment, "add_image", None)):
        for tag, picture in pictures.items():
            experiment.add_image(tag, picture, global_step=step, dataformats="HWC")  # type: ignore[union-attr]
    if spectrum and callable(getattr(experiment, "add_histogram_raw", None)):
        points, counts = [x for x, _ in spectrum], [n for _, n in spectrum]
        # A bucket reaches from the limit before it to its own.
        edges = [(one + other) / 2 for one, other in pairwise(points)] + [points[-1]]
        experiment.add_histogram_raw(  # type: ignore[union-attr]
            SPECTRUM_TAG,
            min=points[0],
            max=points[-1],
            num=sum(counts),
            sum=sum(x * n for x, n in spectrum),
            sum_squares=sum(x * x * n for x, n in spectrum),
            bucket_limits=edges,
            bucket_counts=counts,
            global_step=step,
        )


def _parameters(function: Any) -> set[str]:
    if not callable(function):
        return set()
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()


def _regex(pattern: str, stem: str = "") -> str:
    return f"^{re.escape(stem)}{re.escape(pattern).replace(re.escape('*'), '.+')}$"


def _stem(logger: Any) -> str:
    """Returns what the logger itself puts before every tag: ``TensorBoardLogger(prefix=…)``."""
    prefix = getattr(logger, "_prefix", "")
    if not isinstance(prefix, str) or not prefix:
        return ""
    return f"{prefix}{getattr(logger, 'LOGGER_JOIN_CHAR', '-')}"


def _has_layout(experiment: Any) -> bool:
    """Whether the run has a layout already: of several in one run TensorBoard shows the last, so ours would hide it."""
    folder = getattr(experiment, "log_dir", None)
    if not isinstance(folder, (str, Path)):
        return False
    experiment.flush()
    for path in Path(folder).glob("events.out.tfevents.*"):
        with path.open("rb") as file:
            end = b""
            while (chunk := file.read(1 << 20)) and file.tell() <= _SEARCHED:
                if _LAYOUT_TAG in end + chunk:
                    return True
                end = chunk[-len(_LAYOUT_TAG) :]
    return False
