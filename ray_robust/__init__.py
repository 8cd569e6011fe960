"""Which data should one pre-train on, so that the fine-tuned model survives a shift?

Importing this package imports neither torch nor ray; `python -m ray_robust.sweep SPEC.yaml` is the way in.
"""

__version__ = "0.1.0"
