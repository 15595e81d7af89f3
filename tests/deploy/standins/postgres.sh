# As the official image does for a user of its own: a database at the first start, the password from
# a file.
set -e
data=${PGDATA:-/var/lib/postgresql/data/main}
sockets=${PGSOCKETS:-/var/run/postgresql}
if [ ! -s "$data/PG_VERSION" ]; then
    initdb --encoding UTF8 --pgdata "$data" --username "$POSTGRES_USER" \
        --pwfile "$POSTGRES_PASSWORD_FILE" --auth-host scram-sha-256
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    pg_ctl --pgdata "$data" --wait --options "-c listen_addresses= -k $sockets" start
    createdb --host "$sockets" --username "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl --pgdata "$data" --wait stop
fi
exec postgres -D "$data" -c "listen_addresses=*" -k "$sockets"
