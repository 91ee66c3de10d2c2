#!/usr/bin/env bash
# The demonstration behind ./dev demo: bases, a build, an archive, a run, the same build cached, and the
# same build as somebody else in a store of their own. Fails unless both give the same digest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
umask 022

work=$(mktemp -d /var/tmp/arkwright-demo.XXXXXX)
chmod 755 "$work"
out=${ARKWRIGHT_CLONE:-$PWD}/.cache/demo
mkdir -p "$out"
user=${ARKWRIGHT_DEMO_USER:-arkwright-test}
bold=''; plain=''
if [ -t 1 ]; then bold=$'\033[1m'; plain=$'\033[0m'; fi

# A rootless store holds files of subordinate ids, which only root or their name space may delete.
clean_up() {
  if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then
    sudo -n rm -rf "$work"
  else
    rm -rf "$work" 2>/dev/null || unshare --map-root-user --map-auto rm -rf "$work"
  fi
}
trap clean_up EXIT

headline() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }

# shown NAME ARGS...: run arkwright as one of the two, saying what is run.
shown() { printf '%s$ arkwright %s%s\n' "$bold" "${*:2}" "$plain"; "$@"; }

program=("$PWD/.venv/bin/python" -m arkwright)
first() { ARKWRIGHT_ROOT=$work/first "${program[@]}" "$@"; }

mkdir "$work/second"
if [ "$(id -u)" = 0 ]; then
  first_is=root second_is=$user
  chown "$user:" "$work/second"
  second() {
    setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups \
      env HOME="$(getent passwd "$user" | cut -d: -f6)" USER="$user" XDG_RUNTIME_DIR= \
      ARKWRIGHT_ROOT="$work/second/store" "${program[@]}" "$@"
  }
elif sudo -n true 2>/dev/null; then
  first_is=$(id -un) second_is=root
  second() { sudo -n env ARKWRIGHT_ROOT="$work/second/store" "${program[@]}" "$@"; }
else
  echo "no sudo without a password here: the second build is $(id -un)'s too, in another store"
  first_is=$(id -un) second_is="$(id -un), another store"
  second() { ARKWRIGHT_ROOT="$work/second/store" "${program[@]}" "$@"; }
fi

headline "Base images, from the distribution's own packages"
shown first bootstrap busybox
shown first bootstrap debian:bookworm

headline "Build examples/hello as $first_is: into the store, and as an OCI archive"
shown first build --progress plain --tag hello:1 --iidfile "$work/first.digest" \
  --output type=image --output "type=oci,dest=$out/hello.oci.tar" examples/hello
ls -l "$out/hello.oci.tar"

headline "Run it"
shown first run hello:1
shown first run hello:1 Ada
shown first run hello:1 --check

headline "Build again: nothing to do"
start=$EPOCHREALTIME
shown first build --progress plain --tag hello:1 examples/hello 2>&1 | tee "$work/again.log"
end=$EPOCHREALTIME
printf 'whole command: %d ms\n' $(((${end/./} - ${start/./}) / 1000))
grep -q ': 0 steps run' "$work/again.log" || { echo "demo: the second build ran steps" >&2; exit 1; }

headline "Build the same as $second_is, from the same bases, in a store of its own"
first save --output "$work/bases.tar" busybox:latest debian:bookworm
chmod 644 "$work/bases.tar"
shown second load --input "$work/bases.tar"
shown second build --progress plain --tag hello:1 --iidfile "$work/second/digest" examples/hello 2>&1 |
  grep -vE '^#[0-9]+ [0-9]'

headline "Digests"
first_digest=$(cat "$work/first.digest")
second_digest=$(cat "$work/second/digest")
printf '%-24s %s\n' "$first_is" "$first_digest" "$second_is" "$second_digest"
if [ "$first_digest" != "$second_digest" ]; then
  echo "demo: the digests differ" >&2
  exit 1
fi
echo "equal"
