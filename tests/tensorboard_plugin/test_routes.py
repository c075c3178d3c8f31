from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from tensorboard import errors
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.data.provider import DataProvider
from werkzeug.test import Client, TestResponse

from lightning_doctor.sinks.snapshot import VERSION, snapshot
from lightning_doctor.sinks.snapshot_bytes import encode, pack
from lightning_doctor.tensorboard_plugin.loader import DoctorLoader
from lightning_doctor.tensorboard_plugin.plugin import MOST_COMPARED, DoctorPlugin
from tests.sinks.reports import NASTY, diverging, healthy, nasty, overfitting
from tests.tensorboard_plugin.logs import plain, write


class Board:
    """The plugin on a log directory, as TensorBoard serves it but without a process."""

    def __init__(self, folder: Path) -> None:
        self.multiplexer = EventMultiplexer(tensor_size_guidance={"doctor": 1})
        self.multiplexer.AddRunsFromDirectory(str(folder))
        self.reload()
        provider = MultiplexerDataProvider(self.multiplexer, str(folder))
        plugin = DoctorLoader().load(SimpleNamespace(data_provider=provider))
        self.clients = {route: Client(app) for route, app in plugin.get_plugin_apps().items()}

    def reload(self) -> None:
        self.multiplexer.Reload()

    def open(self, route: str, query: str = "", method: str = "GET") -> TestResponse:
        return self.clients[route].open(f"{route}?{query}", method=method)

    def json(self, route: str, query: str = "") -> Any:
        answer = self.open(route, query)
        assert (answer.status_code, answer.mimetype) == (200, "application/json")
        return answer.json


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    write(tmp_path / "a" / "ill", [(0, encode(healthy())), (600, encode(diverging()))])
    write(tmp_path / "a" / "well", [(1000, encode(healthy()))])
    write(tmp_path / "over", [(300, encode(overfitting()))])
    plain(tmp_path / "untreated")
    return tmp_path


def test_the_runs_are_listed_with_their_newest_verdict_and_those_without_a_report_apart(logs: Path):
    listed = Board(logs).json("/runs")
    assert {run["run"]: (run["state"], run["step"]) for run in listed["runs"]} == {
        "a/ill": ("ill", 600),
        "a/well": ("well", 1000),
        "over": ("watch", 300),
    }
    assert listed["others"] == ["untreated"]
    course = next(run["course"] for run in listed["runs"] if run["run"] == "a/ill")
    assert course == [["LD102", "error", 240, 250, None], ["LD107", "note", 31, 50, 150]]


def test_what_is_known_already_is_not_sent_again_until_there_is_something_new(logs: Path):
    board = Board(logs)
    mark = board.json("/runs")["fingerprint"]
    assert board.json("/runs", f"known={mark}") == {"fingerprint": mark, "unchanged": True}
    write(logs / "a" / "well", [(1200, encode(overfitting()))])
    board.reload()
    after = board.json("/runs", f"known={mark}")
    assert next(run["state"] for run in after["runs"] if run["run"] == "a/well") == "watch"
    assert board.json("/run", "run=a/well")["verdict"] == snapshot(overfitting())["verdict"]


def test_a_run_is_sent_as_it_was_written(logs: Path):
    assert Board(logs).json("/run", "run=a/ill") == snapshot(diverging())


def test_hostile_text_comes_through_as_text(tmp_path: Path):
    write(tmp_path / "nasty", [(0, encode(nasty()))])
    board = Board(tmp_path)
    assert board.json("/run", "run=nasty")["state"] == "ill"
    answer = board.open("/run", "run=nasty")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pack({**snapshot(healthy()), "version": VERSION + 1}), f"version {VERSION + 1}, this one reads {VERSION}"),
        (pack({**snapshot(healthy()), "version": 0}), f"version 0, this one reads {VERSION}"),
        (b"not a snapshot", "not a doctor's snapshot"),
    ],
    ids=["newer", "older", "damaged"],
)
def test_a_snapshot_that_cannot_be_read_is_listed_with_the_reason_beside_the_others(logs: Path, data: bytes, said: str):
    write(logs / "strange", [(5, data)])
    board = Board(logs)
    states = {run["run"]: (run["state"], run["verdict"]) for run in board.json("/runs")["runs"]}
    assert states["strange"][0] == "unread"
    assert said in states["strange"][1]
    assert states["a/ill"][0] == "ill"
    assert said in board.json("/run", "run=strange")["error"]
    compared = board.json("/compare", "run=strange&run=a/ill&run=a/well")
    assert [run["run"] for run in compared["runs"]] == ["a/ill", "a/well"]
    assert said in compared["errors"][0]


def test_runs_are_compared_as_the_command_compares_them(tmp_path: Path):
    losses = {"good": 0.1, "bad": 1.5}
    for name, end in losses.items():
        report = healthy()
        for step in range(200):
            report.history.record("train_loss", step, end + 2.0 * 0.9**step)
        write(tmp_path / name, [(200, encode(report))])
    told = Board(tmp_path).json("/compare", "run=good&run=bad")
    assert {row[0]: row[-1].partition(" ")[0] for row in told["rows"]} == {"good": "nothing", "bad": "optimization"}
    assert any(line.startswith("best by training: good") for line in told["lines"])
    assert {run["run"]: run["signals"]["train_loss"]["steps"][-1] for run in told["runs"]} == {"good": 199, "bad": 199}


