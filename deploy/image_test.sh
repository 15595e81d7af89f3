#!/bin/sh
# Build the images and look at them as production would; `make image-test` calls it.
#
#   IMAGES      what to build and check             (serve-cpu serve train; Compose needs train)
#   BASE_IMAGE  what to stand on                    (the Dockerfile's; where no image registry is
#               reachable, `debootstrap` makes one of Debian's packages)
#   BUILD_FLAGS more flags of docker build, such as --secret id=pip,src=pip.conf
set -eu
cd "$(dirname "$0")/.."
IMAGES=${IMAGES:-serve-cpu serve train}
export DOCKER_BUILDKIT=1 HANSANG_IMAGES="$IMAGES"

if ! docker info >/dev/null 2>&1; then
    echo "image-test: no Docker engine answers; nothing was built and nothing was checked" >&2
    # An outage must not look like a success, nor break who has no engine: CI decides by this code.
    exit "${NO_ENGINE_CODE:-0}"
fi

if command -v hadolint >/dev/null; then hadolint Dockerfile; else echo "image-test: no hadolint" >&2; fi

if [ -z "${BASE_IMAGE:-}" ] && ! docker pull -q "$(sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)"; then
    echo "image-test: no image registry is reachable; the base comes from debootstrap" >&2
    BASE_IMAGE=hansang-base:debootstrap
    if ! docker image inspect $BASE_IMAGE >/dev/null 2>&1; then
        root=$(mktemp -d)
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root"
        rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* \
            "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/var/log/*.log
        tar -C "$root" -c . | docker import - $BASE_IMAGE
        rm -rf "$root"
    fi
fi

# Where the base cannot be pulled, neither can these; Debian has both, and has no Grafana.
if [ -n "${BASE_IMAGE:-}" ]; then
    for name in postgres prometheus; do
        # shellcheck disable=SC2086
        docker build --build-arg "BASE_IMAGE=$BASE_IMAGE" ${BUILD_FLAGS:-} --target $name \
            --tag "hansang-standin:$name" tests/deploy/standins
    done
    export POSTGRES_IMAGE=hansang-standin:postgres PROMETHEUS_IMAGE=hansang-standin:prometheus
fi

for target in $IMAGES; do
    # shellcheck disable=SC2086  # flags are words
    docker build ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} ${BUILD_FLAGS:-} \
        --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
        --target "$target" --tag "hansang:$target" .
done

"${PYTHON:-python3}" -m pytest tests/deploy -s
docker images hansang
