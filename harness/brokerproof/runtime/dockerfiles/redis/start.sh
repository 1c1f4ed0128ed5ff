#!/bin/sh
# Serves with the password of the environment, which stands in no command line. Arguments are settings: --appendonly yes.
set -e
umask 077
printf 'bind 0.0.0.0\nrequirepass %s\nsave ""\nappendonly no\ndir /var/lib/redis\n' "${STORE_PASSWORD:?}" >/var/lib/redis/brokerproof.conf
unset STORE_PASSWORD
exec redis-server /var/lib/redis/brokerproof.conf "$@"
