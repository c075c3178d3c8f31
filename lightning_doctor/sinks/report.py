"""``doctor.json``: the report beside the event file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from stat import S_ISREG
from typing import Any, NoReturn

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.report import Report

FILE_NAME = "doctor.json"
# That of a network of a thousand layers takes some three millions.
_MOST = 1 << 26


def write(report: Report, folder: str | os.PathLike[str]) -> Path:
    """Writes the report as ``doctor.json``, whole or not at all.

    A reader sees the old file or the new one, never a part of either.

    Args:
        report: What to write.
        folder: Where; it is made where it does not exist.

    Returns:
        The path of the file.

    Raises:
        OSError: Where the folder cannot be written to. Nothing is left behind.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    # In the same folder, for only within one file system is a rename atomic. os.urandom leaves the run's random
    # numbers alone; a plain open gives the mode that any file of the user would have.
    temporary = folder / f".{FILE_NAME}.{os.urandom(6).hex()}"
    try:
        with open(temporary, "xb") as file:
            file.write(_encode(report.to_dict()))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def read(path: str | os.PathLike[str]) -> Report:
    """Reads a report.

    Args:
        path: The file, or the folder that holds ``doctor.json``.

    Raises:
        FileNotFoundError: Where there is none.
        MalformedError: Where it is not a report that this version can read; the message says why.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    status = path.stat()
    if not S_ISREG(status.st_mode):
        # A pipe or a device may never end.
        raise MalformedError(f"{path} must be a file, and is a folder, a pipe or a device")
    if status.st_size > _MOST:
        raise MalformedError(f"{path} takes {status.st_size:,} bytes; no report takes more than {_MOST:,}")
    content = path.read_bytes()
    if not content.strip():
        raise MalformedError(f"{path} is empty")
    try:
        data = json.loads(content.decode("utf-8-sig"), parse_constant=_refuse)
        return Report.from_dict(data)
    except UnicodeDecodeError as error:
        raise MalformedError(f"{path} is not text: byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise MalformedError(f"{path} is not JSON: {error}") from error
    except RecursionError as error:
        raise MalformedError(f"{path} is nested too deeply to be a report") from error
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise MalformedError(f"{path} cannot be read: {error}") from error


def _encode(table: dict[str, Any]) -> bytes:
    # One line a key: to be looked at, and not a line for each of thousands of numbers.
    lines = (
        f"{json.dumps(key)}: {json.dumps(item, ensure_ascii=False, allow_nan=False)}" for key, item in table.items()
    )
    # Half a surrogate pair, as in an undecodable file name, has no UTF-8; the replacement is its JSON escape.
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "backslashreplace")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
