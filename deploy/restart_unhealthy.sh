#!/bin/sh
# Restart the parts of Compose that are unhealthy: Docker restarts only what ends. From the host,
# each minute (crontab -e), so that no container needs the engine's socket, which is root's rights:
#
#   * * * * * /srv/hansang/deploy/restart_unhealthy.sh
#
# Workers are left alone: a training that goes on while Prefect's server is away is worth more.
set -eu
project=${COMPOSE_PROJECT_NAME:-hansang}
unhealthy=$(docker ps --quiet --filter health=unhealthy --filter label=hansang.restart=unhealthy \
    --filter "label=com.docker.compose.project=$project")
for container in $unhealthy; do
    name=$(docker inspect --format '{{.Name}}' "$container")
    echo "$(date -u +%FT%TZ) ${name#/} is unhealthy: restarted"
    docker restart "$container" >/dev/null
done
