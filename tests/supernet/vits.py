"""A user's file of small transformers, as ``model.anchors=[…/vits.py:narrow,…/vits.py:wide]`` takes them."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import VisionTransformer


def vit(width: int, depth: int, **settings: Any) -> VisionTransformer:
    known = {"img_size": 32, "patch_size": 8, "num_heads": width // 8, "num_classes": 10, **settings}
    return VisionTransformer(embed_dim=width, depth=depth, **known)


def narrow(num_classes: int = 10, in_chans: int = 3) -> VisionTransformer:
    return vit(24, 4, num_classes=num_classes, in_chans=in_chans)


def wide(num_classes: int = 10, in_chans: int = 3) -> VisionTransformer:
    return vit(48, 4, num_classes=num_classes, in_chans=in_chans)
