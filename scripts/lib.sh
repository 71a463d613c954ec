# Shared by the scripts beside it: messages, times, the packages needed, configure and build.
# Sourced, never run. Everything but a script's own result goes to standard error.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Debian 12 packages, by purpose. libprotobuf-dev and the gRPC plugin come with no other of these.
packages_build=(ca-certificates g++ cmake ninja-build ccache pkgconf libgrpc++-dev libprotobuf-dev
                protobuf-compiler protobuf-compiler-grpc grpc-proto libabsl-dev libcli11-dev
                libspdlog-dev libfmt-dev nlohmann-json3-dev libpcre2-dev libhwy-dev libgtest-dev
                libbenchmark-dev libssl-dev zlib1g-dev prometheus-cpp-dev libcivetweb-dev)
packages_model=(ca-certificates python3 python3-venv)
packages_test=(python3)
packages_lint=(clang-format clang-tidy g++ libclang-14-dev llvm-14-dev python3)
packages_fuzz=(clang libclang-rt-14-dev lld llvm-14)
packages_valgrind=(valgrind)

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# usage: show the comment block that opens the calling script.
usage() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit 0; }

now_ms() { local t=$EPOCHREALTIME; t=${t/[.,]/}; echo $((t / 1000)); }
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }

# step TEXT: "[2/5] TEXT", and closes the clock of the step before. REQUIRES: steps=<how many>.
step_number=0 step_name='' step_start=0 step_report=''
start_ms=$(now_ms)
step() {
  end_step
  step_number=$((step_number + 1)) step_name=$1 step_start=$(now_ms)
  say "[$step_number/$steps] $1"
}
end_step() {
  [ -n "$step_name" ] || return 0
  step_report+=$(printf '  %-44s %8s' "$step_name" "$(seconds $(($(now_ms) - step_start)))")$'\n'
  step_name=''
}
report_steps() {
  end_step
  say "Times:"
  printf '%s' "$step_report" >&2
  say "$(printf '  %-44s %8s' "all" "$(seconds $(($(now_ms) - start_ms)))")"
}

# parallel_jobs: one a core, but no more than the memory feeds (a gRPC source takes about 1 GiB).
parallel_jobs() {
  local memory
  memory=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
  [ "$memory" -ge 1 ] || memory=1
  [ "$memory" -lt "$(nproc)" ] && echo "$memory" || nproc
}

# configure PRESET [-DNAME=VALUE]...: only when there is no build yet, the presets changed or a
# value differs; cmake's own files make ninja configure again by itself.
configure() {
  local preset=$1 dir=$root/build/$1 definition name log
  shift
  local stale=no
  [ -f "$dir/build.ninja" ] && [ ! "$root/CMakePresets.json" -nt "$dir/build.ninja" ] || stale=yes
  for definition in "$@"; do
    name=${definition#-D}
    grep -q "^${name%%=*}:[A-Z]*=${name#*=}\$" "$dir/CMakeCache.txt" 2>/dev/null || stale=yes
  done
  [ $stale = yes ] || return 0
  mkdir -p "$dir"
  log=$dir/configure.log
  (cd "$root" && cmake --preset "$preset" "$@") > "$log" 2>&1 && return 0
  cat "$log" >&2
  rm -f "$dir/build.ninja"
  die "cmake could not configure the preset $preset (the lines above say why)"
}

# build PRESET [TARGET]...: progress on standard error.
build() {
  local preset=$1
  shift
  (cd "$root" && NINJA_STATUS='  [%f/%t %es] ' cmake --build --preset "$preset" -j "$(parallel_jobs)" ${1:+--target "$@"}) >&2 ||
    die "the build of preset $preset failed (the lines above say why)"
}
