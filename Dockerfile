# Three images from one file; the first two have no torch.
#
#   docker build --target serve-cpu -t hansang:serve-cpu .    the service on CPUs
#   docker build --target serve     -t hansang:serve .        the service on NVIDIA GPUs
#   docker build --target train     -t hansang:train .        training, Prefect flows, and the service
#
# Needs BuildKit. Any Debian or Ubuntu with Python 3.11 to 3.13 and its venv module may be the base:
# CUDA and cuDNN come as wheels, and the driver from the host. Where a package index of your own is
# wanted, its settings are a secret that stays in no layer: --secret id=pip,src=pip.conf
# (and --secret id=ca,src=ca.pem where its certificate is not known).
ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
# They change with each commit, so an image names them last: its packages stay cached.
ARG VERSION=0.1.0
ARG REVISION=""
ARG CREATED=1970-01-01T00:00:00Z

# hadolint ignore=DL3006  # pinned above
FROM ${BASE_IMAGE} AS pip
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# pip stays behind in its own environment: what serves has no installer.
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/hansang
WORKDIR /requirements

FROM pip AS packages-serve-cpu
COPY requirements/serve-openvino.txt requirements/otel.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/ca.pem \
    /pip/bin/pip --python /opt/hansang/bin/python install --no-compile --no-deps --require-hashes \
    -r serve-openvino.txt -r otel.txt \
    # OpenVINO's plugins for Intel's GPUs and NPUs, and two copies that stand for links: 66 MB.
    && find /opt/hansang/lib/python3.*/site-packages/onnxruntime_ep_openvino \
      \( -name 'libopenvino_intel_[gn]pu_plugin.so' -o -name cache.json -o -name '*_plugin.so.1*' \) -delete \
    # Packages' own tests, and what botocore knows of services beside S3 and those that log in: 24 MB.
    && find /opt/hansang/lib/python3.*/site-packages -type d -name tests -prune -exec rm -r {} + \
    && find /opt/hansang/lib/python3.*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -exec rm -r {} +

# What is of CUDA changes with a new torch alone, and is most of an image: it is a layer of its own.
FROM pip AS locks
COPY requirements/serve.txt requirements/train.txt ./
RUN for role in serve train; do \
      awk -v role="$role" \
        '/^[a-z]/ { part = /^(cuda|nvidia|torch|triton)/ ? "cuda" : "rest" } part { print > role "-" part ".txt" }' \
        "$role.txt" || exit 1; \
    done

FROM pip AS cuda-serve
COPY --from=locks /requirements/serve-cuda.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/ca.pem \
    /pip/bin/pip --python /opt/hansang/bin/python install --no-compile --no-deps --require-hashes \
    -r serve-cuda.txt \
    # What only compilers want, and a second NVRTC that no library here asks for: 125 MB.
    && find /opt/hansang/lib/python3.*/site-packages/nvidia \
      \( -name include -o -name '*.a' -o -name 'libnvrtc*.alt.so*' \) -prune -exec rm -r {} + \
    # The links of the environment come with the other packages.
    && find /opt/hansang -type l -delete

FROM pip AS packages-serve
COPY --from=locks /requirements/serve-rest.txt ./
COPY requirements/otel.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/ca.pem \
    /pip/bin/pip --python /opt/hansang/bin/python install --no-compile --no-deps --require-hashes \
    -r serve-rest.txt -r otel.txt

FROM pip AS cuda-train
COPY --from=locks /requirements/train-cuda.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/ca.pem \
    /pip/bin/pip --python /opt/hansang/bin/python install --no-compile --no-deps --require-hashes \
    -r train-cuda.txt \
    && find /opt/hansang -type l -delete

FROM pip AS packages-train
COPY --from=locks /requirements/train-rest.txt ./
COPY requirements/otel.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/ca.pem \
    /pip/bin/pip --python /opt/hansang/bin/python install --no-compile --no-deps --require-hashes \
    -r train-rest.txt -r otel.txt

