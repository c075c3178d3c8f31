from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tensorboardX
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment, DummyLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_doctor.sinks.letter import letter
from lightning_doctor.sinks.snapshot import snapshot
from lightning_doctor.sinks.snapshot_bytes import PLUGIN_NAME, TAG, encode, unpack
from lightning_doctor.sinks.tensorboard import Letterbox
from tests.sinks.reports import diverging, nasty

NAMES = ["train_loss", "val_loss/1", "grad_norm", "grad_norm/net.0", "learning_rate"]


def events(logger: TensorBoardLogger) -> EventAccumulator:
    return EventAccumulator(logger.log_dir, size_guidance={"tensors": 0, "scalars": 0}).Reload()


def layout(logger: TensorBoardLogger) -> layout_pb2.Layout:
    tensor = events(logger).Tensors("custom_scalars__config__")[-1].tensor_proto
    return layout_pb2.Layout.FromString(tensor.string_val[0])


@pytest.fixture
def board(tmp_path: Path) -> TensorBoardLogger:
    return TensorBoardLogger(tmp_path, name="run", version=0)


class Recorder:
    """A logger that has what a test gives it."""

    def __init__(self, experiment: Any = None, **attributes: Any) -> None:
        self.experiment = experiment
        self.metrics: list[tuple[dict[str, float], int]] = []
        for name, value in attributes.items():
            setattr(self, name, value)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((dict(metrics), step or 0))
        metrics.clear()


class Failing(Recorder):
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        raise ConnectionError("no route")


def test_scalars_lie_in_the_event_file_at_their_steps(board: TensorBoardLogger):
    box = Letterbox([board])
    for step in (0, 5, 10):
        box.scalars({"doctor/train_loss": 1.0 / (step + 1), "doctor/grad_norm": float("nan")}, step)
    board.experiment.flush()
    points = events(board).Scalars("doctor/train_loss")
    assert [point.step for point in points] == [0, 5, 10]
    # Event files hold float32.
    assert [point.value for point in points] == pytest.approx([1.0, 1 / 6, 1 / 11], rel=1e-6)
    assert box.failures() == []


def test_the_letter_is_in_the_event_file_at_once_and_as_written(board: TensorBoardLogger):
    text = letter(nasty())
    assert Letterbox([board]).text(text, 7)
    # No flush here: a run that is killed must leave its letter.
    (event,) = events(board).Tensors("doctor/report/text_summary")
    assert event.step == 7
    assert event.tensor_proto.string_val[0].decode("utf-8") == text


def test_an_unchanged_letter_is_not_written_again(board: TensorBoardLogger):
    box = Letterbox([board])
    first, second = letter(diverging()), letter(nasty())
    assert [box.text(text, step) for step, text in enumerate([first, first, second, second, first])] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert [event.step for event in events(board).Tensors("doctor/report/text_summary")] == [0, 2, 4]


def test_the_layout_holds_only_charts_that_have_data_and_its_patterns_only_their_series(board: TensorBoardLogger):
    Letterbox([board]).layout(NAMES)
    board.experiment.flush()
    (category,) = layout(board).category
    assert category.title == "Doctor"
    charts = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    tags = [f"doctor/{name}" for name in NAMES] + ["grad_norm", "doctor/grad_norm_total", "old_doctor/train_loss"]
    # re.match is what TensorBoard does with them.
    shown = {title: [t for t in tags if any(re.match(p, t) for p in patterns)] for title, patterns in charts.items()}
    assert shown == {
        "loss: training and validation": ["doctor/train_loss", "doctor/val_loss/1"],
        "gradient norm: before and after clipping": ["doctor/grad_norm"],
        "gradient norm by layer": ["doctor/grad_norm/net.0"],
        "learning rate": ["doctor/learning_rate"],
    }


