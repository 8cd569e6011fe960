"""A cheap evaluation of a model in the middle of its pre-training: a linear probe on the features of its body.

Ridge regression in closed form, which takes a forward pass over a few thousand images and no training of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.spec.load import ModelSection
from ray_robust.train.context import Context
from ray_robust.train.evaluate import Split
from ray_robust.train.features import features_of
from ray_robust.train.pretrain import Extended

MAX_IMAGES = 2_000  # training images that a probe is fitted on
RIDGE = 1e-2  # of the squared weights, per image, on features of unit variance


def body_of(network: nn.Module) -> nn.Module:
    """Return the model itself within what a method trains, told by type: models of timm have parts called `body`."""
    return network.model() if isinstance(network, Extended) else network


def linear_probe(
    body: nn.Module, train: Split, tests: Mapping[str, Split], classes: int, section: ModelSection, context: Context
) -> dict[str, np.ndarray]:
    """Return int64 [n] for each of `tests`: the classes predicted by ridge regression of one-hot labels on features.

    Fitted on at most `MAX_IMAGES` images of `train`, the same ones for every model. Leaves the body in evaluation
    mode; draws nothing from torch's generators.
    """
    order = np.random.default_rng(seed_of("probe", len(train.labels))).permutation(len(train.labels))[:MAX_IMAGES]
    only = torch.from_numpy(np.sort(order))
    features = features_of(body, train.images, section, context, only).double()
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    x = torch.cat([(features - mean) / std, ones], 1)
    y = F.one_hot(torch.from_numpy(train.labels)[only], classes).double()
    gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, x.T @ y)
    classes_of = {}
    for name, split in tests.items():
        features = (features_of(body, split.images, section, context).double() - mean) / std
        scores = features @ weights[:-1] + weights[-1]
        classes_of[name] = scores.argmax(1).numpy()
    return classes_of
