"""The tasks of domains: DomainNet's and PACS's layouts, what is ID and what OOD, and mistakes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from make_pools import open_pool

from ray_robust.data.pool import SPLITS
from ray_robust.errors import UserError
from ray_robust.plan.plan import Plan
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.train.context import Context
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial
from tests import make_images
from tests import make_tasks as make

PACS = ("art_painting", "cartoon", "photo", "sketch")


def task(root, name: str = "pacs", **options):
    return open_pool("task", name, {"root": str(root), "train": ["photo"], **options})


def groups(pool, split: str) -> set[str]:
    seen = pool.catalog
    return {seen.groups[g] for g in seen.group[seen.rows(split)]}


def sizes(pool) -> dict[str, int]:
    return {split: len(pool.catalog.rows(split)) for split in SPLITS}


def keys(pool, split: str) -> set[str]:
    return set(pool.keys(pool.catalog.rows(split)))


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    return make.domains(tmp_path_factory.mktemp("pacs"), PACS)


@pytest.mark.parametrize("below", ["", "kfold", "PACS/kfold"])
def test_pacs_in_any_of_its_layouts_is_one_task(pacs, tmp_path, below):
    if below:
        (tmp_path / below).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(pacs, tmp_path / below)
    pool = task(tmp_path if below else pacs, ood=["sketch", "cartoon"])
    assert pool.metric == "accuracy"
    assert pool.catalog.fingerprint == task(pacs, ood=["sketch", "cartoon"]).catalog.fingerprint
    assert pool.catalog.classes == ("cup", "dog")
    assert pool.catalog.groups == ("cartoon", "photo", "sketch")
    for split in ("train", "id_val", "id_test"):
        assert groups(pool, split) == {"photo"}
    assert groups(pool, "ood_val") == groups(pool, "ood_test") == {"cartoon", "sketch"}
    assert sum(sizes(pool).values()) == 3 * 80
    assert pool.read(np.array([0]), 8).broken == {}


def test_a_hash_of_the_key_divides_so_that_no_domain_moves_anothers_images(pacs):
    one, more = task(pacs, ood=["sketch"]), task(pacs, train=["photo", "cartoon"], ood=["sketch"])
    for split in ("train", "id_val", "id_test"):
        assert keys(one, split) == {key for key in keys(more, split) if key.startswith("photo/")}
    assert keys(one, "ood_test") == keys(more, "ood_test")
    larger = task(pacs, ood=["sketch"], val=0.2)
    assert keys(one, "id_val") < keys(larger, "id_val")
    assert keys(one, "id_test") == keys(larger, "id_test")


def test_all_other_domains_are_ood_and_some_may_be_its_validation(pacs):
    assert groups(task(pacs), "ood_test") == {"art_painting", "cartoon", "sketch"}
    pool = task(pacs, ood_val=["cartoon"])
    assert groups(pool, "ood_val") == {"cartoon"}
    assert groups(pool, "ood_test") == {"art_painting", "sketch"}
    assert (sizes(pool)["ood_val"], sizes(pool)["ood_test"]) == (80, 160)


def test_the_official_lists_say_what_is_test(tmp_path):
    names = ("clipart", "real", "sketch")
    root = make.domains(tmp_path, names)
    by_hash = task(root, "domainnet", train=["real"], ood=["sketch"]).catalog
    make.lists(root, names)
    pool = task(root, "domainnet", train=["real"], ood=["sketch"])
    tests = {f"{d}/{c}/{d}_{i:03d}.jpg" for d in ("real", "sketch") for c in ("dog", "cup") for i in range(0, 40, 3)}
    assert keys(pool, "id_test") | keys(pool, "ood_test") == tests
    assert sizes(pool)["train"] + sizes(pool)["id_val"] == 2 * 26
    assert 0 < sizes(pool)["ood_val"] < 2 * 26
    assert "Splits by the official lists." in pool.catalog.notes[-1]
    plain = task(root, "domainnet", train=["real"], ood=["sketch"], lists=False)
    assert plain.catalog.fingerprint == by_hash.fingerprint
    valid = task(root, "domainnet", train=["real"], ood=["sketch"], ood_val=["clipart"])
    assert keys(valid, "ood_test") == keys(pool, "ood_test")
    assert sizes(valid)["ood_val"] == 80


def mistake(root, name: str = "pacs", **options) -> str:
    with pytest.raises(UserError) as caught:
        _ = task(root, name, **options).catalog
    return str(caught.value)


def test_mistakes_are_said(pacs, tmp_path):
    assert mistake(pacs, train=["foto"], ood=["sketsh", "photo", "photo"]).splitlines() == [
        "task.train: pacs has no domain 'foto'; did you mean photo?",
        "task.ood: pacs has no domain 'sketsh'; did you mean sketch?",
        "task: the domain photo is named twice in train, ood and ood_val",
    ]
    assert mistake(pacs, train=[*PACS]) == (
        "task.ood: no domain is left to be OOD; pacs has art_painting, cartoon, photo, sketch"
    )
    assert mistake(tmp_path / "none", "domainnet").startswith(f"{tmp_path}/none: no such folder. Obtain it: ai.bu.edu")
    assert mistake(tmp_path) == f"{tmp_path}: holds no folders of domains. {task(tmp_path).obtain}"
    root = make.domains(tmp_path / "d", ("photo", "sketch"), count=6)
    make.lists(root, ("photo",))
    assert mistake(root, "domains") == (
        f"{root}: has photo_train.txt but no sketch_train.txt, sketch_test.txt; "
        "add what is missing or say `lists: false`"
    )
    make.lists(root, ("photo", "sketch"))
    (root / "photo" / "dog" / "photo_003.jpg").unlink()
    assert "1 of 24 listed images are missing (photo/dog/photo_003.jpg): is it half a copy?" in mistake(root, "domains")
    (root / "photo_test.txt").write_text("photo/dog.jpg 0\n")
    assert mistake(root, "domains") == (
        f"{root}/photo_test.txt:1: is no line of a list; wanted: photo/<class>/<file> <number>"
    )


def test_a_name_in_another_encoding_is_a_line_of_an_image_and_nothing_of_a_note(pacs, tmp_path):
    root = shutil.copytree(pacs, tmp_path / "pacs")
    folder = next(path for path in (root / "photo").iterdir() if path.is_dir())
    before = task(root).catalog
    make_images.write(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")), b"a note")
    assert task(root).catalog.fingerprint == before.fingerprint
    make_images.write(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")))
    name = f"photo/{folder.name}/caf\\udce9.jpg"
    assert mistake(root) == f"{root}: the name of the file '{name}' is not in UTF-8"


def test_classes_that_train_lacks(tmp_path):
    root = make.domains(tmp_path, ("photo", "sketch"))
    make.domains(root, ("sketch",), ("ant",), 5)
    assert mistake(root, "domains") == (
        f"{root}: classes that train lacks cannot be learned: ant; leave them out with `unseen: drop`"
    )
    assert task(root, "domains", unseen="drop").catalog.notes[0].startswith("5 images of classes that train lacks are")


SPEC = """\
task: {{name: pacs, root: {root}, train: [photo]}}
pretrain: {{sources: {{species: 1}}, num_images: 100, epochs: 1}}
finetune: {{epochs: 1}}
"""


def plan(tmp_path, root, **how) -> Plan:
    (tmp_path / "x.yaml").write_text(SPEC.format(root=root))
    return open_sweep(load_spec(tmp_path / "x.yaml"), **how).plan


def test_it_plans_from_a_spec_with_its_data_or_without(pacs, tmp_path):
    (finetuning,) = next(iter(plan(tmp_path, pacs))).finetunings
    assert finetuning.images == sizes(task(pacs))["train"]
    (finetuning,) = next(iter(plan(tmp_path, tmp_path / "none", plan_only=True))).finetunings
    assert finetuning.images == round(1670 * 0.7)


def test_a_trial_fine_tunes_on_a_few_images_and_is_scored_by_its_worst_domain(pacs, tmp_path):
    torch.set_num_threads(1)
    text = SPEC.format(root=pacs).replace("[photo]", "[photo, cartoon], metric: worst_group")
    (tmp_path / "x.yaml").write_text(text.replace("finetune: {", "finetune: {per_class: {grid: [10, 100]}, "))
    trial = next(trial for trial in open_sweep(load_spec(tmp_path / "x.yaml")).plan if trial.pretrain is None)
    paths = RunPaths(*(str(tmp_path / name) for name in ("run", "checkpoints", "store")))
    run_trial(trial, paths, Context())
    folder = RunFolder(paths.run).trial(trial.id)
    few, all_ = folder.rows()
    assert (few["finetune_images"], all_["finetune_images"]) == (
        20,
        sizes(task(pacs, train=["photo", "cartoon"]))["train"],
    )
    assert few["metric"] == "worst_group"
    assert few["ood"] == few["ood_worst_group"] <= few["ood_accuracy"]
    log = (folder.storage.read("log.txt") or b"").decode()
    assert "on 20 images of 2 classes of pacs" in log
    assert "of 2 classes of pacs, 2 of them hold fewer than 100" in log
    counted = pd.read_parquet(tmp_path / "run" / "trials" / trial.id / "groups" / f"{few['finetune']}.parquet")
    ood = counted[counted["split"] == "ood_test"].groupby("group", observed=True)[["tp", "fn"]].sum()
    assert (ood["tp"] / ood.sum(axis=1)).min() == few["ood"]


def test_worst_group_wants_groups(tmp_path):
    make_images.tree(tmp_path / "d", {f"{split}/{label}": 2 for split in SPLITS for label in ("cat", "dog")})
    text = SPEC.replace(
        "name: pacs, root: {root}, train: [photo]", f"name: folder, path: {tmp_path}/d, metric: worst_group"
    )
    (tmp_path / "x.yaml").write_text(text.replace("{{", "{").replace("}}", "}"))
    with pytest.raises(UserError, match=r"x.yaml:1: task.metric: folder has no groups, so no worst_group$"):
        open_sweep(load_spec(tmp_path / "x.yaml"))
