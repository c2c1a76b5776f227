"""What this project uses of diffusers, whose lazy modules show type checkers placeholders in place of its classes."""

from diffusers.configuration_utils import ConfigMixin as ConfigMixin
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin as ModelMixin
from diffusers.pipelines import DiffusionPipeline as DiffusionPipeline
from diffusers.schedulers import DDIMScheduler as DDIMScheduler
from diffusers.schedulers import DPMSolverMultistepScheduler as DPMSolverMultistepScheduler
from diffusers.schedulers import SchedulerMixin as SchedulerMixin
from diffusers.schedulers import UniPCMultistepScheduler as UniPCMultistepScheduler

__version__: str
