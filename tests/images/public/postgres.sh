#!/bin/sh
# Makes the database at the first start, with POSTGRES_PASSWORD, and then runs the command.
set -e
[ "$1" = postgres ] || exec "$@"
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  [ -n "$POSTGRES_PASSWORD" ] || { echo "POSTGRES_PASSWORD is not set" >&2; exit 1; }
  mkdir -p "$PGDATA"
  chown postgres "$PGDATA"
  printf '%s' "$POSTGRES_PASSWORD" > /tmp/password
  chmod 644 /tmp/password
  su postgres -c "$bin/initdb --pgdata $PGDATA --auth-host scram-sha-256 --auth-local trust --pwfile /tmp/password" > /dev/null
  rm /tmp/password
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
exec su postgres -c "exec $bin/postgres -D $PGDATA -c listen_addresses='*' -k /tmp"
