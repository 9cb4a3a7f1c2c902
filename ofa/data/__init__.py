"""Data sets and their splits: train, calibration, search, test."""

from ofa.data.config import DataConfig, DataError
from ofa.data.image_data import ImageData, load_data, summary
from ofa.data.preprocessing import Preprocessing, preprocessing
from ofa.data.readers import READERS, TEXT_READERS
from ofa.data.splits import SPLITS, Splits
from ofa.data.text_data import TextData, load_texts

__all__ = [
    "READERS",
    "SPLITS",
    "TEXT_READERS",
    "DataConfig",
    "DataError",
    "ImageData",
    "Preprocessing",
    "Splits",
    "TextData",
    "load_data",
    "load_texts",
    "preprocessing",
    "summary",
]
