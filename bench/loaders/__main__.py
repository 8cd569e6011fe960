"""How fast images get to a model's input: `python -m bench.loaders [--px 64 224 448] [--cores 1 2] [--rounds N]`.

The same photographs (short side 500 px) in the two stores of this project and in the formats of the loaders that people
use, which hold the same JPEGs as the compact store: its size, its quality. Every loader yields all images once per
epoch in random order, as random-resized crops, flipped or not, float32, normalised; only the raw store, whose squares
are of the model's size already, shifts them instead. Epochs take turns. A core's second is a second of processor time
of a loader's processes and threads, which neighbours on the machine disturb least; ratios are medians over the rounds
of the compact store's rate over that of each. The first epoch is not counted (workers start, code is compiled); cold:
after it all files were dropped from memory. DALI reads the next epoch before it is asked to, so that it has no cold
one, and that its rate is a little high where an epoch is short.

A loader that cannot be installed or fails is listed with its error. Where rivals are installed in an environment of
their own, the command is run by that one's Python.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median

from bench import command_of, print_table, show, write_table
from bench.loaders import ours, rivals
from bench.loaders.data import Data, Loader, make_pictures
from bench.loaders.measure import Epoch, Process

OURS = "compact store"
LOADERS: dict[str, tuple[type[Loader], str]] = {  # and the package whose version counts
    OURS: (ours.Compact, ""),
    "raw store": (ours.Raw, ""),
    "FFCV": (rivals.Ffcv, "ffcv"),
    "DALI, CPU": (rivals.Dali, "nvidia-dali-cuda130"),
    "WebDataset": (rivals.WebDataset, "webdataset"),
    "LitData": (rivals.LitData, "litdata"),
    "MosaicML Streaming": (rivals.MosaicStreaming, "mosaicml-streaming"),
    "Ray Data": (rivals.RayData, "ray"),
    "torchvision, DataLoader": (rivals.Torchvision, "torchvision"),
    "timm": (rivals.Timm, "timm"),
}
SHIFTED = "raw store"  # does less than the others: not compared
HEADER = ("px", "loader", "cores", "MB", "compact's MB over its", "images/s of a core", "cold",
          "compact store over it", "cold")  # fmt: skip
NOTES = ("loader", "version, or why it was not measured")
Key = tuple[int, str, int, bool]  # px, loader, cores, cold


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of the command."""
    parser = argparse.ArgumentParser("python -m bench.loaders", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--px", type=int, nargs="+", default=[64, 224, 448])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of processors, one measurement at least")
    parser.add_argument("--loaders", nargs="+", choices=LOADERS, default=list(LOADERS), metavar="NAME")
    parser.add_argument("--folder", type=Path, help="keeps the photographs (default: a temporary one)")
    parser.add_argument("--write", type=Path, help="put the table into this document")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure every size and print the table and the JSON line."""
    args = arguments(argv)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.folder) as folder:
        pictures = make_pictures((args.folder or Path(folder)) / f"pictures-{args.images}", args.images)
        bench = Bench(args.loaders, Path(folder))
        try:
            for px in args.px:
                bench.measure(Data(pictures, Path(folder, str(px)), px), args)
                print_table(HEADER, bench.rows(px))
        finally:
            bench.end()
    rows = [row for px in args.px for row in bench.rows(px)]
    listed = notes(versions(args.loaders), bench.failed)
    if args.write:
        write_table(args.write, "loaders", [HEADER, *rows], command_of("bench.loaders", argv))
        write_table(args.write, "versions of loaders", [NOTES, *listed])
    print_table(NOTES, listed)
    show(HEADER, rows, {"images": args.images, "failed": bench.failed, **bench.summary()})


def versions(names: Sequence[str]) -> dict[str, str]:
    """Return the version of each loader that is installed."""
    installed = {}
    for name in names:
        package = LOADERS[name][1]
        try:
            installed[name] = f"{package} {metadata.version(package)}" if package else "this project"
        except metadata.PackageNotFoundError:
            installed[name] = f"{package} is not installed"
    return installed


def notes(versions: dict[str, str], failed: dict[str, str]) -> list[tuple[str, str]]:
    """Return the rows of versions and of what failed."""
    return [(name, f"{version}: {failed[name]}" if name in failed else version) for name, version in versions.items()]


class Bench:
    """A process for each loader; one that fails is ended, and listed in `failed`."""

    def __init__(self, names: Sequence[str], logs: Path) -> None:
        self.failed: dict[str, str] = {}
        self.sizes: dict[tuple[int, str], int] = {}
        self.epochs: dict[Key, list[Epoch]] = {}
        self.processes = {name: Process(LOADERS[name][0], logs / f"{name.replace(' ', '-')}.log") for name in names}

    def measure(self, data: Data, args: argparse.Namespace) -> None:
        """Measure one size in every way."""
        data.root.mkdir()
        len(data.jpegs)  # made once, before every process gets them
        for name in list(self.processes):
            self._try(name, lambda process, name=name: self._write(process, data, name))
        for cores in args.cores:
            for turn in range(args.rounds + 1):
                for cold in (False, True) if turn else (False,):
                    for name in list(self.processes):
                        if cold and getattr(LOADERS[name][0], "reads_ahead", False):
                            continue  # what is timed was read before its files were dropped
                        key = (data.px, name, cores, cold)
                        self._try(name, partial(self._epoch, key, args.seconds if turn else 0.0, turn))

    def _write(self, process: Process, data: Data, name: str) -> None:
        self.sizes[data.px, name] = process.write(data, data.root / name.replace(" ", "-"))

    def _epoch(self, key: Key, seconds: float, turn: int, process: Process) -> None:
        epoch = process.epoch(key[2], key[3], seconds)
        print(f"{key} {turn}: {epoch}", flush=True)
        if turn:
            self.epochs.setdefault(key, []).append(epoch)

    def _try(self, name: str, work: Callable[[Process], None]) -> None:
        try:
            work(self.processes[name])
        except RuntimeError as error:
            self.processes.pop(name).end()
            self.failed[name] = str(error)
            print(f"{name}: {error}", flush=True)

    def over(self, key: Key) -> float | None:
        """Return the compact store's rate over another's: the median of the rounds' ratios."""
        px, name, cores, cold = key
        pairs = list(zip(self.epochs.get((px, OURS, cores, cold), []), self.epochs.get(key, []), strict=False))
        if name in (OURS, SHIFTED) or not pairs:
            return None
        return round(median(mine.images / mine.cpu * its.cpu / its.images for mine, its in pairs), 2)

    def rate(self, key: Key) -> str:
        """Return the images per second of a core, "" where there were none."""
        return f"{median(e.images / e.cpu for e in self.epochs[key]):,.0f}" if key in self.epochs else ""

    def rows(self, px: int) -> list[tuple[str, ...]]:
        """Return the rows of one size."""
        rows = []
        for warm in (key for key in self.epochs if key[0] == px and not key[3]):
            _, name, cores, _ = warm
            both, size = (warm, (px, name, cores, True)), self.sizes[px, name]
            ratios = ["" if (ratio := self.over(key)) is None else f"{ratio:.2f}" for key in both]
            of_bytes = f"{self.sizes[px, OURS] / size:.2f}" if (px, OURS) in self.sizes else ""
            rows.append((str(px), name, str(cores), f"{size / 1e6:.2f}", of_bytes, *map(self.rate, both), *ratios))
        return rows

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Return the ratios, and images per second by the clock, whose worth depends on what else the machine does."""
        names = {key: f"{key[0]} px, {key[1]}, {key[2]} cores{', cold' if key[3] else ''}" for key in self.epochs}
        return {
            "over": {name: self.over(key) for key, name in names.items()},
            "by_the_clock": {
                name: round(median(e.images / e.wall for e in self.epochs[key])) for key, name in names.items()
            },
        }

    def end(self) -> None:
        """End the processes."""
        for process in self.processes.values():
            process.end()


if __name__ == "__main__":
    main(sys.argv[1:])