def test_a_manual_page_is_sent_whole(logs: Path):
    page = Board(logs).json("/rule", "code=LD504")
    assert page["name"] == "stale_validation"
    headings = [section["heading"] for section in page["sections"]]
    assert headings[:3] == ["What it looks at", "Why it matters", "Sick"]
    thresholds = next(section["paragraphs"] for section in page["sections"] if section["heading"] == "Thresholds")
    assert [text.split(":")[0] for text in thresholds] == ["patience", "sigmas"]


BAD = [
    ("/runs", "known=a&known=b"),
    ("/runs", "what=1"),
    ("/run", ""),
    ("/run", "run="),
    ("/run", "run=nowhere"),
    ("/run", "run=untreated"),
    ("/run", "run=a/ill&run=a/well"),
    ("/run", "run=a/ill&tag=x"),
    ("/run", "run=../../etc/passwd"),
    ("/run", "run=a/../a/ill"),
    ("/run", "run=%2Fetc%2Fpasswd"),
    ("/run", "run=a%2Fill%00"),
    ("/run", f"run={quote(NASTY.encode('utf-8', 'replace'))}"),
    ("/run", "run=" + "x" * 10_000),
    ("/compare", ""),
    ("/compare", "run=a/ill"),
    ("/compare", "run=a/ill&run=a/ill"),
    ("/compare", "run=a/ill&run=nowhere"),
    ("/compare", "&".join(f"run=r{index}" for index in range(MOST_COMPARED + 1))),
    ("/compare", "run=a/ill&run=a/well&how=1"),
    ("/rule", ""),
    ("/rule", "code=LD999"),
    ("/rule", "code=../plugin"),
    ("/rule", "code=" + "L" * 10_000),
    ("/rule", "code=LD101&code=LD102"),
]


@pytest.mark.parametrize(("route", "query"), BAD, ids=[f"{route} {query[:40]}" for route, query in BAD])
def test_a_parameter_that_cannot_be_is_answered_with_400_and_plain_text(logs: Path, route: str, query: str):
    answer = Board(logs).open(route, query)
    assert (answer.status_code, answer.mimetype) == (400, "text/plain")
    assert len(answer.text) < 200
    assert "etc" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_only_get_is_answered(logs: Path, method: str):
    board = Board(logs)
    for route in board.clients:
        answer = board.open(route, method=method)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET"), route


def test_the_files_of_the_tab_are_served_with_their_types_and_no_other_route_is(logs: Path):
    board = Board(logs)
    served = {route: board.open(route).mimetype for route in board.clients if "." in route}
    assert served["/style.css"] == "text/css"
    assert {kind for route, kind in served.items() if route.endswith(".js")} == {"application/javascript"}
    assert {route for route in board.clients if "." not in route} == {"/runs", "/run", "/compare", "/rule"}


def test_the_plugin_reads_by_the_data_provider_alone(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    class Provider(DataProvider):  # type: ignore[misc]
        def list_runs(self, ctx: Any = None, *, experiment_id: str) -> list[Any]:
            asked.append(experiment_id)
            return []

        def list_tensors(self, ctx: Any = None, *, experiment_id: str, plugin_name: str, run_tag_filter: Any) -> Any:
            asked.append(plugin_name)
            return {}

        def __getattribute__(self, name: str) -> Any:
            if name.startswith("read_") and name != "read_tensors":
                raise AssertionError(name)
            return super().__getattribute__(name)

    Provider.__abstractmethods__ = frozenset()
    plugin = DoctorPlugin(SimpleNamespace(data_provider=Provider(), logdir="/nowhere"))
    apps = plugin.get_plugin_apps()
    opened: list[Any] = []
    refuse: Callable[..., Any] = lambda *arguments, **options: opened.append(arguments)  # noqa: E731
    monkeypatch.setattr("builtins.open", refuse)
    answer = Client(apps["/runs"]).get("/runs")
    monkeypatch.undo()
    assert answer.json["runs"] == []
    assert asked == ["doctor", ""]
    assert opened == []


def test_an_error_of_the_data_provider_is_left_to_tensorboard():
    class Provider:
        def list_tensors(self, *arguments: Any, **options: Any) -> Any:
            raise errors.PermissionDeniedError("not yours")

    apps = DoctorPlugin(SimpleNamespace(data_provider=Provider())).get_plugin_apps()
    with pytest.raises(errors.PermissionDeniedError):
        Client(apps["/runs"]).get("/runs")


def test_without_a_data_provider_there_is_no_tab():
    assert DoctorLoader().load(SimpleNamespace(data_provider=None)) is None


@pytest.mark.parametrize(("given", "wanted"), [({}, 1), ({"doctor": 50}, 50)])
def test_the_newest_snapshot_is_enough_unless_the_user_wants_more(given: dict[str, int], wanted: int):
    flags = SimpleNamespace(samples_per_plugin={"images": 7, **given})
    DoctorLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"images": 7, "doctor": wanted}
