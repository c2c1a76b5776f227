"""The HTTP service: endpoints in OpenAI's form and our own, on top of the engine. Needs the extra `serve`."""
