"""What `soak.py` puts into every process under fire, as its sitecustomize.py: nothing of the product knows of it.

Adds up the training images that a process has worked through, in a file that a kill leaves whole: what a trial says of
itself comes once a second, too seldom to tell what a kill has cost. And kills the command (SIGKILL) at an instant
within the stage that the file `aim` names: "STAGE SECONDS", so many seconds after the stage began, or where it is over
sooner at its end. How long each stage took is added to `stages`, who was killed to `killed`. `settings.json` has
constants of modules that are other ones here: {module: {name: value}}. While there is a file `hold`, no training goes
on.
"""

import importlib.abc
import importlib.util
import json
import mmap
import os
import signal
import struct
import sys
import threading
import time

HOME = os.environ.get("SOAK_HOME", "")
WRAPPED = {  # by module, what begins and ends a stage; None: it is another one's end
    "ray_robust.data.images.store": ("ImageStore.fill", "ingest", False),
    "ray_robust.launch.ingest.ingest": ("ingest", "ingest", True),
    "ray_robust.launch.cluster.connect": ("_start", "start", True),
    "ray_robust.run.run_folder": ("RunFolder.write_results", "results", True),
    "analysis.__main__": ("report_on", "report", True),
}
COUNTED = "ray_robust.train.interleave"
SETTINGS = {}
waiting: list[str] = []  # the stage that this process is to be killed in, once it began


class Hooks(importlib.abc.MetaPathFinder):
    """Wraps functions of modules as they are imported."""

    def find_spec(self, name, path=None, target=None):
        if name not in WRAPPED and name not in SETTINGS and name != COUNTED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        load = spec.loader.exec_module

        def loaded(module):
            load(module)
            if name == COUNTED:
                count(module)
            if name in WRAPPED:
                mark(module, *WRAPPED[name])
            vars(module).update(SETTINGS.get(name, {}))

        spec.loader.exec_module = loaded
        return spec


def count(module):
    with open(os.path.join(HOME, "counts", f"{os.getpid()}-{time.time_ns()}"), "w+b") as file:
        file.write(bytes(8))
        file.flush()
        shared, run = mmap.mmap(file.fileno(), 8), module.ForwardBackward.run

    def counted(work):
        while os.path.exists(os.path.join(HOME, "hold")):
            time.sleep(0.05)
        run(work)
        shared[:] = struct.pack("q", struct.unpack("q", shared[:])[0] + len(work.inputs[0]))

    module.ForwardBackward.run = counted


def mark(module, name, stage, ends):
    if os.getppid() != int(os.environ["SOAK_PID"]):  # not the command itself
        return
    *owner, name = name.split(".")
    holder = getattr(module, owner[0]) if owner else module
    function = getattr(holder, name)

    def marked(*args, **named):
        begun = time.monotonic()
        if stage != "ingest" or not ends:
            begin(stage)
        try:
            return function(*args, **named)
        finally:
            if stage != "ingest" or not ends:  # of ingest the time in which images are made
                note("stages", {"stage": stage, "seconds": time.monotonic() - begun})
            if ends and waiting == [stage]:
                kill(stage, "at its end")

    setattr(holder, name, marked)


def begin(stage):
    """Lie in wait, where this is the stage that is aimed at."""
    try:
        with open(os.path.join(HOME, "aim")) as file:
            aim, seconds = file.read().split()
    except (OSError, ValueError):
        return
    if aim == stage and not waiting:
        waiting.append(stage)
        timer = threading.Timer(float(seconds), kill, (stage, f"{float(seconds):.3f} s after its beginning"))
        timer.daemon = True
        timer.start()


def kill(stage, when):
    note("killed", {"stage": stage, "when": when})
    os.kill(os.getpid(), signal.SIGKILL)


def note(name, value):
    file = os.open(os.path.join(HOME, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, json.dumps(value).encode() + b"\n")
    os.close(file)


if HOME:
    if os.path.exists(os.path.join(HOME, "settings.json")):
        with open(os.path.join(HOME, "settings.json")) as file:
            SETTINGS.update(json.load(file))
    sys.meta_path.insert(0, Hooks())
