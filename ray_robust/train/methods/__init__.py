"""Methods of pre-training, one module each: `pretrain(job)` makes a model and what is known of it."""
