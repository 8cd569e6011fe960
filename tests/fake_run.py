"""Simulated sweeps with a known truth, as points and as a run folder, for the tests of the analysis.

`sweep` plants an effective robustness per group; `run_folder` writes such a sweep as a real run would.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import yaml
from PIL import Image
from scipy.special import ndtr

from ray_robust.plan.plan import hash_of
from ray_robust.run import results_schema
from ray_robust.run.run_folder import RunFolder

SLOPE, INTERCEPT = 0.76, -0.86  # of the true baseline line, probit scale
RATES = (3e-4, 1e-3, 3e-3)


def sweep(
    planted: Mapping[str, float],
    trials: int = 3,
    epochs: tuple[int, ...] = (3, 6, 9, 12),
    trial_sd: float = 0.012,
    noise_sd: float = 0.008,
    seed: int = 0,
    heavy: bool = False,
) -> pd.DataFrame:
    """Points of a sweep: `planted` maps a group to its true ER in percentage points; `scratch` is added with 0.

    Every trial has an OOD offset of its own (sd `trial_sd`, a fraction), every point its own noise.
    """
    random = np.random.default_rng(seed)
    draw = (lambda size=None: random.standard_t(3, size) / np.sqrt(3)) if heavy else random.standard_normal
    rows = []
    for group, er in {"scratch": 0.0, **planted}.items():
        number_in = re.match(r"\w+=(\d+)", group)
        images = int(number_in[1]) if number_in else 0
        for number in range(trials):
            offset = trial_sd * draw()
            readable = re.sub(r"\W", "_", group.replace("num_images=", "quantity-"), flags=re.ASCII)[:40]
            name = f"{readable}-s{number}-{hash_of((group, number), 6)}"
            for i, rate in enumerate(RATES):
                for epoch in epochs:
                    x = -0.9 + 0.35 * i + 0.09 * epoch + 0.08 * random.standard_normal()
                    id_, val = ndtr(x), ndtr(x + 0.05 * random.standard_normal())
                    ood = float(ndtr(INTERCEPT + SLOPE * x)) + er / 100 + offset + noise_sd * draw()
                    rows.append(
                        {"trial": name, "group": group, "status": "done", "model": "test_resnet", "seed": number,
                         "subset_seed": number, "num_images": images, "num_classes": 200 if images else 0,
                         "sources": json.dumps({"species": 1.0}) if images else "{}", "finetune": f"lr{rate:g}",
                         "finetune_lr": rate, "task": "camera-traps", "epoch": epoch, "step": epoch * 31,
                         "metric": "macro_f1", "id": float(id_), "ood": float(np.clip(ood, 0.001, 0.999)),
                         "id_val": float(val), "ood_val": float(np.clip(ood + 0.01 * random.standard_normal(), 0, 1)),
                         "id_images": 1500, "ood_images": 2000}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def run_folder(path, points: pd.DataFrame, failed: Mapping[str, str] | None = None, unfinished: int = 0) -> RunFolder:
    """Write `points` (see `sweep`) as a run: spec, plan, trials with their markers, data.json, run.json, samples.

    failed      trial name -> reason; those trials get no rows but a failure
    unfinished  how many of the last trials were planned and never ran
    """
    run, failed = RunFolder(path), failed or {}
    trials = list(dict.fromkeys(points["trial"]))
    planned = []
    for name in trials:
        own = points.loc[points["trial"] == name]
        first = own.iloc[0].to_dict()
        known = {c: first.get(c, "") for c in results_schema.names(results_schema.TRIAL)}
        planned.append(
            {
                **known,
                "status": "planned",
                "finetunes": json.dumps(dict(zip(own["finetune"], own["task"], strict=True))),
            }
        )
    run.write_plan(planned)
    for name in trials[: len(trials) - unfinished]:
        own, folder = points.loc[points["trial"] == name], run.trial(name)
        first = own.iloc[0]
        composition = [] if first["num_images"] == 0 else [
            {"source": "species", "available": 128_000, "selected": int(first["num_images"]), "target_share": 1.0,
             "share": 1.0, "classes": 200}
        ]  # fmt: skip
        folder.storage.write_json(
            "trial.json",
            {"trial": name, "group": first["group"], "seed": int(first["seed"]), "composition": composition},
        )
        if name in failed:
            folder.fail(failed[name])
        else:
            folder.finish(json.loads(own.to_json(orient="records")), {"seconds": 12.5})
    run.write("spec.yaml", yaml.safe_dump(_SPEC, allow_unicode=True, sort_keys=False))
    run.write("data.json", json.dumps({"pools": [_pool(run, "source", "species"), _pool(run, "task", "camera-traps")]}))
    run.write("run.json", json.dumps(_RUN))
    return run


def _pool(run: RunFolder, kind: str, name: str) -> dict:
    splits = {"train": 4000, "id_val": 1000, "id_test": 1500, "ood_val": 1000, "ood_test": 2000}
    shown = splits if kind == "task" else {"all": 128_000}
    samples = {}
    for i, split in enumerate(shown):
        noise = np.random.default_rng(i).integers(60, 200, (4, 12, 3), dtype=np.uint8)
        image, buffer = Image.fromarray(noise).resize((384, 128), Image.Resampling.BICUBIC), io.BytesIO()
        image.save(buffer, "PNG")
        samples[split] = f"samples/{kind}-{name}-{split}.png"
        run.write(samples[split], buffer.getvalue())
    return {
        "kind": kind, "name": name, "fingerprint": "4f1c99d02ab7", "identity": "recipe",
        "licence": "rendered by this project, Apache-2.0",
        "notes": ["A rendered world: every image is drawn by the project itself."], "images": sum(shown.values()),
        "classes": 200 if kind == "source" else 16, "groups": 48 if kind == "task" else 0,
        "splits": splits if kind == "task" else {}, "samples": samples,
        "broken": [{"key": "a/broken.jpg", "reason": "truncated JPEG"}] if kind == "source" else [],
    }  # fmt: skip


_SPEC = {
    "question": "Does more pre-training data raise effective robustness?",
    "task": {"name": "camera-traps"},
    "model": {"name": "test_resnet", "image_size": 32},
    "pretrain": {
        "sources": {"species": 1.0},
        "num_images": {"grid": [1000, 4000, 16000, 64000]},
        "images_seen": 128000,
    },
    "finetune": {"epochs": 12, "lr": {"grid": [3e-4, 1e-3, 3e-3]}, "evaluate_every": 3},
    "seeds": 3,
    "baseline": {"name": "scratch"},
    "analysis": {"scale": "probit", "margin": 2.0, "min_r2": 0.8},
    "provenance": {"ray_robust": "0.1.0", "commit": "1a2b3c4d", "torch": "2.15.0", "timm": "1.0.20"},
}
_RUN = {
    "hardware": {"cpus": 2, "memory_gb": 16.0, "gpus": [], "processor": "x86_64"},
    "invocations": [{"started": "2026-01-02T03:04:05Z", "seconds": 412.6, "trials_run": 15}],
}
