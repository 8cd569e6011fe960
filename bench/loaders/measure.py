"""A loader in a process of its own, which loads an epoch when it is told; its time by the clock and of processors."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from bench.loaders.data import Data, Loader
from ray_robust.train.allocator import keep_freed_memory

TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 1800.0  # seconds for an answer


@dataclass(frozen=True)
class Epoch:
    """How many images came, in how many seconds by the clock and of processors, and the bytes read from a disk."""

    images: int
    wall: float
    cpu: float
    read: int


class Process:
    """A loader; every method raises RuntimeError with what it raised, after which it has ended."""

    def __init__(self, make: type[Loader], log: Path) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, there = context.Pipe()
        sys.stdout.flush()
        self.process = context.Process(target=_serve, args=(there, make, log))
        self.process.start()
        there.close()

    def write(self, data: Data, folder: Path) -> int:
        """Write its data into a folder, to be loaded from now on; return the bytes on disk."""
        return self._ask(_Work.write, data, folder)

    def epoch(self, cores: int, cold: bool, seconds: float) -> Epoch:
        """Load epochs on so many cores until they have taken so many seconds of processors; `cold`: one, before which
        nothing of its files is in memory."""
        return self._ask(_Work.epoch, cores, cold, seconds)

    def _ask(self, *question: Any) -> Any:
        try:
            self.pipe.send(question)
            if not self.pipe.poll(PATIENCE):
                raise RuntimeError(f"no answer within {PATIENCE:.0f} s")
            reply = self.pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError("its process has ended") from None
        if isinstance(reply, str):
            raise RuntimeError(reply)
        return reply

    def end(self) -> None:
        """End it, and what it has started."""
        for pid in _tree(self.process.pid or 0)[::-1]:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.join()


class _Work:
    """What the process of a loader does."""

    def __init__(self, make: type[Loader]) -> None:
        self.make = make

    def write(self, data: Data, folder: Path) -> int:
        self.loader, self.data, self.folder = self.make(data), data, folder
        folder.mkdir(parents=True)
        self.loader.write(folder)
        os.sync()
        return sum(file.stat().st_size for file in _files(folder))

    def epoch(self, cores: int, cold: bool, seconds: float) -> Epoch:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(os.getppid()))[:cores])
        if cold:
            gc.collect()
            forget(self.folder)
        images, cpu, read, begun = 0, _cpu(), _read(), time.perf_counter()
        while True:
            for batch in self.loader.epoch(cores):
                images += len(batch)
            used = _cpu() - cpu
            if cold or used >= seconds:
                break
        wall, read = time.perf_counter() - begun, _read() - read
        px = self.data.px
        assert batch.shape[1:] == (3, px, px), f"images of {tuple(batch.shape)}"
        assert batch.dtype == torch.float32, f"images of {batch.dtype}"
        assert batch.abs().max() < 4, "images that are not normalised"
        return Epoch(images, wall, used, read)


def _serve(pipe: Connection, make: type[Loader], log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
    torch.set_num_threads(1)
    keep_freed_memory()  # as the worker of a trial does: for every loader alike, and what it forks
    try:
        work = _Work(make)
        while True:
            do, *arguments = pipe.recv()
            pipe.send(do(work, *arguments))
    except EOFError:
        os._exit(0)
    except BaseException as error:
        traceback.print_exc()
        pipe.send(f"{type(error).__name__}: {error}".strip().splitlines()[0][:200])
        os._exit(1)


def forget(folder: Path) -> None:
    """Have the system drop what it holds of the files below a folder."""
    for file in _files(folder):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.resolve().rglob("*") if file.is_file()]


def _tree(root: int) -> list[int]:
    """The ids of a process and of all that descend from it."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            parents[int(name)] = int(_stat(int(name))[1])
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may have spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu() -> float:
    """Seconds of processors of this process, all below it, and those of them that have ended."""
    ticks = sum(int(number) for number in _stat(os.getpid())[13:15])  # of workers that have ended
    for pid in _tree(os.getpid())[1:]:
        with suppress(OSError):
            ticks += sum(int(number) for number in _stat(pid)[11:15])
    return time.process_time() + ticks / TICK


def _read() -> int:
    """Bytes that the same have had read from disks."""
    total = 0
    for pid in _tree(os.getpid()):
        with suppress(OSError):
            total += int(Path(f"/proc/{pid}/io").read_text().partition("\nread_bytes: ")[2].partition("\n")[0])
    return total
