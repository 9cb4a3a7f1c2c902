"""Data sets and their splits: train, calibration, search, test."""

from ofa.data.config import DataConfig, DataError
from ofa.data.image_data import ImageData, load_data, summary
from ofa.data.preprocessing import Preprocessing, preprocessing
from ofa.data.readers import READERS
from ofa.data.splits import SPLITS, Splits

__all__ = [
    "READERS",
    "SPLITS",
    "DataConfig",
    "DataError",
    "ImageData",
    "Preprocessing",
    "Splits",
    "load_data",
    "preprocessing",
    "summary",
]
