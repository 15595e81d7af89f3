# As the official image does: a database and its user at the first start, the password from a file.
set -e
data=/var/lib/postgresql/data/main
if [ ! -s "$data/PG_VERSION" ]; then
    install -d -o postgres -g postgres -m 700 "$data"
    install -o postgres -m 600 "$POSTGRES_PASSWORD_FILE" /tmp/password
    setpriv --reuid postgres --regid postgres --clear-groups initdb --encoding UTF8 --pgdata "$data" \
        --username "$POSTGRES_USER" --pwfile /tmp/password --auth-host scram-sha-256
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    setpriv --reuid postgres --regid postgres --clear-groups pg_ctl --pgdata "$data" --wait \
        --options "-c listen_addresses=" start
    setpriv --reuid postgres --regid postgres --clear-groups createdb --host /var/run/postgresql \
        --username "$POSTGRES_USER" "$POSTGRES_DB"
    setpriv --reuid postgres --regid postgres --clear-groups pg_ctl --pgdata "$data" --wait stop
fi
exec setpriv --reuid postgres --regid postgres --clear-groups \
    postgres -D "$data" -c "listen_addresses=*"