def test_the_layout_grows_with_the_series_and_is_not_repeated(board: TensorBoardLogger):
    box = Letterbox([board])
    box.layout([])
    box.layout(["train_loss"])
    box.layout(["train_loss", "val_loss"])
    box.layout(["train_loss", "momentum"])
    board.experiment.flush()
    assert len(events(board).Tensors("custom_scalars__config__")) == 2
    assert [chart.title for chart in layout(board).category[0].chart][-1] == "momentum"


def test_a_layout_of_the_user_is_left_alone(board: TensorBoardLogger):
    board.experiment.add_custom_scalars({"Mine": {"loss": ["Multiline", ["loss"]]}})
    box = Letterbox([board])
    box.layout(["train_loss"])
    box.layout(["train_loss", "momentum"])
    board.experiment.flush()
    assert [category.title for category in layout(board).category] == ["Mine"]


def test_the_layout_finds_tags_that_the_logger_prefixes(tmp_path: Path):
    board = TensorBoardLogger(tmp_path, prefix="a.b")
    box = Letterbox([board])
    box.scalars({"doctor/train_loss": 1.0}, 0)
    box.layout(["train_loss"])
    board.experiment.flush()
    (tag,) = events(board).Tags()["scalars"]
    patterns = layout(board).category[0].chart[0].multiline.tag
    assert any(re.match(pattern, tag) for pattern in patterns)
    assert not any(re.match(pattern, tag.replace(".", "x")) for pattern in patterns)


def test_a_csv_logger_gets_the_scalars_and_no_text(tmp_path: Path):
    logger = CSVLogger(tmp_path)
    box = Letterbox([logger])
    box.scalars({"doctor/train_loss": 1.0}, 0)
    box.scalars({"doctor/train_loss": 0.5, "doctor/val_loss": 2.0}, 1)
    box.text("a letter", 1)
    box.layout(NAMES)
    logger.save()
    assert box.failures() == []
    rows = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    assert rows[0].split(",") == ["doctor/train_loss", "doctor/val_loss", "step"]
    assert len(rows) == 3


def test_a_logger_that_fails_is_dropped_once_and_the_others_go_on():
    well, broken = Recorder(), Failing()
    box = Letterbox([broken, well])
    for step in range(3):
        box.scalars({"doctor/train_loss": 1.0}, step)
    # The first logger's copy is its own: Recorder empties what it gets.
    assert well.metrics == [({"doctor/train_loss": 1.0}, step) for step in range(3)]
    (failure,) = box.failures()
    assert str(failure) == "Failing failed at writing scalars and gets no more: ConnectionError: no route"
    assert box.failures() == []


def test_one_copy_of_the_values_for_each_logger():
    first, second = Recorder(), Recorder()
    values = {"doctor/train_loss": 1.0}
    Letterbox([first, second]).scalars(values, 3)
    assert second.metrics == [({"doctor/train_loss": 1.0}, 3)]
    assert values == {"doctor/train_loss": 1.0}


def test_a_logger_whose_experiment_cannot_be_opened_is_dropped():
    class Offline(Recorder):
        experiment = property(lambda self: 1 / 0, lambda self, value: None)  # type: ignore[assignment]

    box = Letterbox([Offline()])
    box.text("a letter", 0)
    assert [type(failure.error) for failure in box.failures()] == [ZeroDivisionError]
    box.text("another", 1)
    assert box.failures() == []


def test_an_interrupt_passes_through():
    class Interrupted(Recorder):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Letterbox([Interrupted()]).scalars({"doctor/train_loss": 1.0}, 0)


@pytest.mark.parametrize(
    "loggers",
    [None, [], [DummyLogger()], [Recorder(None)], [Recorder(DummyExperiment())], [Recorder(object())]],
    ids=["None", "none", "fast_dev_run", "no experiment", "another rank", "knows nothing"],
)
def test_loggers_that_show_nothing_do_no_harm(loggers: list[Any] | None):
    box = Letterbox(loggers)
    box.scalars({"doctor/train_loss": 1.0}, 0)
    box.scalars({}, 0)
    box.layout(NAMES)
    assert box.text("a letter", 0)
    assert box.failures() == []


