"""Data: sources that return numpy, and the loaders that bring them to torch."""

from kfdeploy.data.source import ImageSet, load_split, stratified

__all__ = ["ImageSet", "load_split", "stratified"]
