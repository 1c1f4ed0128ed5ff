#!/bin/sh
# Makes the user (its password is of the environment, so that it stands in no command line), then serves. Arguments are options.
set -e
umask 077
cat >/run/mysqld/first.sql <<SQL
CREATE OR REPLACE USER 'brokerproof'@'%' IDENTIFIED BY '${STORE_PASSWORD:?}';
GRANT ALL ON *.* TO 'brokerproof'@'%';
CREATE DATABASE IF NOT EXISTS brokerproof;
SQL
unset STORE_PASSWORD
exec mariadbd --init-file=/run/mysqld/first.sql --bind-address=0.0.0.0 --skip-name-resolve --max-connections=200 "$@"
