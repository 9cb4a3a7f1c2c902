"""Pictures in folders that are called as ImageNet's classes are, ``n01440764``, for networks that know all of these."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.folder import read_folder
from ofa.data.readers.source import Source
from ofa.errors import unknown_name_message


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 classes of ILSVRC 2012 in the usual order, each as ``n01440764 tench``: a synset, then its words."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(
        f"{synset} {info.index_to_description(index).partition(',')[0]}"
        for index, synset in enumerate(info.label_names())
    )


def read_imagenet(config: DataConfig) -> Source:
    """As ``folder``, but with all 1,000 classes, in whichever of them there are pictures.

    Raises:
        DataError: If a folder is called otherwise, or :func:`read_folder` finds something wrong.
    """
    source = read_folder(config)
    number_of = {name.partition(" ")[0]: number for number, name in enumerate(imagenet_classes())}
    for name in source.classes:
        if name not in number_of:
            hint = "" if re.fullmatch(r"n\d{8}", name) else "; ImageNet's folders are called as n01440764 is"
            raise DataError(
                f"{unknown_name_message('class of ImageNet', name, number_of, max_listed=3)}{hint}. If these are other "
                "classes, fine-tune instead: ofa train imagenet_finetune data.name=folder"
            )
    numbers = np.array([number_of[name] for name in source.classes], dtype=np.int64)
    return replace(source, classes=imagenet_classes(), labels=numbers[source.labels])
