"""Diffusion models for semantic segmentation."""

from importlib.metadata import version

__version__ = version("crispmask")
