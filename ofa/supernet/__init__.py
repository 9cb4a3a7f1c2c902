"""Any timm model as a supernet: conversion, the supernet itself, presets."""

from ofa.supernet.elasticize import elasticize
from ofa.supernet.growth import grow, grown_arch
from ofa.supernet.importance import sort_channels
from ofa.supernet.presets import PRESETS, create_supernet, published_arch
from ofa.supernet.supernet import Supernet

__all__ = [
    "PRESETS",
    "Supernet",
    "create_supernet",
    "elasticize",
    "grow",
    "grown_arch",
    "published_arch",
    "sort_channels",
]
