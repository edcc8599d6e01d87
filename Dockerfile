# A trained classifier as an HTTP service, without network at run time (docs/serving.md):
#   docker build --tag lpft-serve .
#   docker run --publish 127.0.0.1:8000:8000 --volume "$PWD/runs/reviews:/model:ro" lpft-serve

FROM python:3.12-slim AS build
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.12-slim
# The index of PyTorch's CPU builds beside the usual one; another with --build-arg PIP_ARGS=...
ARG PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir $PIP_ARGS --constraint /wheels/constraints.txt "lpft[serve] @ file://$(ls /wheels/lpft-*.whl)"
RUN useradd --create-home --uid 1000 lpft
USER lpft
ENV HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Inside the container it listens on every address; which of them the world sees, --publish decides.
ENTRYPOINT ["lpft", "serve", "/model", "--host", "0.0.0.0"]
