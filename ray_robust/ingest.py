"""The command `python -m ray_robust.ingest SOURCE --root DIR`: decode a source's or task's images once, into the store.

Owns the command line and what it prints. The work is done by `launch.ingest`; running it again does what is missing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ray_robust import registry
from ray_robust.data.duplicates.comparison import skipped, within
from ray_robust.data.duplicates.entries import summary
from ray_robust.data.images.form import Form, form_of
from ray_robust.data.images.pack import BROKEN, PRESENT
from ray_robust.data.images.store import ImageStore, default_root, outdated
from ray_robust.data.pool import SPLITS, Pool, Task
from ray_robust.data.readers.file_pool import READ_TOGETHER
from ray_robust.data.tasks.shifted import with_shifts
from ray_robust.errors import DONE, Arguments, UserError, check_local, check_out, command, did_you_mean
from ray_robust.files.retry import check_patience
from ray_robust.launch.cluster.address import check_address
from ray_robust.launch.cluster.connect import connect
from ray_robust.launch.ingest import ingest as launch
from ray_robust.spec.sections import LARGEST_SIZE, ModelSection
from ray_robust.spec.store import Store
from ray_robust.spec.yaml_lines import read_value
from ray_robust.text.console import Screen

# arguments that say how images are decoded
OF_DECODING = ("task", "size", "store", "fit", "broken", "set", "limit", "out", "verify", "address")


def main(argv: list[str]) -> int:
    """Run the command; return its exit code. Raises UserError."""
    args = _arguments(argv)
    check_patience()
    out = Screen(highlight=False, soft_wrap=True)
    if args.download:
        from ray_robust.data.downloads.obtain import obtain

        obtain(args.source, Path(args.root), args.yes, out)
        return DONE
    if args.address is not None:
        check_address(args.address)
    pool = _open(args)
    if args.archive:
        _install(pool, args.archive, out)
    for line in _summary(pool):
        out.print(line, markup=False)
    form = _form(args)
    store = ImageStore.open(args.out, pool, form)
    for line in _outdated(args.out):
        out.print(line, markup=False)
    if args.verify:
        for line in _verified(store, out):
            out.print(line, markup=False)
    rows = np.arange(min(args.limit, store.n)) if args.limit and pool.rendered else None
    jobs: list[launch.Job] = [(pool, form, rows)]
    todo = sum(len(rows) for _, rows in launch.missing(jobs, [store]))
    if todo:
        with _ray(args.address, launch.estimate(jobs, [store])), _bar(out, todo) as progress:
            launch.ingest(jobs, args.out, progress)
    out.print(f"fingerprint  {pool.catalog.fingerprint}")
    present, broken = (int((store.state == state).sum()) for state in (PRESENT, BROKEN))
    out.print(f"images       {present:,} in the store, {todo:,} of them new; {broken:,} broken")
    for (row, reason), _ in zip(store.broken.items(), range(launch.SHOWN), strict=False):
        out.print(f"  left out   {pool.keys(np.asarray([row]))[0]}: {reason}", markup=False)
    if not skipped(pool):
        out.print(f"duplicates   {_duplicates(store, out)}", markup=False)
    out.print(f"store        {store.folder}", markup=False)
    return DONE


def parser(add_help: bool = True) -> Arguments:
    """Return the parser of this command's arguments."""
    parser = Arguments("python -m ray_robust.ingest", description=__doc__.splitlines()[0], add_help=add_help)
    parser.add_argument("source", metavar="SOURCE", help="a source or task: folder, species, wilds:iwildcam, ...")
    parser.add_argument("--root", help="where its images are: a folder, a zip or a CSV")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="first check and unpack this download to --root")
    parser.add_argument(
        "--download", action="store_true", help="obtain the published data set of that name below --root, and end"
    )
    parser.add_argument("--yes", action="store_true", help="with --download: accept its licence")
    parser.add_argument("--task", action="store_true", help="read it as a task where both have that name")
    parser.add_argument("--size", type=int, default=32, help="width and height in px (default: %(default)s)")
    parser.add_argument("--store", default="raw", metavar="FORM", help="raw: decoded at --size (default); compact or "
                        "'{size: 288, quality: 95}': whole, as JPEG, as model.store of a sweep")  # fmt: skip
    parser.add_argument("--fit", choices=("crop", "squash", "pad"), help="how an oblong image becomes a square")
    parser.add_argument("--broken", choices=("fail", "drop"), help="what a broken image means (default: fail)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any further option")
    parser.add_argument("--limit", type=int, default=0, help="of a rendered source, only the first so many images")
    parser.add_argument("--out", default=default_root(), help="the store's root (default: %(default)s)")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="first compare it with the files, and check its checksums; mend what is wrong",
    )
    parser.add_argument("--address", help="a Ray cluster to use instead of this machine's cores")
    return parser


