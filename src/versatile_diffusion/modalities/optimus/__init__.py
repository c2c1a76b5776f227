"""Optimus, the autoencoder of texts: a BERT encoder and a GPT-2 decoder that reads the latent (paper section 3.3)."""

from versatile_diffusion.modalities.optimus.codec import Optimus
from versatile_diffusion.modalities.optimus.repeats import remove_duplicate_word
from versatile_diffusion.modalities.optimus.tokens import SpecialIds, Tokenization

__all__ = ["Optimus", "SpecialIds", "Tokenization", "remove_duplicate_word"]
