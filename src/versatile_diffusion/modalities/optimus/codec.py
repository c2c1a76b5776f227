"""Optimus as a codec: texts to latents and back."""

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
from versatile_diffusion.modalities.optimus.decoder import LatentDecoder
from versatile_diffusion.modalities.optimus.encoder import Posterior, TextEncoder
from versatile_diffusion.modalities.optimus.generate import Sampling, generate
from versatile_diffusion.modalities.optimus.repeats import remove_duplicate_word
from versatile_diffusion.modalities.optimus.tokens import SpecialIds, Tokenization, load_tokenizers


class Optimus(Codec):
    """Text autoencoder (paper section 3.3; Li et al. 2020). Latents are vectors (B, Z), normalised per channel.

    Args:
        bert: fields of transformers' `BertConfig`, the encoder.
        gpt2: fields of transformers' `GPT2Config`, the decoder.
        latent_size: channels Z of the latent.
        encoder_ids, decoder_ids: the special ids, as `{"pad": ..., "begin": ..., "end": ...}`.
        encoder_limit: most tokens of a text that are read.
        max_length: most tokens that are written, begin and end counted.
        clean_up: takes back spaces before punctuation in what is written.
        temperature: of sampling where `decode` is given generators but no temperature; 0 is greedy.
        drop_repeats: whether `decode` removes repeated words where it is not told.
        decoder_bias: whether the decoder's maps from the latent have a bias.
    """

    modality: ClassVar[str] = "text"

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
        """Gives the codec its tokenizers, which `save_pretrained` writes beside the weights."""
        config = self.config
        special = (SpecialIds(**config.encoder_ids), SpecialIds(**config.decoder_ids))
        self.tokenization = Tokenization(encoder, decoder, *special, config.encoder_limit, config.clean_up)
        return self

    @property
    def tokens(self) -> Tokenization:
        """The tokenization.

        Raises:
            ValueError: the codec was built without tokenizers.
        """
        if self.tokenization is None:
            raise ValueError("this Optimus has no tokenizers: give it a pair with set_tokenizers(encoder, decoder)")
        return self.tokenization

    def latent_shape(self, **size: int) -> tuple[int, ...]:
        """(Z,), whatever the length of the text."""
        return (self.config.latent_size,)

    def posterior(self, ids: Int[Tensor, "b t"]) -> Posterior:
        """Mean and log-variance of the latent of token ids (begin to end, padded), not normalised."""
        return self.encoder(ids, ids != self.config.encoder_ids["pad"])

    @torch.no_grad()
    def encode(self, values: Sequence[str], generators: Generators = None, **size: int) -> Float[Tensor, "b z"]:
        """Texts to latents: the mean, or a sample of the posterior where generators (one per text) are given."""
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
        """Latents to texts: sampled where generators (one per latent) are given, otherwise the likeliest tokens.

        Raises:
            ValueError: options outside of what `Sampling` allows, or no tokenizers.
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
        """Normalised latents to what the decoder was trained on."""
        return latents.to(self.latent_mean) * self.latent_std + self.latent_mean

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Writes config, weights and tokenizers."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.tokenization is not None:
            self.tokenization.save(Path(save_directory))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Optimus:  # type: ignore[override]
        """Reads what `save_pretrained` wrote; tokenizers are taken from the same folder."""
        model = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        tokenizers = load_tokenizers(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        return model if tokenizers is None else model.set_tokenizers(*tokenizers)