def _arguments(argv: list[str]) -> argparse.Namespace:
    args, defaults = parser().parse_args(argv), parser().get_default
    check_out("--out", args.out)
    check_local("--out", args.out)
    args.out = Path(args.out)
    if not 1 <= args.size <= LARGEST_SIZE:
        raise UserError(f"--size: {args.size} px is no size; wanted: 1 to {LARGEST_SIZE}")
    if args.limit < 0:
        raise UserError(f"--limit: must be at least 0, not {args.limit}")
    if args.download and not args.root:
        raise UserError("--download: needs --root, the folder that holds the data sets ($DATA in the shipped specs)")
    if args.download and args.archive:
        raise UserError("--download: obtains the archive itself; leave --archive out")
    if args.download and (idle := [f"--{name}" for name in OF_DECODING if getattr(args, name) != defaults(name)]):
        raise UserError(f"--download: decodes nothing; give {', '.join(idle)} to the command that decodes, without it")
    if args.yes and not args.download:
        raise UserError("--yes: accepts the licence of a --download, which is not given")
    return args


def _open(args: argparse.Namespace) -> Pool:
    """Return the pool that the arguments name. Raises UserError, which names the arguments."""
    head = args.source.partition(":")[0]
    registered = {*registry.SOURCES, *registry.TASKS}
    if head not in registered:
        raise UserError(f"{args.source!r} is no known source or task{did_you_mean(args.source, registered)}")
    kind = "task" if args.task or head not in registry.SOURCES else "source"
    cls = registry.find(kind, args.source)
    fields = cls.Options.model_fields
    given = {key: value for key in ("fit", "broken") if (value := getattr(args, key))}
    key = next((name for name in ("path", "root") if name in fields), None)
    if cls.rendered and args.root and key is None:
        raise UserError(f"--root: {args.source} is rendered, so there is nothing to read")
    if args.limit and not cls.rendered:
        raise UserError(f"--limit: {args.source} is decoded as a whole; only a rendered source can be filled in part")
    if args.root and key is None:
        what = "its images are those of its source; say where by --set 'source={name: folder, path: DIR}'"
        raise UserError(f"--root: {args.source} has none; {what}")
    if key and args.root:
        given[key] = args.root
    elif key:
        raise UserError(f"--root: {args.source} needs the folder that its images are in")
    for pair in args.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair}: wanted KEY=VALUE")
        given[key] = read_value(value, f"--set {pair[:80]}")
    try:
        pool = cls(args.source, cls.Options.model_validate(given))
    except ValidationError as error:
        raise UserError(*_lines(args.source, error, fields)) from None
    return with_shifts(pool) if isinstance(pool, Task) else pool  # as a sweep opens it


def _form(args: argparse.Namespace) -> Form:
    """Return the form in which images are stored. Raises UserError, which names the argument."""
    if args.store == "raw":
        return Form(args.size)
    try:
        section = ModelSection.model_validate({"image_size": args.size, "store": read_value(args.store, "--store")})
    except ValidationError as error:
        raise UserError(*_lines(f"--store {args.store}", error, Store.model_fields, "store")) from None
    return form_of(section)


def _lines(where: str, error: ValidationError, fields: Iterable[str], below: str = "") -> Iterator[str]:
    """Yield what is wrong with options, a line each: `where`, the key (without the one that all are `below`), what."""
    for detail in error.errors():
        key = ".".join(map(str, detail["loc"])).removeprefix(below).removeprefix(".")
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            message = f"unknown option{did_you_mean(key, fields)}"
        yield ": ".join(filter(None, (where, key, f"{message[:1].lower()}{message[1:]}")))


