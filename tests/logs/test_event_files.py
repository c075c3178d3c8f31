from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.logs.event_files import _masked_checksum, read_events


def written(folder: Path, values: dict[str, list[float]], **how: bool) -> Path:
    """One event file by torch's own writer."""
    before = set(folder.glob("*tfevents*"))
    with SummaryWriter(str(folder), filename_suffix=f".{len(before)}") as writer:
        for tag, its in values.items():
            for step, value in enumerate(its):
                writer.add_scalar(tag, value, step, **how)
    (path,) = set(folder.glob("*tfevents*")) - before
    return path


def raw(path: Path, events: list[Event]) -> Path:
    with path.open("wb") as file:
        records = RecordWriter(file)
        for event in events:
            records.write(event.SerializeToString())
    return path


def scalar(tag: str, step: int, value: float) -> Event:
    return Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))


def test_the_checksum_is_that_of_the_castagnoli_polynomial() -> None:
    # RFC 3720, appendix B.4: 32 bytes of zeros have the CRC-32C 8a9136aa; masked as TFRecord asks.
    crc = 0x8A9136AA
    assert _masked_checksum(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize(
    "how", [{}, {"new_style": True}, {"double_precision": True}], ids=["simple", "new_style", "double"]
)
def test_scalars_of_every_style_that_torch_writes_are_read(tmp_path: Path, how: dict[str, bool]) -> None:
    path = written(tmp_path, {"loss": [1.5, 0.25, math.nan], "acc": [0.5]}, **how)
    curves = read_events([path])
    assert curves.points["loss"][:2] == [(0, 1.5), (1, 0.25)]
    assert math.isnan(curves.points["loss"][2][1])
    assert curves.points["acc"] == [(0, 0.5)]
    assert curves.notes == []


def test_every_one_of_many_values_is_read(tmp_path: Path) -> None:
    # TensorBoard's own reader keeps a sample of 10,000 scalars and of 10 tensors.
    simple = [scalar("loss", step, step / 2) for step in range(10_050)]
    curves = read_events([raw(tmp_path / "events.out.tfevents.1", simple)])
    assert [step for step, _ in curves.points["loss"]] == list(range(10_050))
    path = written(tmp_path, {"loss": [0.5] * 1050}, new_style=True)
    assert len(read_events([path]).points["loss"]) == 1050


def test_what_is_no_scalar_is_passed_over(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_text("letter", "hello", 0)
        writer.add_histogram("weights", np.arange(10.0), 0)
        writer.add_image("picture", np.zeros((3, 40, 40)), 0)
        writer.add_scalar("loss", 1.0, 0)
    (path,) = tmp_path.iterdir()
    assert list(read_events([path]).points) == ["loss"]


def test_a_tensor_that_declares_more_than_one_number_is_not_unfolded(tmp_path: Path) -> None:
    value = Summary.Value(tag="bomb")
    value.metadata.plugin_data.plugin_name = "scalars"
    value.tensor.dtype = 1
    value.tensor.float_val.append(1.0)
    value.tensor.tensor_shape.dim.add(size=2**40)
    path = raw(tmp_path / "events.out.tfevents.1", [Event(summary=Summary(value=[value])), scalar("loss", 0, 1.0)])
    assert list(read_events([path]).points) == ["loss"]


def test_a_purge_drops_what_the_earlier_file_had_written_from_that_step_on(tmp_path: Path) -> None:
    first = raw(tmp_path / "events.out.tfevents.1", [scalar("loss", step, 9.0) for step in range(10)])
    start = Event(step=4, session_log=SessionLog(status=SessionLog.START))
    second = raw(tmp_path / "events.out.tfevents.2", [start, scalar("loss", 6, 1.0)])
    assert read_events([first, second]).points["loss"] == [*((step, 9.0) for step in range(4)), (6, 1.0)]


def test_a_resumed_run_replaces_what_it_overlaps_and_says_so(tmp_path: Path) -> None:
    first = raw(tmp_path / "events.out.tfevents.1", [scalar("loss", step, 9.0) for step in range(10)])
    second = raw(tmp_path / "events.out.tfevents.2", [scalar("loss", step, 1.0) for step in range(7, 12)])
    curves = read_events([first, second])
    assert [step for step, _ in curves.points["loss"]] == list(range(12))
    assert [value for _, value in curves.points["loss"]] == [9.0] * 7 + [1.0] * 5
    assert any("went back" in note for note in curves.notes)


def test_a_truncated_file_gives_what_came_before_the_cut(tmp_path: Path) -> None:
    path = written(tmp_path, {"loss": [1.0] * 50})
    path.write_bytes(path.read_bytes()[:-7])
    curves = read_events([path])
    assert len(curves.points["loss"]) == 49
    assert any("ends inside a record" in note for note in curves.notes)


def test_a_record_that_does_not_fit_its_checksum_is_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    path = raw(tmp_path / "events.out.tfevents.1", [scalar("loss", step, 1.0) for step in range(5)])
    content = bytearray(path.read_bytes())
    # All five records are alike in length; the value's bytes stand last in a record, before four of checksum.
    length = len(content) // 5
    content[3 * length - 6] ^= 0xFF
    path.write_bytes(content)
    curves = read_events([path])
    assert [step for step, _ in curves.points["loss"]] == [0, 1, 3, 4]
    assert any("does not fit its checksum" in note for note in curves.notes)


def test_a_length_beyond_the_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, {"loss": [1.0]})
    header = struct.pack("<Q", 2**62)
    with path.open("ab") as file:
        file.write(header + struct.pack("<I", _masked_checksum(header)))
    assert read_events([path]).points["loss"] == [(0, 1.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x00\x01", "ends inside a record"),
        (b"\x80\x04\x95" + bytes(range(256)), "not a TensorBoard event record"),
        (b"step,loss\n0,1.0\n1,0.5\n", "not a TensorBoard event record"),
    ],
)
def test_a_file_without_one_readable_event_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(content)
    with pytest.raises(MalformedError, match=message):
        read_events([path])


def test_an_empty_file_beside_a_full_one_does_no_harm(tmp_path: Path) -> None:
    empty = tmp_path / "events.out.tfevents.0"
    empty.touch()
    curves = read_events([empty, written(tmp_path, {"loss": [1.0, 2.0]})])
    assert len(curves.points["loss"]) == 2
    assert curves.notes == []
