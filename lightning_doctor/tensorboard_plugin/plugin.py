"""The routes of the Doctor tab: read-only, and all data comes from TensorBoard's data provider."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from tensorboard import plugin_util
from tensorboard.backend.http_util import Respond
from tensorboard.plugins.base_plugin import FrontendMetadata, TBPlugin
from werkzeug.wrappers import Request, Response

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.sinks.snapshot_bytes import PLUGIN_NAME
from lightning_doctor.tensorboard_plugin.reading import Snapshots, fingerprint
from lightning_doctor.tensorboard_plugin.views import brief, compared, manual_page

_TYPES = {".js": "application/javascript", ".css": "text/css"}
# More do not fit beside each other.
MOST_COMPARED = 12

Answer = Callable[[Request], Any]


class BadRequestError(ValueError):
    """A parameter that cannot be; the message says what would be right."""


class DoctorPlugin(TBPlugin):  # type: ignore[misc]
    """Serves the Doctor tab.

    Args:
        context: TensorBoard's.
    """

    plugin_name = PLUGIN_NAME

    def __init__(self, context: Any) -> None:
        self._snapshots = Snapshots(context.data_provider)

    def is_active(self) -> bool:
        """Whether there is data: TensorBoard knows that itself, by the plugin's name in the event files."""
        return False

    def frontend_metadata(self) -> FrontendMetadata:
        """Says what the tab is called and where its script is."""
        return FrontendMetadata(es_module_path="/index.js", tab_name="Doctor")

    def get_plugin_apps(self) -> dict[str, Any]:
        """Returns the routes: files that are read now, so that no request ever names a file, and four answers."""
        apps: dict[str, Any] = {}
        for file in (files("lightning_doctor.tensorboard_plugin") / "static").iterdir():
            kind = _TYPES.get(file.name[file.name.rfind(".") :])
            if kind is not None:
                apps[f"/{file.name}"] = _asset(file.read_bytes(), kind)
        answers: dict[str, Answer] = {"/runs": self._runs, "/run": self._run, "/compare": self._compare, "/rule": _rule}
        return apps | {route: _answered(answer) for route, answer in answers.items()}

    def _runs(self, request: Request) -> Any:
        known = _one(request, "known", optional=True)
        ctx, experiment = _place(request)
        stamps = self._snapshots.stamps(ctx, experiment)
        others = self._snapshots.others(ctx, experiment, stamps)
        mark = fingerprint(stamps, others)
        if known == mark:
            return {"fingerprint": mark, "unchanged": True}
        tables = self._snapshots.read(ctx, experiment, stamps)
        runs = [brief(run, list(stamps[run]), table) for run, table in tables.items()]
        return {"fingerprint": mark, "runs": runs, "others": others}

    def _run(self, request: Request) -> Any:
        run = _one(request, "run")
        ctx, experiment = _place(request)
        stamps = self._known(ctx, experiment, [run])
        table = self._snapshots.read(ctx, experiment, stamps).get(run)
        if table is None:
            raise BadRequestError("this run has no snapshot any more")
        return {"error": str(table)} if isinstance(table, MalformedError) else table

    def _compare(self, request: Request) -> Any:
        _only(request, "run")
        runs = request.args.getlist("run")
        if not 2 <= len(set(runs)) == len(runs) <= MOST_COMPARED:
            raise BadRequestError(f"there must be 2 to {MOST_COMPARED} different runs to compare, got {len(runs)}")
        ctx, experiment = _place(request)
        tables = self._snapshots.read(ctx, experiment, self._known(ctx, experiment, runs))
        return compared({run: tables[run] for run in runs if run in tables})

    def _known(self, ctx: Any, experiment: str, runs: list[str]) -> dict[str, Any]:
        stamps = self._snapshots.stamps(ctx, experiment)
        if not set(runs) <= set(stamps):
            raise BadRequestError("run must be one of those that /runs lists")
        return {run: stamps[run] for run in runs}


def _rule(request: Request) -> Any:
    code = _one(request, "code")
    try:
        return manual_page(code)
    except ValueError:
        raise BadRequestError("code must be that of a rule, as LD501") from None


def _asset(content: bytes, kind: str) -> Any:
    @Request.application
    def serve(request: Request) -> Response:
        return _refused(request) or Respond(request, content, kind)

    return serve


def _answered(answer: Answer) -> Any:
    @Request.application
    def serve(request: Request) -> Response:
        refused = _refused(request)
        if refused is not None:
            return refused
        try:
            # As text: a dict it would first copy piece by piece in Python.
            text, kind, code = json.dumps(answer(request), allow_nan=False), "application/json", 200
        except BadRequestError as error:
            text, kind, code = str(error), "text/plain", 400
        answered: Response = Respond(request, text, kind, code=code)
        return answered

    return serve


def _refused(request: Request) -> Response | None:
    if request.method == "GET":
        return None
    refused: Response = Respond(request, "only GET is allowed", "text/plain", code=405, headers=[("Allow", "GET")])
    return refused


def _place(request: Request) -> tuple[Any, str]:
    return plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)


def _one(request: Request, name: str, *, optional: bool = False) -> str:
    _only(request, name)
    values = request.args.getlist(name)
    if len(values) == 1 or (optional and not values):
        return "".join(values)
    raise BadRequestError(f"there must be one parameter {name}, got {len(values)}")


def _only(request: Request, name: str) -> None:
    if set(request.args) - {name}:
        raise BadRequestError(f"there is no parameter but {name}")
