"""Damage what users and accidents hand to the program, at random, and see that nothing worse than a line comes of it.

    python tests/fuzz.py [--seconds 60] [--seed 1] [--only spec table run image archive] [--keep FOLDER]

kinds     spec: the text of a YAML; table: a CSV of scores; run: the files of a run folder, as status and analysis read
          them; image: the bytes of an image; archive: a zip or tar of images
Each kind has a process of its own, for `--seconds` of processor time. Prints, last, one JSON object: of every kind
the cases, how many were read and how many refused in lines, the tracebacks, the hangs (a case of more than two
minutes), the crashes, and the most memory that its process ever had, in MB. What went wrong is kept in FOLDER. Exit
code 1 where there is any, or where a process grew past 2 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LONGEST = 120.0  # seconds over one case, on a busy machine too
MOST = 2_000  # MB
LARGEST = 64 << 20  # bytes that a case may repeat its pieces to
WORDS = r"""
0 -1 1e999 nan inf -inf null ~ true yes {} [] '' " &a *a <<: !!python/object:x !!binary !!int 0x 1_0 1:1 .5 - -- = @ % :
, ; | > # ? ../ / //// ~/ file:// s3:// \ \u0000 =1+1 $HOME ${HOME} {0..99999999} 99999999999999999999
"""
SIGNS = ("\x00", "\x1b[31m", "\u2028", "\ufeff", "\u202e", "\ud7ff", "\t", "\n", "\r\n", "\n\n\n", " ", "\udcff")
TOKENS = (*WORDS.split(), *SIGNS, "a" * 200, "9" * 5000, "[" * 200, "{a: " * 60)


def mutated(data: bytes, random: random.Random, others: list[bytes]) -> bytes:
    """These bytes with one to six changes: flips, cuts, repeats, words, pieces of others, another number."""
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        at, length = random.randrange(len(data) + 1), random.choice((1, 2, 4, 16, 64, 512))
        how = random.randrange(9)
        if how == 0 and data:
            data[at % len(data)] ^= 1 << random.randrange(8)
        elif how == 1:
            del data[at : at + length]
        elif how == 2:
            del data[at:]
        elif how == 3:
            piece = bytes(data[at : at + length])
            times = random.choice((1, 2, 20, 2000))
            if len(piece) * times + len(data) < LARGEST:
                data[at:at] = piece * times
        elif how == 4:
            data[at:at] = random.choice(TOKENS).encode(errors="surrogateescape")
        elif how == 5:
            word = random.choice(TOKENS).encode(errors="surrogateescape")
            data[at : at + length] = word
        elif how == 6:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            data[at : at + length] = other[start : start + length]
        elif how == 7:
            data[at : at + 4] = random.randbytes(4)
        else:
            digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
            if digits:
                data[random.choice(digits)] = random.randrange(48, 58)
    return bytes(data)


# --- kinds: what is damaged, and who reads it. A reader is given a folder of its own; it returns, or raises UserError.


def specs() -> tuple[list[bytes], Callable[[bytes, Path], None]]:
    from ray_robust.spec.load import load_spec

    def read(data: bytes, folder: Path) -> None:
        file = folder / "x.yaml"
        file.write_bytes(data)
        load_spec(file)

    return [file.read_bytes() for file in sorted((ROOT / "sweeps").glob("*.yaml"))], read


def tables() -> tuple[list[bytes], Callable[[bytes, Path], None]]:
    from make_tables import in_percent, models

    from analysis.input.plain_table import read_csv
    from analysis.options import Options

    seeds = [models(), in_percent(models()), models(12, 3).assign(note="a; b", seed=range(15))]

    def read(data: bytes, folder: Path) -> None:
        file = folder / "x.csv"
        file.write_bytes(data)
        read_csv(str(file), id="val", ood="v2", group="type", options=Options(baseline="standard"))

    return [seed.to_csv(index=False).encode() for seed in seeds], read


def runs() -> tuple[list[bytes], Callable[[bytes, Path], None]]:
    """A case names the file by its first line; the rest is what is in it."""
    import test_damaged_files as damaged

    from ray_robust.status import __main__ as status

    os.fsync = lambda _: None
    points = damaged.sweep({"num_images=1000": 1.0}, trials=2, epochs=(6, 12))
    whole = Path(tempfile.mkdtemp()) / "run"
    damaged.finished_run(whole, points)
    files = [file for file in sorted(whole.rglob("*")) if file.is_file()]

    def read(data: bytes, folder: Path) -> None:
        name, _, content = data.partition(b"\n")
        try:
            target = folder / "run" / name.decode()
            kept = (whole / name.decode()).is_file()
        except (ValueError, OSError):
            return
        if not kept:  # the name was damaged: nothing to see
            return
        shutil.copytree(whole, folder / "run")
        target.write_bytes(content)
        with contextlib.redirect_stdout(io.StringIO()):
            for look in (status.main, lambda given: damaged.analysed(given[0])):
                with contextlib.suppress(UserErrors):
                    look([str(folder / "run")])

    return [str(file.relative_to(whole)).encode() + b"\n" + file.read_bytes() for file in files], read


def images() -> tuple[list[bytes], Callable[[bytes, Path], None]]:
    import make_images as make

    from ray_robust.data.images.decode import decode_all

    kinds = [("JPEG", {}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
             ("TIFF", {"compression": "jpeg"}), ("WEBP", {}), ("PPM", {}), ("JPEG2000", {}), ("AVIF", {}),
             ("JPEG", {"progressive": True}), ("PNG", {"interlace": 1})]  # fmt: skip
    seeds = []
    for kind, how in kinds:
        with contextlib.suppress(OSError, KeyError, ValueError):  # Pillow was built without it
            seeds.append(make.encoded(make.picture(), kind, **how))
    seeds.append(make.encoded(make.picture().convert("P"), "PNG"))
    seeds.append(make.encoded(make.picture().convert("I;16"), "PNG"))
    seeds.append(make.encoded(make.picture().convert("CMYK"), "JPEG"))

    def read(data: bytes, folder: Path) -> None:
        for fit in ("crop", "squash", "pad"):
            decode_all(lambda _: data, [0], 32, fit)

    return seeds, read


def archives() -> tuple[list[bytes], Callable[[bytes, Path], None]]:
    import make_images as make

    from ray_robust.data.readers.archive import unpack

    seeds = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as file:
            for i in range(3):
                file.writestr(f"a/{i}.jpg", make.encoded(make.picture(seed=i)))
        seeds.append(buffer.getvalue())
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as file:
            for i in range(3):
                data = make.encoded(make.picture(seed=i))
                entry = tarfile.TarInfo(f"a/{i}.jpg")
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
        seeds.append(buffer.getvalue())

    def read(data: bytes, folder: Path) -> None:
        kind = "zip" if data[:2] == b"PK" else "tar"
        file = folder / f"x.{kind}"
        file.write_bytes(data)
        unpack(file, folder / "out", lambda *_: None)

    return seeds, read


KINDS = {"spec": specs, "table": tables, "run": runs, "image": images, "archive": archives}


# --- one process per kind


def work(kind: str, seconds: float, seed: int, shared: Any, base: str) -> None:
    """Cases until so much processor time is used; `shared` is cases, read, refused, tracebacks, MB, and seconds used. A
    case that takes too long is ended by a signal that nobody catches."""
    from ray_robust.errors import UserError

    global UserErrors
    UserErrors = (UserError,)
    tempfile.tempdir = base
    seeds, read = KINDS[kind]()
    chance = random.Random(seed)
    while shared[5] < seconds:
        data = mutated(chance.choice(seeds), chance, seeds)
        folder = Path(tempfile.mkdtemp(dir=base))
        Path(base, "case").write_bytes(data)
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        try:
            with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
                read(data, folder)
            shared[1] += 1
        except UserError:
            shared[2] += 1
        except BaseException:
            shared[3] += 1
            name = Path(base, "wrong", f"{kind}-{int(shared[0])}")
            name.parent.mkdir(exist_ok=True)
            name.with_suffix(".case").write_bytes(data)
            name.with_suffix(".txt").write_text(traceback.format_exc())
        signal.setitimer(signal.ITIMER_REAL, 0)
        shared[0] += 1
        used = resource.getrusage(resource.RUSAGE_SELF)
        shared[4], shared[5] = used.ru_maxrss / 1000, used.ru_utime + used.ru_stime  # kB
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "fuzz"))
    args = parser.parse_args(argv)
    figures = {kind: watched(kind, args.seconds, args.seed, args.keep) for kind in args.only}
    print(json.dumps(figures, indent=1))
    bad = [one for one in figures.values() if one["tracebacks"] or one["hangs"] or one["crashes"] or one["MB"] > MOST]
    return 1 if bad else 0


def watched(kind: str, seconds: float, seed: int, keep: Path) -> dict[str, Any]:
    """One kind's figures; a process that hangs or crashes is replaced until the time is over."""
    total = dict.fromkeys(("cases", "read", "refused", "tracebacks", "hangs", "crashes", "MB"), 0)
    left = seconds
    while left > 0:
        base = Path(tempfile.mkdtemp(prefix="fuzz-"))
        shared = multiprocessing.Array("d", 6, lock=False)
        process = multiprocessing.get_context("fork").Process(
            target=work, args=(kind, left, seed + total["hangs"] + total["crashes"], shared, str(base))
        )
        process.start()
        process.join()
        problem = "hangs" if process.exitcode == -signal.SIGALRM else "crashes" if process.exitcode else ""
        left -= max(shared[5], 1.0)
        for name, value in zip(("cases", "read", "refused", "tracebacks"), shared[:4], strict=True):
            total[name] += int(value)
        total["MB"] = max(total["MB"], int(shared[4]))
        keep.mkdir(parents=True, exist_ok=True)
        if problem:
            total[problem] += 1
            if not (base / "case").exists():
                raise RuntimeError(f"{kind}: no case could be made")
            shutil.copy(base / "case", keep / f"{kind}-{problem}-{total[problem]}.case")
            print(f"{kind}: {problem}, exit code {process.exitcode}", file=sys.stderr)
        for file in (base / "wrong").glob("*") if (base / "wrong").exists() else ():
            shutil.copy(file, keep)
        shutil.rmtree(base, ignore_errors=True)
    return total


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
