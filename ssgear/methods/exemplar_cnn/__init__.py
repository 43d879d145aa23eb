"""Exemplar-CNN (Dosovitskiy et al. 2014, arXiv 1406.6909): tell thousands of patches apart."""

from ssgear.methods.exemplar_cnn.method import ExemplarCNN

__all__ = ["ExemplarCNN"]
