"""Supervised pre-training: the labels of the mixture, at its granularity. The head stays, for what it says upstream."""

from __future__ import annotations

import torch
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.metrics import METRICS
from ray_robust.train.evaluate import predict
from ray_robust.train.loop import fit
from ray_robust.train.models import build_model
from ray_robust.train.pretrain import Job, Pretrained


def pretrain(job: Job) -> tuple[nn.Module, Pretrained]:
    """Train a fresh model to tell the labels; upstream accuracy is that on the held-out images."""
    train, held_out = job.images.train, job.images.held_out
    model = build_model(job.model, len(job.images.labels), job.seed)
    seconds = fit(model, train.images, torch.from_numpy(train.labels), job.settings, job.model, job.length,
                  seed_of("pretrain", job.key), job.context, "pretrain", job.checkpoints)  # fmt: skip
    upstream = None
    if len(held_out.labels):
        predicted = predict(model, held_out.images, job.model, job.context)
        upstream = METRICS["accuracy"].score(held_out.tally(predicted.classes))
    return model, job.done(job.length, len(job.images.labels), upstream, seconds)
