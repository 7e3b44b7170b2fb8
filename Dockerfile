# swinkit serve. No model is inside: mount one at /model.
#
#   docker build -t swinkit .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs/my-run:/model:ro" swinkit
#   docker run --rm -p 8000:8000 -v "$PWD/runs/my-run:/model:ro" -e SWINKIT_TOKEN swinkit
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/model.onnx:/model.onnx:ro" swinkit /model.onnx --host 0.0.0.0 --max-batch 8
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# PyTorch for the CPU alone, a fraction of the size; for NVIDIA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# What else to install: "serve,onnx" or "serve,openvino" to serve exported files.
ARG EXTRAS=serve
# A compiler, for swinkit's own kernels. It stays in this stage.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/swinkit
ENV PATH=/opt/swinkit/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN pip install "torch>=2.11" "torchvision>=0.26" --index-url "${TORCH_INDEX}"
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY src src
RUN pip install ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/swinkit /opt/swinkit
RUN useradd --system --uid 10001 --create-home swinkit
ENV PATH=/opt/swinkit/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER 10001
WORKDIR /home/swinkit
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# SIGTERM, which `docker stop` sends: what was taken is answered first. Give it the time: docker stop --time 30.
STOPSIGNAL SIGTERM
ENTRYPOINT ["swinkit", "serve"]
CMD ["/model", "--host", "0.0.0.0"]
