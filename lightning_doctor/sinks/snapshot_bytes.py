"""Snapshots as they lie in an event file: compressed JSON, under a byte cap, with a version."""

from __future__ import annotations

import json
import zlib
from typing import Any

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.report import Report
from lightning_doctor.sinks.snapshot import VERSION, Detail, snapshot

PLUGIN_NAME = "doctor"
TAG = "doctor/snapshot"
CAP = 1 << 16
"""The most that one snapshot takes in an event file [bytes]."""

# Long before what a zip bomb makes of so few bytes.
_MOST = 1 << 24
# From all there is to what always fits: first curves get coarser, then sentences shorter, then the last findings go.
_DETAILS = (
    Detail(),
    Detail(points=100, text=2000),
    Detail(points=40, text=500, findings=200),
    Detail(points=20, text=160, findings=50, evidence=12),
    Detail(points=10, text=60, findings=10, evidence=3),
)


def encode(report: Report) -> bytes:
    """Returns the richest snapshot of a report that the cap allows.

    Raises:
        ValueError: Where not even the poorest fits.
    """
    for detail in _DETAILS:
        data = pack(snapshot(report, detail))
        if len(data) <= CAP:
            return data
    raise ValueError(f"a snapshot of this report takes {len(data)} bytes; {CAP} are allowed")


def pack(table: dict[str, Any]) -> bytes:
    """Returns a snapshot as bytes."""
    text = json.dumps(table, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half a surrogate pair has no UTF-8.
    return zlib.compress(text.encode("utf-8", "replace"), 6)


def unpack(data: Any) -> dict[str, Any]:
    """Reads a snapshot.

    Raises:
        MalformedError: Where it is none, or one of another version; the message says which.
    """
    if not isinstance(data, bytes):
        raise MalformedError(f"a snapshot must be bytes, got {type(data).__name__}")
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(data, _MOST)
        if reader.unconsumed_tail or not reader.eof:
            raise MalformedError("a snapshot is cut off, or longer than any that a doctor writes")
        table = json.loads(text.decode("utf-8"))
    except (zlib.error, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise MalformedError(f"not a doctor's snapshot: {error}") from error
    if not isinstance(table, dict) or "version" not in table:
        raise MalformedError("not a doctor's snapshot: it must be an object with a version")
    version = table["version"]
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        advice = "update lightning-doctor where TensorBoard runs" if newer else "read its doctor.json instead"
        raise MalformedError(f"the snapshot has version {str(version)[:20]}, this one reads {VERSION}: {advice}")
    return table
