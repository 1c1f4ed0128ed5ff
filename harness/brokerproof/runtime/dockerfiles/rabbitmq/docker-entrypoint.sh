#!/bin/sh
# What the official image's entry point does, as far as the harness uses it: the cookie from the environment, and the rabbitmq user.
set -e
if [ -n "${RABBITMQ_ERLANG_COOKIE:-}" ]; then
    if [ ! -e /var/lib/rabbitmq/.erlang.cookie ]; then
        printf '%s' "$RABBITMQ_ERLANG_COOKIE" > /var/lib/rabbitmq/.erlang.cookie
        chmod 600 /var/lib/rabbitmq/.erlang.cookie
    fi
    unset RABBITMQ_ERLANG_COOKIE  # the file is enough; RabbitMQ warns about the variable
fi
if [ "$(id -u)" = 0 ]; then
    # a mounted directory belongs to whoever made it
    find /var/lib/rabbitmq \! -user rabbitmq -exec chown rabbitmq:rabbitmq '{}' +
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups -- "$@"
fi
exec "$@"
