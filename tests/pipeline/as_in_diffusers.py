"""What scripts for diffusers write. `test_as_in_diffusers.py` runs it beside a model in `my-model`, an adapter in
`my-lora`, `photo.png`, and a table of images with captions in `rows`."""

# ruff: noqa: F821 # rows is given

import numpy as np
import torch
from diffusers import DiffusionPipeline, UniPCMultistepScheduler
from PIL import Image

from versatile_diffusion import VersatileDiffusionPipeline

pipe = VersatileDiffusionPipeline.from_pretrained("my-model", torch_dtype=torch.float32, use_safetensors=True)
pipe = pipe.to("cpu")
pipe.set_progress_bar_config(disable=True)
generator = torch.Generator("cpu").manual_seed(0)
image = pipe("a red apple", num_inference_steps=2, guidance_scale=7.5, generator=generator).images[0]
image.save("apple.png")
init = Image.open("photo.png").convert("RGB")
mixed = pipe(prompt="a red apple", image=init, num_inference_steps=2).images
variations = pipe.image_variation(image=init, num_images_per_prompt=2, num_inference_steps=2).images
images = pipe(["a cat", "a dog"], negative_prompt="blurry", num_inference_steps=2, return_dict=False)[0]
second = pipe.text_to_image(["a cat", "a dog"], num_inference_steps=2)[1].images[0]
arrays = pipe("a cat", output_type="np", num_inference_steps=2).images
tensors = pipe("a cat", output_type="pt", num_inference_steps=2).images
again = [pipe.image_variation(x, num_inference_steps=2).images[0] for x in (arrays, tensors, arrays[0], tensors[0])]
caption = pipe.image_to_text((tensors * 255).to(torch.uint8), num_inference_steps=2).texts[0]
started = pipe("a cat", start=tensors, strength=np.float32(0.6), num_inference_steps=np.int64(4)).images[0]
sized = pipe("a cat", height=np.int32(24), width=np.int64(16), seed=np.uint32(7), num_inference_steps=2).images[0]
steps = []
pipe("a cat", num_inference_steps=2, callback_on_step_end=lambda p, i, t, kwargs: steps.append(list(kwargs)) or kwargs,
     callback_on_step_end_tensor_inputs=["latents"])  # fmt: skip
prompt_embeds, negative_prompt_embeds = pipe.encode_prompt("a cat", "cpu", 1, True, negative_prompt="blurry")
embedded = pipe(
    prompt_embeds=prompt_embeds, negative_prompt_embeds=negative_prompt_embeds, num_inference_steps=2
).images
latents = torch.randn(1, *pipe.bank.codecs["image"].latent_shape(), generator=torch.Generator().manual_seed(3))
from_latents = pipe("a cat", latents=latents, num_inference_steps=2).images[0]
pipe.enable_vae_slicing()
pipe.enable_vae_tiling()
pipe.enable_attention_slicing()
sliced = pipe(["a cat", "a dog"], num_inference_steps=2).images
pipe.load_lora_weights("my-lora", weight_name="pytorch_lora_weights.safetensors", adapter_name="style")
pipe.load_lora_weights("my-lora", adapter_name="other")
pipe.set_adapters(["style", "other"], adapter_weights=[0.7, 0.2])
styled = pipe("a cat", latents=latents, num_inference_steps=2)
pipe.fuse_lora(lora_scale=0.5)
pipe.unfuse_lora()
pipe.unload_lora_weights()
plain = pipe("a cat", latents=latents, num_inference_steps=2).images[0]
captions = pipe.image_to_text([row["image"] for row in rows], num_inference_steps=2).texts
drawn = pipe(rows["text"], num_inference_steps=2).images
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
quick = pipe("a cat", num_inference_steps=2).images[0]
pipe.save_pretrained("half", variant="fp16")
half = VersatileDiffusionPipeline.from_pretrained(
    "half", variant="fp16", torch_dtype=torch.float16, device_map="balanced"
)
half = VersatileDiffusionPipeline.from_pretrained("half", variant="fp16", safety_checker=None, low_cpu_mem_usage=True)
half.enable_group_offload(
    onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
)
offloaded = half("a cat", num_inference_steps=2).images[0]
other = VersatileDiffusionPipeline(**pipe.components)
try:
    DiffusionPipeline.from_pretrained("my-model")
except AttributeError as error:
    refused = str(error)
