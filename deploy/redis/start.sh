#!/bin/sh
# Starts the server with users.acl rendered into memory (a tmpfs). An ACL file cannot name a secret's file, so the
# password is hashed into it here: by builtins and a pipe, never in an argument or the environment.
set -eu
umask 077

template=${ACL_TEMPLATE:-/etc/token-broker/users.acl}
rendered=${ACL_FILE:-/tmp/users.acl}
secret=${PASSWORD_FILE:-/run/secrets/redis_password}
server=${REDIS_SERVER:-valkey-server}
config=${REDIS_CONF:-/etc/token-broker/redis.conf}
data=${DATA_DIR:-/data}

fail() {
    echo "start.sh: $1" >&2
    exit 78
}

[ -r "$secret" ] || fail "$secret cannot be read by uid $(id -u): chmod 0644 it (its directory keeps others out)"
password=$(cat "$secret")
case $password in
'') fail "$secret is empty" ;;
*[[:space:]]*) fail "$secret holds more than one word: a password without blanks, on one line" ;;
esac
digest=$(printf %s "$password" | sha256sum)
digest=${digest%% *}
password=

# Without -r on purpose: `read` joins a line that ends in a backslash with the next.
# shellcheck disable=SC2162
while read line; do
    case $line in
    '' | '#'*) ;;
    *@BROKER_PASSWORD@*) printf '%s#%s%s\n' "${line%%@BROKER_PASSWORD@*}" "$digest" "${line#*@BROKER_PASSWORD@}" ;;
    *) printf '%s\n' "$line" ;;
    esac
done <"$template" >"$rendered"

cd "$data"
exec "$server" "$config" "$@"
