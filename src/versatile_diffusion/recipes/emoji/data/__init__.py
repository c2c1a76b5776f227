"""The emoji set: 14 drawing styles of 1,652 concepts with captions, built from public packages."""

from versatile_diffusion.recipes.emoji.data.build import build_emoji
from versatile_diffusion.recipes.emoji.data.manifest import Manifest
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.emoji.data.split import SPLITS

__all__ = ["SPLITS", "EmojiSet", "Manifest", "build_emoji"]
