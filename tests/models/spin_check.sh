#!/bin/sh
# spin_check.sh SPIN MODEL MUTANT: searches every interleaving of the model. Succeeds when mutant 0,
# the protocol itself, has no error and when any other mutant has one.
set -e
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
"$1" -DMUTANT="$3" -a "$2"
cc -O2 -w -DSAFETY -o pan pan.c
./pan > result
grep -E "errors:|states, stored|pan:1" result
if [ "$3" = 0 ]; then grep -q "errors: 0" result; else ! grep -q "errors: 0" result; fi
