"""Supervised pre-training on the labels of the mixture, at its granularity. The head is kept: it has learned them."""

from __future__ import annotations

import torch
from torch import nn

from ray_robust.metrics import METRICS
from ray_robust.train.curve import HeldOutAccuracy
from ray_robust.train.evaluate import predict
from ray_robust.train.loop import fit
from ray_robust.train.models import build_model
from ray_robust.train.pretrain import Pretrained, PretrainJob, pretrained


def pretrain(job: PretrainJob) -> tuple[nn.Module, Pretrained]:
    """Train a fresh model to predict the labels; upstream accuracy is that on the held-out images."""
    train, held_out, stage = job.images.train, job.images.held_out, job.stage()
    model = build_model(job.section, len(job.images.labels), job.seed)
    seconds = fit(model, train.images, torch.from_numpy(train.labels), stage, [HeldOutAccuracy(held_out)])
    upstream = None
    if len(held_out.labels):
        predicted = predict(model, held_out.images, job.section, job.context)
        upstream = METRICS["accuracy"].score(held_out.tally(predicted.classes))
    return model, pretrained(stage, len(job.images.labels), upstream, seconds)
