#!/bin/sh
# A throw-away PostgreSQL that anybody in its network may use: the network is the environment's own.
set -e
version=$(ls /usr/lib/postgresql)
bin=/usr/lib/postgresql/$version/bin
data=/var/lib/postgresql/guestbook
[ -d "$data" ] || su postgres -c "$bin/initdb --pgdata $data --auth trust --no-sync" > /dev/null
echo "host all all all trust" >> "$data/pg_hba.conf"
exec su postgres -c "exec $bin/postgres -D $data -c listen_addresses='*' -c fsync=off -k /tmp"
