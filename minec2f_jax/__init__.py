"""MineC2FNet in JAX: coarse-to-fine domain-incremental segmentation of mining footprints."""

__version__ = "0.1.0"