FROM scratch AS code
COPY --chmod=0644 LICENSE NOTICE hansang.py machine.py terminal.py /app/
COPY service /app/service
COPY photo_folder /app/photo_folder
COPY storage /app/storage

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS runtime
LABEL org.opencontainers.image.title="Hansang" \
      org.opencontainers.image.description="From folders of food photos to a fast, trustworthy classifier served over gRPC."
# Folders that are volumes belong to the user who writes there; nothing else in the image does.
RUN groupadd --gid 10001 hansang \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin hansang \
    && install -d -o 10001 -g 10001 /models /data /runs /cache
# A user whom the image does not know (--user 1234) has no home and no name but these: matplotlib, torch
# and Prefect ask for them.
ENV PATH=/opt/hansang/bin:${PATH} \
    HOME=/tmp \
    USER=hansang \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
STOPSIGNAL SIGTERM
WORKDIR /tmp

FROM runtime AS service
USER 10001:10001
EXPOSE 8500 8080 8002
ENTRYPOINT ["python", "-m", "hansang"]
CMD ["serve", "--repository", "/models", "--log-format", "json"]
# Of a server on another port or with TLS, HANSANG_PROBE says how to ask (docs/guides/serving.md).
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "service.probe"]

# Layers by how seldom they change. The last one is bytecode of all that a server and its probe
# import: a server of an empty repository has imported it when it says so, and ends with 1.
FROM service AS serve-cpu
COPY --from=packages-serve-cpu /opt/hansang /opt/hansang
COPY --from=code /app /app
USER 0
RUN unset PYTHONDONTWRITEBYTECODE \
    && python -c "import service.probe, service.server.process, service.server.replicas" \
    && { python -m hansang serve --metrics-port 0 --repository /models || [ $? = 1 ]; }
USER 10001:10001
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

FROM service AS serve
COPY --from=cuda-serve /opt/hansang /opt/hansang
COPY --from=packages-serve /opt/hansang /opt/hansang
COPY --from=code /app /app
USER 0
RUN unset PYTHONDONTWRITEBYTECODE \
    && python -c "import service.probe, service.server.process, service.server.replicas" \
    && { python -m hansang serve --metrics-port 0 --repository /models || [ $? = 1 ]; }
USER 10001:10001
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# Without it the service would answer from the CPU, in silence, where the GPU is not there.
CMD ["serve", "--repository", "/models", "--log-format", "json", "--device", "cuda"]

FROM runtime AS train
# With CUDA a training is compiled, and Triton compiles a C stub as it goes: it needs a compiler and
# the headers of libc and Python. Those of Python are in python:slim, and a package where Python is.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && headers="$(python3 -c 'import sysconfig; print(sysconfig.get_path("platinclude"))')" \
    && { [ -f "$headers/Python.h" ] || apt-get install --yes --no-install-recommends libpython3-dev; } \
    && rm -rf /var/lib/apt/lists/*
ENV PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_HOME=/tmp/prefect
# Before what changes: 6.6 GB that the next build shares.
COPY --from=cuda-train /opt/hansang /opt/hansang
COPY --from=packages-train /opt/hansang /opt/hansang
# Bytecode of what is started again and again: health checks, and a process for each run of a flow.
RUN unset PYTHONDONTWRITEBYTECODE \
    && python -c "import urllib.request, torch, prefect.engine, prefect.cli, prefect.server.api.server, prefect.workers.process" \
    && rm -rf "$PREFECT_HOME"
# Flows run in /app, and find by their usual names what lies on volumes. /prefect is for a server.
RUN install -d -o 10001 -g 10001 /prefect && install -d /app && ln -s /runs /cache /models /app/ && ln -s /data /app/photos
COPY --from=code /app /app
COPY --chmod=0644 prefect.yaml /app/
COPY training /app/training
COPY flows /app/flows
USER 10001:10001
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# Runs and models note the revision: there is no git in an image.
ENV HANSANG_REVISION=${REVISION}
ENTRYPOINT ["python", "-m", "hansang"]
CMD ["--help"]
