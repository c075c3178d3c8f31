from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_doctor.callbacks.free_memory import free_memory

CPU = torch.device("cpu")


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 100 kB\nMemFree: 20 kB\nMemAvailable: 80 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_pages_of_files_that_would_be_given_up_are_free(tmp_path: Path) -> None:
    assert free_memory(CPU, root=machine(tmp_path, {})) == 80 * 1024
    assert free_memory(CPU, 4, root=tmp_path) == 20 * 1024


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    files = {
        "memory.max": "50000\n",
        "memory.current": "40000\n",
        "memory.stat": "anon 1\ninactive_file 9000\nactive_file 6000\n",
    }
    root = machine(tmp_path, {"proc/self/cgroup": "0::/\n", **{f"sys/fs/cgroup/{n}": t for n, t in files.items()}})
    assert free_memory(CPU, root=root) == 25_000


def test_so_does_that_of_a_group_above_and_none_is_no_limit(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/job/step\n",
        "sys/fs/cgroup/job/step/memory.max": "max\n",
        "sys/fs/cgroup/job/step/memory.current": "30000\n",
        "sys/fs/cgroup/job/memory.max": "45000\n",
        "sys/fs/cgroup/job/memory.current": "30000\n",
    }
    assert free_memory(CPU, root=machine(tmp_path, files)) == 15_000


def test_control_groups_of_the_first_version_are_read(tmp_path: Path) -> None:
    files = {
        "memory.limit_in_bytes": "9000",
        "memory.usage_in_bytes": "8000",
        "memory.stat": "total_inactive_file 500\ntotal_active_file 100",
    }
    folder = "sys/fs/cgroup/memory/docker/abc"
    lines = "5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n"
    root = machine(tmp_path, {"proc/self/cgroup": lines, **{f"{folder}/{n}": t for n, t in files.items()}})
    assert free_memory(CPU, root=root) == 1_600


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": "10", "sys/fs/cgroup/memory.current": "20", "proc/self/cgroup": "0::/"}
    assert free_memory(CPU, root=machine(tmp_path, files)) == 0


def test_a_system_without_these_files_says_what_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_memory(CPU, root=tmp_path)
    assert free is not None
    assert free > 0

    def unknown(_: str) -> int:
        raise ValueError

    monkeypatch.setattr("os.sysconf", unknown)
    assert free_memory(CPU, root=tmp_path) is None


def test_this_machine_has_memory() -> None:
    assert (free_memory(CPU) or 0) > 1 << 20
