#!/bin/sh
# Writes deploy/constraints.txt anew from pyproject.toml: every dependency at its newest allowed version, with the
# hashes of all its files, for Python 3.11 and up on every platform. Then pins images and actions (pin_images.sh). Needs
# `uv` on PATH. Run it in the checkout:
#
#     sh deploy/pin.sh
set -eu
cd "$(dirname "$0")/.."
out=deploy/constraints.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml >"$work/build.in"
echo editables >>"$work/build.in" # what hatchling asks for when it is told to install in place

pins() { # one resolution for all, then parts of it: what a part leaves unsaid the whole decides
    uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
        "$@"
}
pins pyproject.toml --extra embedded --extra test "$work/build.in" --output-file "$work/all.txt"
pins pyproject.toml --extra embedded --constraint "$work/all.txt" --output-file "$work/run.txt"
pins "$work/build.in" --constraint "$work/all.txt" --output-file "$work/build.txt"

names() { sed -n 's/^\([a-z0-9][a-z0-9._-]*\)==.*/\1/p' "$1"; }
without() { # the pins of $1 whose names are not in the files after it
    file=$1
    shift
    for other in "$@"; do names "$other"; done >"$work/names"
    awk 'NR == FNR { skip[$1]; next } /^[a-z0-9]/ { split($0, part, "=="); hide = (part[1] in skip) } !hide' \
        "$work/names" "$file"
}
{
    echo '# Written by deploy/pin.sh. Three parts, told apart by the lines that begin with "# part:".'
    echo '# part: run (the broker and its embedded store; all that the image holds)'
    cat "$work/run.txt"
    echo '# part: build (what makes the wheel)'
    without "$work/build.txt" "$work/run.txt"
    echo '# part: test'
    without "$work/all.txt" "$work/run.txt" "$work/build.txt"
} >"$work/constraints.txt"
mv "$work/constraints.txt" "$out"
sh deploy/pin_images.sh
