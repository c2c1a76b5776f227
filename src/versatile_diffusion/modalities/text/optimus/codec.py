"""Optimus as a codec between texts and latents."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from versatile_diffusion.modalities.base import Codec, Generators
from versatile_diffusion.modalities.text.optimus.decoder import LatentDecoder
from versatile_diffusion.modalities.text.optimus.encoder import Posterior, TextEncoder
from versatile_diffusion.modalities.text.optimus.generate import Sampling, generate
from versatile_diffusion.modalities.text.optimus.repeats import remove_duplicate_word
from versatile_diffusion.modalities.text.optimus.tokens import SpecialIds, Tokenization, load_tokenizers


class Optimus(Codec):
    """Text autoencoder (paper section 3.3; Li et al. 2020). Latents are vectors (B, Z), normalised per channel.

    Args:
        bert: fields of transformers' `BertConfig`, the encoder.
        gpt2: fields of transformers' `GPT2Config`, the decoder.
        latent_size: channels Z of the latent.
        encoder_ids, decoder_ids: special token ids, `{"pad": ..., "begin": ..., "end": ...}`.
        encoder_limit: maximum number of encoded tokens.
        max_length: maximum number of generated tokens, begin and end included.
        clean_up: remove spaces before punctuation in generated text.
        temperature: default sampling temperature if `decode` is given generators; 0 is greedy.
        drop_repeats: default of `decode` for removing repeated words.
        decoder_bias: whether the decoder's projections of the latent have a bias.
    """

    modality: ClassVar[str] = "text"

    latent_mean: Tensor
    latent_std: Tensor

    @register_to_config
    def __init__(
        self,
        bert: dict[str, Any],
        gpt2: dict[str, Any],
        latent_size: int,
        encoder_ids: dict[str, int],
        decoder_ids: dict[str, int],
        encoder_limit: int = 77,
        max_length: int = 30,
        clean_up: bool = True,
        temperature: float = 1.0,
        drop_repeats: bool = True,
        decoder_bias: bool = False,
    ):
        super().__init__()
        self.encoder = TextEncoder(bert, latent_size)
        self.decoder = LatentDecoder(gpt2, latent_size, decoder_bias)
        self.register_buffer("latent_mean", torch.zeros(latent_size))
        self.register_buffer("latent_std", torch.ones(latent_size))
        self.tokenization: Tokenization | None = None

    def set_tokenizers(self, encoder: Tokenizer, decoder: Tokenizer) -> Optimus:
        """Set the tokenizers, which `save_pretrained` writes with the weights."""
        config = self.config
        special = (SpecialIds(**config.encoder_ids), SpecialIds(**config.decoder_ids))
        self.tokenization = Tokenization(encoder, decoder, *special, config.encoder_limit, config.clean_up)
        return self

    @property
    def tokens(self) -> Tokenization:
        """Tokenization of this codec.

        Raises:
            ValueError: no tokenizers set.
        """
        if self.tokenization is None:
            raise ValueError("this Optimus has no tokenizers: set them with set_tokenizers(encoder, decoder)")
        return self.tokenization

    def latent_shape(self, **size: int) -> tuple[int, ...]:
        """Return (Z,), independent of the text's length."""
        return (self.config.latent_size,)

    def posterior(self, ids: Int[Tensor, "b t"]) -> Posterior:
        """Return mean and log-variance of the unnormalised latent of token ids (begin to end, padded)."""
        return self.encoder(ids, ids != self.config.encoder_ids["pad"])

    @torch.no_grad()
    def encode(self, values: Sequence[str], generators: Generators = None, **size: int) -> Float[Tensor, "b z"]:
        """Encode texts to latents: the posterior mean, or samples with generators (one per text)."""
        ids = self.tokens.for_encoder(values)
        posterior = self.posterior(ids.to(self.device))
        latents = posterior.mean
        if generators is not None:
            noise = [torch.randn(latents.shape[1:], generator=g, device=g.device) for g in generators]
            latents = latents + (0.5 * posterior.logvar).exp() * torch.stack(noise).to(latents)
        return (latents - self.latent_mean) / self.latent_std

    def decode(  # type: ignore[override]
        self,
        latents: Float[Tensor, "b z"],
        generators: Generators = None,
        *,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        max_length: int | None = None,
        drop_repeats: bool | None = None,
    ) -> list[str]:
        """Decode latents to texts: sampled with generators (one per latent), otherwise greedily.

        Raises:
            ValueError: options out of the ranges of `Sampling`, or no tokenizers.
        """
        config, tokens = self.config, self.tokens
        sampling = Sampling(
            temperature=config.temperature if temperature is None else temperature,
            top_k=top_k,
            top_p=top_p,
            max_length=config.max_length if max_length is None else max_length,
        )
        rows = generate(self.decoder, self.raw(latents), tokens.decoder_ids, sampling, generators)
        texts = [tokens.text(row) for row in rows.tolist()]
        drop = config.drop_repeats if drop_repeats is None else drop_repeats
        return [remove_duplicate_word(text) for text in texts] if drop else texts

    def raw(self, latents: Float[Tensor, "b z"]) -> Float[Tensor, "b z"]:
        """Undo the normalisation of latents for the decoder."""
        return latents.to(self.latent_mean) * self.latent_std + self.latent_mean

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write config, weights and tokenizers."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.tokenization is not None:
            self.tokenization.save(Path(save_directory))

    def read_beside(self, folder: Path) -> None:
        """Load the tokenizers if there are any."""
        if (tokenizers := load_tokenizers(folder)) is not None:
            self.set_tokenizers(*tokenizers)