def _summary(pool: Pool) -> Iterator[str]:
    """Yield what the pool holds, in lines."""
    catalog = pool.catalog
    yield f"{pool.name:<12} {len(catalog):,} images, {len(catalog.classes):,} classes" + (
        f", {len(catalog.groups):,} groups" if catalog.groups else ""
    )
    if len(catalog):
        labels = catalog.labels[catalog.labels >= 0]  # -1: without a label
        counts = np.bincount(labels, minlength=len(catalog.classes))
        order = np.argsort(-counts, kind="stable")
        named = [f"{catalog.classes[i]} {counts[i]:,}" for i in order]
        yield "classes      " + (", ".join(named) if len(named) <= 6 else f"{', '.join(named[:3])} ... {named[-1]}")
    if catalog.hierarchy is not None:
        yield "ranks        " + ", ".join(f"{rank} {n:,}" for rank, n in catalog.hierarchy.nunique().items())
    if catalog.split is not None:
        yield "splits       " + ", ".join(f"{split} {len(catalog.rows(split)):,}" for split in SPLITS)
    yield f"licence      {catalog.licence}"
    yield from (f"note         {note}" for note in catalog.notes)
    if isinstance(pool, Task) and pool.corrupted:
        yield "note         Corruptions are made on each node by the first trial of a sweep, not here."
    yield from (f"warning      {warning}" for warning in pool.warnings)


def _duplicates(store: ImageStore, out: Console) -> str:
    """The images that are there more than once, in one line."""
    compared = within(store, lambda line: out.print(f"             {line}", markup=False))
    none = "none across splits or under two labels" if store.pool.catalog.split is not None else "none under two labels"
    return "; ".join(filter(None, [summary(compared) or none, compared.note]))


def _outdated(root: Path) -> Iterator[str]:
    """What to do with the stores of earlier versions."""
    if folders := outdated(root):
        names = f"{folders[0].name}{', ...' if len(folders) > 1 else ''}"
        yield (
            f"old stores   {len(folders)} folders of an earlier version ({names}), which identified images by the "
            "sizes of their files, are not read any more; delete them"
        )


def _verified(store: ImageStore, out: Console) -> Iterator[str]:
    """Compare a store with the files that it was made from, and with its checksums; what is wrong is missing then."""
    pool = store.pool
    if pool.identity == "content":
        rows, edited = np.arange(store.n), []
        with _bar(out, store.n, "reading") as progress:
            for part in (rows[i : i + READ_TOGETHER] for i in range(0, store.n, READ_TOGETHER)):
                edited += pool.keys(pool.reread(part, store.root))
                if progress:
                    progress(int(part[-1]) + 1, store.n)
        named = f" ({', '.join(edited[:3])}{', ...' if len(edited) > 3 else ''})" if edited else ""
        yield f"sources      {store.n:,} files read again; {len(edited)} hold other bytes than before{named}"
    damaged = store.verify()
    yield f"checksums    {len(damaged)} images damaged{', to be decoded again' if len(damaged) else ''}"
    store.fill(np.asarray(list(store.broken), np.int64), again=True)  # what could not be read may be mended by now


def _install(pool: Pool, archive: Path, out: Console) -> None:
    """Check and unpack the archive of a wilds data set, and print what was done."""
    from ray_robust.data.tasks.install import install
    from ray_robust.data.tasks.wilds import WildsTask

    task = pool.without_shifts if isinstance(pool, Task) else pool
    if not isinstance(task, WildsTask):
        raise UserError(f"--archive: {pool.name} is read as it lies; only wilds:<name> is unpacked from its download")

    @contextmanager
    def bar(stage: str) -> Iterator[launch.Progress]:
        with _bar(out, 0, stage) as progress:
            yield progress or (lambda done, of: None)

    for line in install(task, archive, bar):
        out.print(line, markup=False)


@contextmanager
def _ray(address: str | None, seconds: float) -> Iterator[None]:
    """Ray for the time of the work: the cluster at `address`, else this machine where the work is worth the start."""
    if address is None and (seconds < launch.WORTH_RAY or (os.cpu_count() or 1) == 1):
        yield
        return
    with connect(address, dashboard=False):
        yield


@contextmanager
def _bar(out: Console, total: int, stage: str = "decoding") -> Iterator[launch.Progress | None]:
    """A progress bar on a terminal; elsewhere nothing."""
    if not out.is_terminal:
        yield None
        return
    amount = MofNCompleteColumn() if total else DownloadColumn()  # images, or bytes
    columns = (f"{stage:<12}", BarColumn(), amount, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


if __name__ == "__main__":
    command(main)
