"""DeiT's tiny and small at a third of their widths, for pictures of 32 pixels, and one between: for bench_stitch.py."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer


def deit(width: int, num_classes: int, in_chans: int) -> VisionTransformer:
    """Twelve blocks, heads of 32 channels, 16 patches and a class token."""
    model = VisionTransformer(
        img_size=32,
        patch_size=8,
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=width,
        depth=12,
        num_heads=width // 32,
    )
    model.default_cfg = {"input_size": (in_chans, 32, 32)}
    return model


def tiny(num_classes: int = 10, in_chans: int = 3) -> VisionTransformer:
    return deit(64, num_classes, in_chans)


def middle(num_classes: int = 10, in_chans: int = 3) -> VisionTransformer:
    return deit(96, num_classes, in_chans)


def small(num_classes: int = 10, in_chans: int = 3) -> VisionTransformer:
    return deit(128, num_classes, in_chans)