def test_a_logger_that_takes_text_as_a_table_gets_one():
    # The signature of Weights & Biases' logger in Lightning.
    got: dict[str, Any] = {}

    def log_text(key: str, columns: Any = None, data: Any = None, dataframe: Any = None, step: Any = None) -> None:
        got.update(key=key, columns=columns, data=data, step=step)

    Letterbox([Recorder(log_text=log_text)]).text("a letter", 4)
    assert got == {"key": "doctor/report", "columns": ["report"], "data": [["a letter"]], "step": 4}


def test_a_logger_that_takes_text_as_a_file_of_the_run_gets_one():
    # MlflowClient.log_text.
    got: list[tuple[str, str, str]] = []

    class Client:
        def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
            got.append((run_id, text, artifact_file))

    Letterbox([Recorder(Client(), run_id="r1")]).text("a letter", 4)
    assert got == [("r1", "a letter", "doctor/report.md")]


def test_a_logger_that_takes_text_with_a_step_gets_it():
    # comet_ml.Experiment.log_text.
    got: list[tuple[str, int | None]] = []

    class Experiment:
        def log_text(self, text: str, step: int | None = None, metadata: Any = None) -> None:
            got.append((text, step))

    Letterbox([Recorder(Experiment())]).text("a letter", 4)
    assert got == [("a letter", 4)]


def test_a_function_of_that_name_with_another_signature_is_not_called():
    class Experiment:
        def log_text(self, name: str, x: float) -> None:
            raise AssertionError

    box = Letterbox([Recorder(Experiment())])
    box.text("a letter", 4)
    assert box.failures() == []


def test_a_snapshot_is_in_the_event_file_at_once_under_the_plugins_name_and_not_twice(board: TensorBoardLogger):
    box = Letterbox([board])
    first, second = encode(diverging()), encode(nasty())
    for step, data in enumerate([first, first, second, second]):
        box.snapshot(data, step)
    # No flush here: a run that is killed must leave what it was seen by.
    written = events(board)
    assert [(event.step, event.tensor_proto.string_val[0]) for event in written.Tensors(TAG)] == [
        (0, first),
        (2, second),
    ]
    plugin = written.SummaryMetadata(TAG).plugin_data
    assert (plugin.plugin_name, plugin.content) == ("doctor", b'{"version": 1}')
    assert box.failures() == []


def test_a_snapshot_by_a_writer_of_tensorboardx_is_listed_and_read_like_any_other(tmp_path: Path):
    writer = tensorboardX.SummaryWriter(str(tmp_path))
    box = Letterbox([Recorder(writer)])
    box.snapshot(encode(nasty()), 1)
    box.snapshot(encode(diverging()), 7)
    # A thread of its own writes, as often as its writer was told to.
    writer.close()
    assert box.failures() == []
    multiplexer = EventMultiplexer(tensor_size_guidance={PLUGIN_NAME: 1}).AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = RequestContext()
    # By the data provider, as the tab reads: it lists only what has a data class.
    (listed,) = provider.list_tensors(context, experiment_id="", plugin_name=PLUGIN_NAME).values()
    assert listed[TAG].max_step == 7
    (series,) = provider.read_tensors(context, experiment_id="", plugin_name=PLUGIN_NAME, downsample=1).values()
    assert unpack(series[TAG][-1].numpy.item()) == snapshot(diverging())


def test_a_snapshot_after_the_writer_was_closed_is_written_all_the_same(board: TensorBoardLogger):
    board.experiment.close()
    Letterbox([board]).snapshot(encode(diverging()), 3)
    assert [event.step for event in events(board).Tensors(TAG)] == [3]


@pytest.mark.parametrize("experiment", [None, object(), DummyExperiment()], ids=["none", "another", "another rank"])
def test_a_snapshot_for_loggers_without_event_files_does_no_harm(experiment: Any):
    box = Letterbox([Recorder(experiment)])
    box.snapshot(encode(diverging()), 0)
    assert box.failures() == []
