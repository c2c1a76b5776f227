"""Training of the text codec.

A text must remain readable when its latent is off by some tenths of a standard deviation, as after diffusion, so the
decoder is trained on noisy latents. The noise is relative to each channel's standard deviation over the batch: the
codec cannot evade it by scaling its latents, and channels do not collapse, as they tend to with a KL term.

Without guidance a codec learns a code without semantics, in which "cat" is far from "cat face", and a diffusion model
would have to memorise every label. So the first channels are trained to match the global vector of a context encoder
for the same text; the others store what that vector lacks, above all the form of the sentence.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from versatile_diffusion.modalities.encoders.dual import DualTextEncoder
from versatile_diffusion.modalities.text.optimus import Optimus
from versatile_diffusion.training.engine.loop import Objective
from versatile_diffusion.training.engine.optimizer import ParameterGroups, adamw_and_muon
from versatile_diffusion.training.parts.principal import onto_principal_directions

PAD, UNKNOWN, BEGIN, END = range(4)  # of the data set's tokenizer


@dataclass(frozen=True)
class TextCodecSettings:
    """Architecture and training settings of the text codec.

    Args:
        width, layers, heads: of the encoder and the decoder.
        initializer_range: standard deviation of the initial weights (0.02 suits wider networks).
        latent_size: number of latent channels; with a guide, as many of them as its width are trained to match it.
        guide_weight: weight of the mean squared error to the guide's vector, whose entries are of order 1.
        max_length: maximum length of a text in tokens, including begin and end.
        batch_size: captions per step.
        lr, weight_decay: of AdamW (embeddings, biases, norms).
        muon_lr: learning rate of Muon for matrices; None: AdamW.
        posterior: standard deviation of the encoder's posterior, relative to that of the channel.
        word_dropout: share of the decoder's input tokens that are masked.
        noise: maximum standard deviation of the noise on latents, relative to that of the channel.
        label_share: share of texts that are labels or keywords of concepts.
        buckets: batches are drawn from a pool of this many batches, sorted by length to reduce padding.
        held_out: captions per held-out split that are evaluated.
    """

    width: int = 192
    layers: int = 2
    heads: int = 6
    initializer_range: float = 0.06
    latent_size: int = 224
    guide_weight: float = 4.0
    max_length: int = 30
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.01
    muon_lr: float | None = 0.02
    posterior: float = 0.1
    word_dropout: float = 0.1
    noise: float = 0.8
    label_share: float = 0.05
    buckets: int = 8
    held_out: int = 512


@dataclass(frozen=True)
class CaptionCorpus:
    """Training and evaluation texts of a text codec.

    Args:
        tokenizer: its first four ids are padding, unknown, begin and end.
        training: captions.
        words: labels and keywords, `label_share` of the training texts.
        held_out: evaluation captions by split; those that occur in training are skipped.
    """

    tokenizer: Tokenizer
    training: Sequence[str]
    words: Sequence[str]
    held_out: Mapping[str, Sequence[str]]


class TextBatch(NamedTuple):
    """Token ids with the random masks and noise of a step."""

    ids: Int[Tensor, "b t"]
    hidden: Bool[Tensor, "b t"]
    noise: Float[Tensor, "b z"]


class TextCodecObjective(Objective[Optimus]):
    """Next-token cross-entropy from a noisy latent; evaluated by exact reconstruction of held-out captions.

    Args:
        data: training and evaluation captions.
        settings: of codec and training.
        device: to train on.
        guide: a text encoder with the same tokens whose vectors the first latent channels are trained to match; without
            one all channels are free, and the export projects them onto their principal directions.

    Raises:
        ValueError: the guide's vectors are longer than the latent.
    """

    name = "text-codec"

    def __init__(
        self,
        data: CaptionCorpus,
        settings: TextCodecSettings,
        device: torch.device,
        guide: DualTextEncoder | None = None,
    ):
        self.recipe, self.device, self.batch_size = settings, device, settings.batch_size
        if guide is not None and guide.config.width > settings.latent_size:
            width, size = guide.config.width, settings.latent_size
            raise ValueError(f"latent_size is {size}; with a guide of width {width} it must be {width} or more")
        self.guide = guide.to(device).eval().requires_grad_(False) if guide is not None else None
        self.tokenizer = data.tokenizer
        self.captions = self._ids(data.training).to(device)
        self.words = self._ids(data.words).to(device)
        seen = {_plain(caption) for caption in data.training}
        self.held_out = {split: _unseen(texts, seen, settings.held_out) for split, texts in data.held_out.items()}

    def _ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids with begin and end, padded to `max_length`, as int16."""
        longest = self.recipe.max_length
        rows = [[BEGIN, *e.ids[: longest - 2], END] for e in self.tokenizer.encode_batch_fast(list(texts))]
        lengths = np.fromiter(map(len, rows), dtype=np.int64)
        table = np.full((len(rows), longest), PAD, dtype=np.int16)
        table[np.arange(longest) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), dtype=np.int16)
        return torch.from_numpy(table)

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def build(self) -> Optimus:
        recipe, positions = self.recipe, self.recipe.max_length + 2
        ids = {"pad": PAD, "begin": BEGIN, "end": END}
        bert = {
            "vocab_size": self.tokenizer.get_vocab_size(),
            "hidden_size": recipe.width,
            "num_hidden_layers": recipe.layers,
            "num_attention_heads": recipe.heads,
            "intermediate_size": 4 * recipe.width,
            "max_position_embeddings": positions,
            "initializer_range": recipe.initializer_range,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        gpt2 = {
            "vocab_size": self.tokenizer.get_vocab_size(),
            "n_positions": positions,
            "n_embd": recipe.width,
            "n_layer": recipe.layers,
            "n_head": recipe.heads,
            "initializer_range": recipe.initializer_range,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
        model = Optimus(
            bert,
            gpt2,
            latent_size=recipe.latent_size,
            encoder_ids=ids,
            decoder_ids=ids,
            encoder_limit=recipe.max_length - 2,
            max_length=recipe.max_length,
            clean_up=False,
            temperature=0.0,
            drop_repeats=False,  # "family: man, man, boy" is a valid label
        )
        # With shared embeddings, copying a word is one linear map for the whole vocabulary.
        with torch.no_grad():
            model.encoder.bert.embeddings.word_embeddings.weight.copy_(model.decoder.gpt2.wte.weight)
        return model

    def optimizers(self, module: Optimus) -> list[torch.optim.Optimizer]:
        recipe = self.recipe
        matrices = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear | Conv1D)}
        groups = ParameterGroups()
        for p in module.parameters():
            target = groups.no_decay if id(p) not in matrices else groups.muon if recipe.muon_lr else groups.decay
            target.append(p)
        return adamw_and_muon(groups, recipe, recipe.weight_decay)

    def batch(self, step: int, generator: torch.Generator) -> TextBatch:
        """Texts of similar length, some of them labels or keywords."""
        recipe, device = self.recipe, self.device
        size, pool = recipe.batch_size, recipe.batch_size * recipe.buckets

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        def draw(texts: Tensor, count: int) -> Tensor:
            return texts[torch.randint(len(texts), (count,), generator=generator, device=device)]

        words = round(recipe.label_share * pool)
        ids = torch.cat([draw(self.captions, pool - words), draw(self.words, words)]).long()
        lengths = (ids != PAD).sum(1)
        bucket = int(torch.randint(recipe.buckets, (1,), generator=generator, device=device))
        rows = (lengths + uniform(pool)).argsort()[bucket * size : (bucket + 1) * size]
        ids = ids[rows, : int(lengths[rows].max())]
        noise = torch.randn(size, recipe.latent_size, generator=generator, device=device)
        return TextBatch(ids, uniform(*ids.shape) < recipe.word_dropout, recipe.noise * uniform(size, 1) * noise)

    def loss(self, module: Optimus, batch: TextBatch) -> tuple[Tensor, dict[str, Tensor]]:
        ids = batch.ids
        mean = module.posterior(ids).mean
        inputs = ids.masked_fill(batch.hidden & (ids != BEGIN), UNKNOWN)[:, :-1]
        logits = module.decoder(inputs, mean + mean.std(0) * batch.noise)
        text = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
        if self.guide is None:
            return text, {}
        wanted = self._guiding(ids)
        guide = F.mse_loss(mean[:, : wanted.shape[1]], wanted)
        return text + self.recipe.guide_weight * guide, {"text": text.detach(), "guide": guide.detach()}

    @torch.no_grad()
    def _guiding(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b d"]:
        """The guide's global vectors of the texts, without the begin and end tokens."""
        assert self.guide is not None
        inner = ids[:, 1 : self.guide.config.limit + 1]
        return self.guide(inner.masked_fill(inner == END, PAD)).tokens(self.guide.config.token_scale)[:, 0]

    def evaluate(self, module: Optimus) -> dict[str, float]:
        """Share of captions that are reconstructed exactly, and of tokens; also with noise on the latents."""
        self._calibrate(module)
        result = {}
        for split, texts in self.held_out.items():
            latents = module.encode(texts)
            result[f"exact/{split}"] = _exact(module.decode(latents), texts)
            result[f"token/{split}"] = self._token_accuracy(module, texts, latents)
        texts = self.held_out["pair-val"]
        latents = module.encode(texts)
        for strength in (0.1, 0.2, 0.3, 0.5):
            generator = torch.Generator(self.device).manual_seed(0)
            noise = torch.randn(latents.shape, generator=generator, device=self.device)
            result[f"exact/pair-val/noise-{strength}"] = _exact(module.decode(latents + strength * noise), texts)
        return result

    def sample_sheet(self, module: Optimus, path: Path) -> None:
        """Write held-out captions with their reconstructions, also from noisy latents, and interpolations between
        captions."""
        self._calibrate(module)
        texts = [text for split in self.held_out.values() for text in split[:16]]
        latents = module.encode(texts)
        noise = torch.randn(latents.shape, generator=torch.Generator(self.device).manual_seed(0), device=self.device)
        noisy = module.decode(latents + 0.3 * noise)
        rows = zip(texts, module.decode(latents), noisy, strict=True)
        lines = [f"{text}\n  -> {back}\n  ~> {rough}" for text, back, rough in rows]
        weights = torch.linspace(0, 1, 7, device=self.device)[:, None]
        for left, right in zip(latents[:8:2], latents[1:8:2], strict=True):
            lines.append(" | ".join(module.decode((1 - weights) * left + weights * right)))
        path.with_suffix(".txt").write_text("\n".join(lines) + "\n")

    def export(self, module: Optimus, folder: Path) -> None:
        """Compute the latent statistics on the training captions, project the latents onto their principal directions
        (with a guide, preserving its proportions), and save the codec with its tokenizer."""
        self._calibrate(module, 32_768)
        least = 0.1 if self.guide is None else 0.2
        turned = onto_principal_directions(module, self._some_captions(32_768), least, whiten=self.guide is None)
        self._calibrate(turned, 32_768)
        turned.save_pretrained(folder)

    @torch.no_grad()
    def _calibrate(self, module: Optimus, count: int = 4096) -> None:
        """Set the mean and standard deviation per channel from `count` training captions, and fit the log-variance,
        which the loss does not train, to the constant of the settings by least squares."""
        module.set_tokenizers(self.tokenizer, self.tokenizer)
        chosen = self._some_captions(count)
        pooled = torch.cat([module.encoder.pooled(part, part != PAD) for part in torch.split(chosen, 512)])
        to_mean, to_logvar = module.encoder.to_moments.weight.chunk(2)
        means = pooled @ to_mean.T
        module.latent_mean.copy_(means.mean(0))
        module.latent_std.copy_(means.std(0))
        wanted = 2 * (self.recipe.posterior * module.latent_std).log().expand_as(means)
        to_logvar.copy_(torch.linalg.lstsq(pooled, wanted).solution.T)

    def _some_captions(self, count: int) -> Tensor:
        return self.captions[:: max(1, len(self.captions) // count)].long()

    def _token_accuracy(self, module: Optimus, texts: Sequence[str], latents: Tensor) -> float:
        """Next-token accuracy with teacher forcing."""
        ids = module.tokens.for_decoder(texts).to(self.device)
        guesses = module.decoder(ids[:, :-1], module.raw(latents)).argmax(-1)
        counted = ids[:, 1:] != PAD
        return float((guesses == ids[:, 1:])[counted].float().mean())


def _plain(text: str) -> str:
    """A text after the tokenizer's normalisation, which is what the codec can reproduce."""
    return unicodedata.normalize("NFC", text).lower()


def _unseen(captions: Sequence[str], seen: set[str], count: int) -> list[str]:
    """`count` captions that are not in `seen`, evenly spaced in alphabetical order."""
    texts = sorted({_plain(text) for text in captions} - seen)
    return texts[:: max(1, len(texts) // count)][:count]


def _exact(found: Sequence[str], wanted: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)
