#!/bin/sh
# Build the images and look at them as production would; `make image-test` calls it.
#
#   IMAGES      what to build and check             (serve-cpu serve train; Compose needs train)
#   BASE_IMAGE  what to stand on                    (the Dockerfile's; where no image registry is
#               reachable, `debootstrap` makes one of Debian's packages)
#   BUILD_FLAGS more flags of docker build, such as --secret id=pip,src=pip.conf
#   KEEP        if set, images stay when it is done (they are tagged hansang-test, and removed)
set -eu
cd "$(dirname "$0")/.."
IMAGES=${IMAGES:-serve-cpu serve train}
export DOCKER_BUILDKIT=1 HANSANG_IMAGES="$IMAGES"

if ! docker info >/dev/null 2>&1; then
    echo "image-test: no Docker engine answers; nothing was built and nothing was checked" >&2
    # An outage must not look like a success, nor break who has no engine: CI decides by this code.
    exit "${NO_ENGINE_CODE:-0}"
fi

# Clients since 23.0 build with BuildKit by this plugin alone; older ones have it within.
client=$(docker version --format '{{.Client.Version}}')
if [ "${client%%.*}" -ge 23 ] && ! docker buildx version >/dev/null 2>&1; then
    echo "image-test: Docker's client $client cannot build without its plugin buildx: install the" \
        "package docker-buildx (docker-buildx-plugin in Docker's own repository)" >&2
    exit 1
fi

hadolint Dockerfile tests/deploy/standins/Dockerfile

root=
made=
clean() {
    if [ -n "$root" ]; then rm -rf "$root"; fi
    # shellcheck disable=SC2086  # names are words
    if [ -z "${KEEP:-}" ] && [ -n "$made" ]; then docker rmi --force $made >/dev/null; fi
}
trap clean EXIT
trap 'exit 1' HUP INT TERM

build() {  # tag, then flags and the folder
    tag=$1
    shift
    # shellcheck disable=SC2086  # flags are words
    docker build ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} ${BUILD_FLAGS:-} --tag "$tag" "$@"
    made="$made $tag"
}

if [ -z "${BASE_IMAGE:-}" ] && ! docker pull -q "$(sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)"; then
    echo "image-test: no image registry is reachable; the base comes from debootstrap" >&2
    BASE_IMAGE=hansang-test:base
    if ! docker image inspect $BASE_IMAGE >/dev/null 2>&1; then
        root=$(mktemp -d)
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root"
        rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* \
            "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/var/log/*.log
        tar -C "$root" -c . | docker import - $BASE_IMAGE
        made=$BASE_IMAGE
        rm -rf "$root"
    fi
fi

# Where the base cannot be pulled, neither can these; Debian has both, and has no Grafana. Compose is
# tried with the image that trains, and needs them then only.
case " $IMAGES " in *" train "*)
    if [ -n "${BASE_IMAGE:-}" ]; then
        for name in postgres prometheus; do
            build "hansang-test:$name" --target $name tests/deploy/standins
        done
        export POSTGRES_IMAGE=hansang-test:postgres PROMETHEUS_IMAGE=hansang-test:prometheus
    fi ;;
esac

HANSANG_VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
HANSANG_REVISION=$(git rev-parse HEAD)
HANSANG_CREATED=$(TZ=UTC git show -s --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd)
export HANSANG_VERSION HANSANG_REVISION HANSANG_CREATED
for target in $IMAGES; do
    build "hansang-test:$target" --target "$target" --build-arg "VERSION=$HANSANG_VERSION" \
        --build-arg "REVISION=$HANSANG_REVISION" --build-arg "CREATED=$HANSANG_CREATED" .
done

"${PYTHON:-python3}" -m pytest tests/deploy -s
docker images hansang-test
