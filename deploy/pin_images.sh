#!/bin/sh
# Pin the images that compose.yaml takes from others, by what their tags mean today: a line of .env
# for each, such as POSTGRES_IMAGE=postgres:17.6-bookworm@sha256:… A tag may be moved, a digest
# cannot. `make pin-images` calls it; run it again for newer ones, and `docker compose up` takes them.
set -eu
cd "${1:-$(dirname "$0")/..}"
touch .env
sed -n 's/^ *image: \${\([A-Z_]*\):-\(.*\)}$/\1 \2/p' compose.yaml | sort -u | while read -r name image; do
    case $image in hansang:*) continue ;; esac # built here
    docker pull --quiet "$image" >/dev/null
    digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" \
        | sed -n 's/.*@\(sha256:[0-9a-f]*\)$/\1/p' | head -n 1)
    if [ -z "$digest" ]; then
        echo "pin-images: $image has no digest: it came from no registry" >&2
        exit 1
    fi
    # Written beside it: a kill must not cost the rest of the file.
    { grep -v "^$name=" .env || true; } > .env.new
    echo "$name=$image@$digest" >> .env.new
    mv .env.new .env
    echo "$name=$image@$digest"
done
