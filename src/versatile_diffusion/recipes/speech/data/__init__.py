"""The speech set: the concepts of the emoji set, spoken by espeak-ng in fourteen voices of English."""

from versatile_diffusion.recipes.speech.data.build import SpeechManifest as SpeechManifest
from versatile_diffusion.recipes.speech.data.build import build_speech as build_speech
