#!/bin/sh
# Starts a Sentinel: sentinel.sh ITS-NAME. What it learns of the others and of failovers it keeps in /data/sentinel.conf.
set -eu
umask 077

config=/data/sentinel.conf
# No password at the Sentinels themselves: their network has nobody but the servers, the broker and them.
[ -e "$config" ] || cat >"$config" <<END
port 26379
dir /tmp
protected-mode no
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $1
sentinel monitor broker redis 6379 2
sentinel down-after-milliseconds broker 5000
sentinel failover-timeout broker 30000
sentinel auth-user broker sentinel
END

# The servers' password is written anew at each start, by builtins: never in an argument or the environment.
password=$(cat /run/secrets/redis_password)
{
    grep -v '^sentinel auth-pass ' "$config"
    echo "sentinel auth-pass broker $password"
} >"$config.new"
mv "$config.new" "$config"

exec "${REDIS_SENTINEL:-valkey-sentinel}" "$config"
