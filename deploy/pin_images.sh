#!/bin/sh
# Pins base images and GitHub actions: each `NAME:TAG` of an image gets the digest that its registry has for the tag now
# (NAME:TAG@sha256:...), and each action the commit of the tag in its comment. deploy/pin.sh runs this. It needs `docker`
# with buildx, `git`, and a way to the registries: what cannot be looked up stays as it is and is named, with exit code 1.
set -eu
cd "$(dirname "$0")/.."
failed=0

pin_image() { # FILE NAME:TAG
    digest=$(docker buildx imagetools inspect "$2" --format '{{.Manifest.Digest}}' 2>/dev/null) || digest=
    case $digest in
    sha256:????????????????????????????????????????????????????????????????)
        sed -i "s|$2\(@sha256:[0-9a-f]*\)\{0,1\}\( .*\)\{0,1\}\$|$2@$digest\2|" "$1"
        echo "$1: $2@$digest"
        ;;
    *)
        echo "$1: $2: its digest cannot be looked up: left as it is" >&2
        failed=1
        ;;
    esac
}

pin_action() { # FILE OWNER/NAME TAG
    refs=$(git ls-remote "https://github.com/$2" "refs/tags/$3" "refs/tags/$3^{}" 2>/dev/null) || refs=
    commit=$(printf '%s\n' "$refs" | tail -n 1 | cut -f 1) # of an annotated tag the commit comes last
    case $commit in
    ????????????????????????????????????????)
        sed -i "s|\\(uses: $2@\\)[0-9a-f]*\\( # $3\\)\$|\\1$commit\\2|" "$1"
        echo "$1: $2@$commit # $3"
        ;;
    *)
        echo "$1: $2 $3: its commit cannot be looked up: left as it is" >&2
        failed=1
        ;;
    esac
}

for base in $(sed -n 's/^ARG BASE=\([^@ ]*\).*/\1/p' deploy/Dockerfile); do pin_image deploy/Dockerfile "$base"; done
for file in docker-compose.yml deploy/compose.sentinel.yml .github/workflows/*.yml; do
    for image in $(sed -n 's/^ *image: \([^@ ]*:[^@ ]*\).*/\1/p' "$file" | sort -u); do pin_image "$file" "$image"; done
done
for file in .github/workflows/*.yml; do
    sed -n 's/.*uses: \([^@]*\)@[0-9a-f]* # \(v[0-9.]*\)$/\1 \2/p' "$file" | sort -u >"${TMPDIR:-/tmp}/actions.$$"
    while read -r action tag; do pin_action "$file" "$action" "$tag"; done <"${TMPDIR:-/tmp}/actions.$$"
    rm -f "${TMPDIR:-/tmp}/actions.$$"
done
exit "$failed"
