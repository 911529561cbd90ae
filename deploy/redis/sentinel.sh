#!/bin/sh
# Starts a Sentinel: sentinel.sh ITS-NAME. What it learns of the others and of failovers it keeps in /data/sentinel.conf.
set -eu
umask 077

config=/data/sentinel.conf
secrets=/run/secrets
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
END

password() { # the only line of a secret, into $password: by builtins, never in an argument or the environment
    password=
    read -r password <"$secrets/$1" || [ -n "$password" ] || {
        echo "sentinel.sh: $secrets/$1 is empty or cannot be read" >&2
        exit 78
    }
}

# Users and passwords are written anew at each start. At the servers a Sentinel is the user `sentinel`, and among
# themselves likewise, with another password; the broker may only ask where the primary is. Nobody else may do anything.
{
    grep -v -e '^user ' -e '^sentinel auth-' -e '^sentinel sentinel-' "$config"
    password monitor_password
    echo "sentinel auth-user broker sentinel"
    echo "sentinel auth-pass broker $password"
    password sentinel_password
    echo "sentinel sentinel-user sentinel"
    echo "sentinel sentinel-pass $password"
    rights="resetkeys resetchannels &__sentinel__:hello -@all +ping +publish +client|setname"
    echo "user sentinel on >$password $rights +sentinel|is-master-down-by-addr"
    password lookup_password
    echo "user broker on >$password resetkeys resetchannels -@all +client|setname +sentinel|get-master-addr-by-name"
    echo "user health on nopass resetkeys resetchannels -@all +ping +sentinel|ckquorum"
    echo "user default off resetpass resetkeys resetchannels -@all"
} >"$config.new"
mv "$config.new" "$config"

exec "${REDIS_SENTINEL:-valkey-sentinel}" "$config"
