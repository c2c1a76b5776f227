"""The diffuser: one network for all flows."""

from versatile_diffusion.diffuser.context import Context, MixByLayer, mix_by_attention
from versatile_diffusion.diffuser.unet import MultiFlowUNet

__all__ = ["Context", "MixByLayer", "MultiFlowUNet", "mix_by_attention"]
