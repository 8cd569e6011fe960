"""CLIP: pulls an image towards its own text, and away from the other texts of the batch.

A text is the image's caption where its source has one, else a template with its label's name. The text tower, tokenizer
and loss are open_clip's; the body, which alone is kept, is the spec's model. Source: Radford et al., "Learning
Transferable Visual Models From Natural Language Supervision" (ICML 2021).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import ClipLoss, SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import nn

from ray_robust.spec.load import Pretrain
from ray_robust.train.augmentation import Views
from ray_robust.train.device import send
from ray_robust.train.features import features_of
from ray_robust.train.images import normalise
from ray_robust.train.loop import optimise
from ray_robust.train.models import build_model, feature_width, input_scale, seeded
from ray_robust.train.objective import Objective
from ray_robust.train.pretrain import Extended, MixtureImages, Pretrained, PretrainJob, pretrained

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0  # of the similarities, as in the paper


class Texts:
    """Every text of a mixture, as tokens. Only tokens that occur are numbered, which keeps the embedding table small.

    tokens   int64 [texts, length]; text `label * templates + t` is template t of that label, captions follow
    choices  int64 [images, templates], the texts that an image may be shown with
    """

    def __init__(self, images: MixtureImages, settings: Pretrain) -> None:
        texts = [template.format(readable(label)) for label in images.labels for template in settings.templates]
        several = len(settings.templates)
        self.choices = torch.from_numpy(images.train.labels)[:, None] * several + torch.arange(several)
        number: dict[str, int] = {}
        for image, caption in enumerate(images.captions):
            if caption is not None:
                self.choices[image] = number.setdefault(caption, len(texts) + len(number))
        tokens = SimpleTokenizer(context_length=settings.text_length)([*texts, *number]).numpy()
        tokens = tokens[:, : int((tokens > 0).sum(1).max())]  # the same for all: zeros that no text reaches
        used, numbers = np.unique(tokens, return_inverse=True)  # in order: the end of a text stays the highest
        self.tokens, self.vocabulary = torch.from_numpy(numbers.reshape(tokens.shape)), len(used)


class Pairs(Extended):
    """A body and a text tower with outputs of one width; `forward` returns both, normalised, and the logit scale."""

    def __init__(self, body: nn.Module, texts: Texts, settings: Pretrain) -> None:
        super().__init__()
        self.body = body
        self.projection = nn.Linear(feature_width(body), settings.projection, bias=False)
        self.text = TextTransformer(texts.tokens.shape[1], texts.vocabulary, settings.text_width,
                                    settings.text_width // 64, settings.text_layers,
                                    output_dim=settings.projection)  # fmt: skip
        self.scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def model(self) -> nn.Module:
        """Return the body."""
        return self.body

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        each, text = tokens.unique(dim=0, return_inverse=True)  # a text that several images share is read once
        of_images, of_texts = self.projection(self.body(images)), self.text(each)[text]
        scale = self.scale.clamp(max=math.log(LARGEST_SCALE)).exp()
        return F.normalize(of_images.float(), dim=-1), F.normalize(of_texts.float(), dim=-1), scale


def readable(label: str) -> str:
    """Return a label as in a sentence: `red fox` for `species/red_fox`."""
    return label.rpartition("/")[2].replace("_", " ")


def pretrain(job: PretrainJob) -> tuple[nn.Module, Pretrained]:
    """Train a fresh body on pairs of image and text; upstream accuracy is zero-shot, by the labels' templates."""
    settings, context, train, stage = job.settings, job.context, job.images.train, job.stage(contrastive=True)
    texts = Texts(job.images, settings)
    body = build_model(job.section, 0, job.seed)
    with seeded("texts", job.section.name, job.seed):
        pairs = Pairs(body, texts, settings)
    ranks = {"rank": context.rank, "world_size": context.world_size}
    loss = ClipLoss(local_loss=True, gather_with_grad=True, **ranks)
    mean, std = input_scale(body)

    views = Views(train.images, settings.augment)

    def batch(positions: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        shown = normalise(views.take(positions, seed), mean, std)
        drawn = torch.randint(texts.choices.shape[1], (len(positions),))
        return shown, send(texts.tokens[texts.choices[positions, drawn]], context.device)

    def contrast(network: nn.Module, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        with context.autocast(job.section.precision):
            of_images, of_texts, scale = network(images, tokens)
        return loss(of_images, of_texts, scale)

    objective = Objective(batch, contrast, divisible=False, prefetch=views.prefetch)
    seconds = optimise(pairs, objective, stage)
    return body, pretrained(stage, 0, _zero_shot(pairs, texts, job), seconds)


@torch.no_grad()
def _zero_shot(pairs: Pairs, texts: Texts, job: PretrainJob) -> float | None:
    """Share of held-out images that are nearest to the texts of their own label, of all labels of the mixture."""
    held_out, labels, several = job.images.held_out, len(job.images.labels), len(job.settings.templates)
    if not len(held_out.labels):
        return None
    pairs.eval()
    parts = texts.tokens[: labels * several].to(job.context.device).split(1024)
    templates = torch.cat([F.normalize(pairs.text(part).float(), dim=-1).cpu() for part in parts])
    of_labels = F.normalize(templates.view(labels, several, -1).mean(1), dim=-1)
    of_images = features_of(pairs.body, held_out.images, job.section, job.context,
                        make=lambda body, images: pairs.projection(body(images)))  # fmt: skip
    return float(np.mean((of_images @ of_labels.T).argmax(1).numpy() == held_out.labels))
