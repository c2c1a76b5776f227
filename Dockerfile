# The service in a container:
#
#     docker build -t versatile-diffusion .
#     docker build -t versatile-diffusion --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#     docker run -p 8000:8000 -e VERSATILE_API_KEY=... versatile-diffusion
#
# TORCH_INDEX says which build of torch is installed; by default the one for CPUs. A CUDA build brings its own libraries,
# so the base image is the same; the machine needs NVIDIA's driver and container toolkit, and `--gpus all`.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve,ui
RUN python -m venv /opt/versatile
ENV PATH=/opt/versatile/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints constraints
RUN pip install --index-url "${TORCH_INDEX}" "$(head -1 constraints/ci.txt)"
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
COPY models models
# torch is there already, perhaps with a local version such as +cpu, which its own line in the constraints would refuse
RUN tail -n +2 constraints/ci.txt > pins.txt && pip install -c pins.txt ".[${EXTRAS}]" ./models/emoji

FROM python:${PYTHON}-slim
COPY --from=build /opt/versatile /opt/versatile
RUN useradd --create-home versatile && install -d -o versatile -g versatile /cache
USER versatile
WORKDIR /home/versatile
ENV PATH=/opt/versatile/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s CMD \
    ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["versatile", "serve", "--host", "0.0.0.0"]
CMD ["--model", "emoji"]
