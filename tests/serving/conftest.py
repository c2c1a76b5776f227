"""A service of a tiny model, in this process, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from tiny import build_tiny_pipeline

from versatile_diffusion import VersatileDiffusionPipeline, serving


@pytest.fixture(scope="package")
def pipe() -> VersatileDiffusionPipeline:
    return build_tiny_pipeline()


@pytest.fixture(scope="package")
def client(pipe: VersatileDiffusionPipeline) -> Iterator[TestClient]:
    """Of a service, by HTTP but without a network; faults of the service are raised in the test."""
    with TestClient(serving.app(pipe, name="tiny"), base_url="http://127.0.0.1") as made:
        yield made


@pytest.fixture(scope="package")
def openai(client: TestClient) -> OpenAI:
    """OpenAI's own client, which sends to that service."""
    return OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)
