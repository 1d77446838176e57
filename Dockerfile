# Two images, for CPU and for NVIDIA GPUs, from the pinned lists in requirements/:
#   docker build --target cpu -t aloe:cpu .
#   docker build --target gpu -t aloe:gpu .
# Never built so far: there was no container engine where this was written. The steps are those
# of the Makefile and of the lists' head comments; the CPU ones have run outside a container.
#
# The CUDA toolkit is only needed to compile (flash-attn here; DeepSpeed and vLLM kernels at
# first use); CUDA's libraries come with torch. Its build for the older Ubuntu fits this Debian.
FROM nvidia/cuda:13.0.1-devel-ubuntu22.04 AS cuda

FROM python:3.11.14-slim-bookworm AS base
# g++: DeepSpeed compiles its Adam with it (ninja comes from the list). libnuma1: vLLM on
# CPU. wget: KubeRay's health probes call it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libnuma1 wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --create-home aloe
# No venv: a login shell, which KubeRay may start, would lose its PATH.
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1
WORKDIR /opt/aloe

FROM base AS cpu
COPY requirements/cpu.txt requirements/install.sh requirements/
RUN requirements/install.sh python requirements/cpu.txt
COPY . .
RUN pip install --no-deps --no-build-isolation .
USER 1000:1000
# For the CPU that the image is built on; on another kind they are built at the first training.
RUN aloe doctor --build
CMD ["aloe", "doctor"]

FROM base AS gpu
COPY --from=cuda /usr/local/cuda-13.0 /usr/local/cuda
ENV CUDA_HOME=/usr/local/cuda \
    PATH=$PATH:/usr/local/cuda/bin \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# A100 and H100; a compile job takes up to some 10 GB.
ARG FLASH_ATTN_CUDA_ARCHS="80;90"
ARG MAX_JOBS=4
COPY requirements/gpu.txt requirements/install.sh requirements/
RUN FLASH_ATTENTION_FORCE_BUILD=TRUE requirements/install.sh python requirements/gpu.txt
COPY . .
RUN pip install --no-deps --no-build-isolation .
USER 1000:1000
CMD ["aloe", "doctor"]
