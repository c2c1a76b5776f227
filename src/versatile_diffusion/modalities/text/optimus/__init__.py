"""Optimus text autoencoder: a BERT encoder, and a GPT-2 decoder conditioned on the latent (paper section 3.3)."""

from versatile_diffusion.modalities.text.optimus.codec import Optimus
from versatile_diffusion.modalities.text.optimus.repeats import remove_duplicate_word
from versatile_diffusion.modalities.text.optimus.tokens import SpecialIds, Tokenization

__all__ = ["Optimus", "SpecialIds", "Tokenization", "remove_duplicate_word"]
