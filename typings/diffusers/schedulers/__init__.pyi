from typing import Any

from diffusers.configuration_utils import ConfigMixin
from torch import Tensor

class SchedulerMixin:
    timesteps: Tensor
    order: int
    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None: ...
    def step(self, *given: Any, **options: Any) -> Any: ...
    def __getattr__(self, name: str) -> Any: ...

class DDIMScheduler(SchedulerMixin, ConfigMixin):
    alphas_cumprod: Tensor
    final_alpha_cumprod: Tensor
    num_inference_steps: int | None
    def __init__(self, **options: Any) -> None: ...

class DPMSolverMultistepScheduler(SchedulerMixin, ConfigMixin):
    def __init__(self, **options: Any) -> None: ...

class UniPCMultistepScheduler(SchedulerMixin, ConfigMixin):
    def __init__(self, **options: Any) -> None: ...
