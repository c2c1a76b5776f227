"""Protocol of the model that a run needs, so that nothing below the pipeline imports it."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.pipeline.distilled import DistilledForm
from versatile_diffusion.tasks import Task


class Model(Protocol):
    """A diffuser with codecs, context encoders and noise schedule.

    Args:
        unet: the diffuser.
        bank: its codecs and context encoders.
        scheduler: scheduler with the noise schedule of training.
        config: has `styles` and `defaults`.
        model_name: name for records.
    """

    unet: MultiFlowUNet
    bank: ModalityBank
    scheduler: Any
    config: Any
    model_name: str

    @property
    def _execution_device(self) -> torch.device: ...

    def tasks(self) -> list[Task]:
        """Return the tasks the model supports."""
        ...

    def form_of(self, fast: Any) -> DistilledForm | None:
        """Return the distilled form that a preset uses, if it uses one."""
        ...

    def network(self, fast: str) -> MultiFlowUNet:
        """Return the diffuser of a preset."""
        ...

    def fingerprint(self) -> str:
        """Return the hash of the weights, see `records.record.fingerprint`."""
        ...
