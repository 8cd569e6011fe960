"""`bench.recipes` trains as the product does, compares defaults with the best recipe, and measures nothing twice."""

import json

import numpy as np
from PIL import Image

from bench import recipes
from ray_robust.spec.sections import MIN_IMAGES_SEEN


def photographs(root, classes: int = 3, each: int = 24):
    rng = np.random.default_rng(0)
    for i in range(classes):
        (root / f"class{i}").mkdir(parents=True)
        for j in range(each):
            pixels = rng.integers(0, 60, (16, 16, 3)).astype(np.uint8)
            pixels[:, :, i] += 150
            Image.fromarray(pixels).save(root / f"class{i}" / f"{j}.png")
    return root


def test_a_recipe_is_trained_as_the_product_does(tmp_path):
    case = {"model": "test_resnet", "images": 48, "classes": 3, "px": 16, "recipe": {"epochs": 12, "batch_size": "16"}}
    row = recipes.pretrained(case, str(photographs(tmp_path / "photos")), tmp_path)
    assert row["seen"] == 12 * 48
    assert row["upstream"] == 1.0


def test_the_best_recipe_stands_for_a_tuned_one_and_nothing_is_measured_twice(tmp_path, monkeypatch, capsys):
    asked = []

    def pretrained(case, data, folder):
        asked.append(case)
        recipe = case["recipe"]
        score = {"3e-3": 0.3, "1e-2": 0.2}[recipe["lr"]] + (recipe["augment"] == "strong") / 10 if recipe else 0.16
        return {"upstream": score, "seen": recipe.get("images_seen", MIN_IMAGES_SEEN), "seconds": 1.0}

    monkeypatch.setattr(recipes, "pretrained", pretrained)
    words = ["--data", "photos", "--images", "1000", "--seen", "100", "--kept", str(tmp_path / "kept.jsonl")]
    for models, code, measured in ((["a"], 1, 4), (["a", "b"], 1, 4), (["b"], 1, 0)):
        asked.clear()
        assert recipes.main([*words, "--models", *models]) == code  # 0.16 is less than half of 0.4
        assert len(asked) == measured
    (one,) = json.loads(capsys.readouterr().out.splitlines()[-1])["compared"]
    assert one["recipe"] == {"lr": "3e-3", "images_seen": 100, "augment": "strong"}
    assert (one["default"], one["tuned"], one["seen"]) == (0.16, 0.4, MIN_IMAGES_SEEN)
    assert recipes.main([*words, "--models", "b", "--augment"]) == 0  # 0.16 of 0.3
