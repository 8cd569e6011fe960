"""Methods of pre-training, one module each: `pretrain(job)` returns a model and the facts of it."""
