"""Classification of images: one of several classes for each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.data import DataError, ImageData
from ofa.data.picture import EXTENSIONS
from ofa.errors import unknown_name_message
from ofa.tasks import predict_class
from ofa.tasks.class_task import ClassTask
from ofa.tasks.image_task import ImageTask
from ofa.tasks.task import Card

SYNSET = re.compile(r"n\d{8} ")


@dataclass(frozen=True, kw_only=True)
class Classification(ClassTask, ImageTask):
    """Images in, logits ``(N, num_classes)`` out; targets are class indices ``(N,)``."""

    def facts(self, data: ImageData) -> dict[str, Any]:
        return {"classes": list(data.classes), **super().facts(data)}

    def labelled(self, folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
        """Pictures, each in a folder that is called as its class, or by ImageNet's number of it."""
        if not folder.is_dir():
            raise DataError(f"no folder {folder}; give one that has a folder of pictures per class")
        places = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
        number_of = {each.partition(" ")[0]: i for i, each in enumerate(classes) if SYNSET.match(each)}
        number_of |= {each: i for i, each in enumerate(classes)}
        for place in places:
            if place.name not in number_of:
                raise DataError(f"{place}: {unknown_name_message('class', place.name, classes)}")
        found = [
            (file, number_of[place.name])
            for place in places
            for file in sorted(place.rglob("*"))
            if file.suffix.lower() in EXTENSIONS
        ]
        if not found:
            raise DataError(f"{folder} holds no pictures; they go into a folder per class, such as {classes[0]}/")
        return found

    @property
    def predict_script(self) -> Path:
        return Path(predict_class.__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        return self.card_of(
            info,
            what="An image classifier",
            input=self.picture(info["preprocessing"]),
            pipeline_tag="image-classification",
        )
