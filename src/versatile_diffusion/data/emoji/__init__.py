"""The emoji set: 14 drawing styles of 1,652 concepts, with captions, built from public packages."""

from versatile_diffusion.data.emoji.build import build_emoji
from versatile_diffusion.data.emoji.manifest import Manifest
from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.data.emoji.split import SPLITS

__all__ = ["SPLITS", "EmojiSet", "Manifest", "build_emoji"]
