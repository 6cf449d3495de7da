# The steps that tests/run, apps/run, bench/run and .ci/run are made of. Sourced, not run; the caller
# stands in the repository's root.

started=$SECONDS

# say TEXT...: one progress line with the time since the start.
say() { printf '\n[%4ds] %s\n' $((SECONDS - started)) "$*"; }

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# packages SECTION...: the names under these sections of tests/packages.
packages() {
  local section
  for section in "$@"; do
    awk -v want="[$section]" '/^\[/ { on = $0 == want; next } on && NF && !/^#/' tests/packages
  done | sort -u
}

# missing SECTION...: those of them that are not installed.
missing() {
  local name
  for name in $(packages "$@"); do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || echo "$name"
  done
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "cannot run as root: $* (no sudo here)"; fi
}

# install SECTION...: brings in what is missing; apt is not touched when nothing is.
install() {
  local wanted
  wanted=$(missing "$@" | tr '\n' ' ')
  [ -n "$wanted" ] || { say "packages ($*): all installed"; return; }
  say "packages ($*): installing $wanted"
  # shellcheck disable=SC2086  # a list of words
  as_root env DEBIAN_FRONTEND=noninteractive sh -ec '
    log=$(mktemp); trap "rm -f $log" EXIT
    install() { apt-get install -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1; }
    install "$@" || { apt-get update -o Acquire::Retries=3 && install "$@"; } || { cat "$log"; exit 1; }
  ' install $wanted || die "could not install: $wanted"
}

# build PRESET [CMAKE OPTION...] [-- TARGET...]: configures build/PRESET and builds it on all cpus.
build() {
  local preset=$1 options=(--preset "$1")
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
  [ $# -eq 0 ] || shift
  if command -v ccache >/dev/null; then options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  say "configure $preset"
  mkdir -p build
  cmake "${options[@]}" >"build/configure.$preset.log" 2>&1 || {
    cat "build/configure.$preset.log" >&2
    die "cmake --preset $preset failed"
  }
  say "build $preset ($(nproc) jobs)"
  cmake --build "build/$preset" -j "$(nproc)" ${1+--target "$@"} || die "building $preset failed"
}

# run_tests PRESET [CTEST ARG...]: the tests of build/PRESET, two at a time. Address space layout
# randomisation is off under ThreadSanitizer, whose shadow does not fit every kernel's layout.
run_tests() {
  local preset=$1 shell=()
  shift
  [ "$preset" != tsan ] || shell=(setarch "$(uname -m)" -R)
  say "test $preset (stress: $MILLRACE_STRESS)"
  "${shell[@]}" ctest --preset "$preset" -j 2 --timeout 300 --output-on-failure \
    --no-tests=error "$@"
}
