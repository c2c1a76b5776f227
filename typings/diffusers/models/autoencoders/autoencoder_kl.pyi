from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin

class AutoencoderKL(ModelMixin, ConfigMixin): ...
