#!/bin/sh
# Starts the server with users.acl rendered into memory (a tmpfs). An ACL file cannot name a secret's file, so the
# passwords are hashed into it here: by builtins and a pipe, never in an argument or the environment.
set -eu
umask 077

template=${ACL_TEMPLATE:-/etc/token-broker/users.acl}
rendered=${ACL_FILE:-/tmp/users.acl}
secrets=/run/secrets
secret=${PASSWORD_FILE:-$secrets/redis_password}
server=${REDIS_SERVER:-valkey-server}
config=${REDIS_CONF:-/etc/token-broker/redis.conf}
data=${DATA_DIR:-/data}

fail() {
    echo "start.sh: $1" >&2
    exit 78
}

digest_of() { # the SHA-256 of the password in a file, into $digest
    [ -r "$1" ] || fail "$1 cannot be read by uid $(id -u): chmod 0644 it (its directory keeps others out)"
    password=$(cat "$1")
    case $password in
    '') fail "$1 is empty" ;;
    *[[:space:]]*) fail "$1 holds more than one word: a password without blanks, on one line" ;;
    esac
    digest=$(printf %s "$password" | sha256sum)
    digest=${digest%% *}
    password=
}

render() { # $line with the digest of the file $2 in place of $1
    digest_of "$2"
    printf '%s#%s%s\n' "${line%%"$1"*}" "$digest" "${line#*"$1"}"
}
digest_of "$secret"

# Without -r on purpose: `read` joins a line that ends in a backslash with the next.
# shellcheck disable=SC2162
while read line; do
    case $line in
    '' | '#'*) ;;
    *@BROKER_PASSWORD@*) render @BROKER_PASSWORD@ "$secret" ;;
    *@REPLICA_PASSWORD@*) render @REPLICA_PASSWORD@ "$secrets/replica_password" ;;
    *@MONITOR_PASSWORD@*) render @MONITOR_PASSWORD@ "$secrets/monitor_password" ;;
    *) printf '%s\n' "$line" ;;
    esac
done <"$template" >"$rendered"

cd "$data"
exec "$server" "$config" "$@"
