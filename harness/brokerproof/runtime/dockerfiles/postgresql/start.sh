#!/bin/sh
# Sets the password (of the environment, so that it stands in no command line), then serves. Arguments are settings: -c name=value.
set -e
printf "ALTER USER postgres PASSWORD '%s'\n" "${STORE_PASSWORD:?}" |
    /usr/local/lib/postgresql/postgres --single -D /var/lib/postgresql/data postgres >/dev/null
unset STORE_PASSWORD
exec /usr/local/lib/postgresql/postgres -D /var/lib/postgresql/data -c listen_addresses='*' -c max_connections=200 "$@"
