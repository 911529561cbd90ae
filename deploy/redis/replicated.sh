#!/bin/sh
# Starts a server that Sentinels may make primary or replica: replicated.sh ITS-NAME THE-FIRST-PRIMARY'S-NAME.
# Which of the two it is stands in /data/redis.conf, written there by the server itself: it goes on as what it was.
set -eu
umask 077

name=$1
primary=$2
config=/data/redis.conf
[ -e "$config" ] || {
    echo "include /etc/token-broker/redis.conf"
    echo "replica-announce-ip $name"            # a name outlives the address of a container
    echo "repl-diskless-sync-delay 0"            # there is no second replica to wait for
    [ "$name" = "$primary" ] || echo "replicaof $primary 6379"
} >"$config"

# The password is written anew at each start, by builtins: never in an argument or the environment.
password=$(cat /run/secrets/replica_password)
{
    grep -v -e '^masteruser ' -e '^masterauth ' "$config"
    echo "masteruser replica"
    echo "masterauth $password"
} >"$config.new"
mv "$config.new" "$config"

cat /etc/token-broker/users.acl /etc/token-broker/replication.acl >/tmp/template.acl
export ACL_TEMPLATE=/tmp/template.acl REDIS_CONF="$config"
exec /bin/sh /etc/token-broker/start.sh
