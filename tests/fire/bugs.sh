#!/usr/bin/env bash
# Puts known bugs back, one at a time, in a worktree of its own: tests/fire has to find each. `tests/fire/bugs.sh [NAME...]`; the second line
# of a patch says which test finds it (`unit` and its name, where no fault does), and how long that may take. Root, for those that cut servers off.
set -uo pipefail
cd "$(dirname "$0")/../.."
here=$PWD
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$here/target}
work=$here/target/bugs
target=$CARGO_TARGET_DIR/of-bugs
# The test as it is here, built once; only the servers are built anew.
fire=$(cargo test --locked --test fire --no-run --message-format=json 2>/dev/null | sed -n 's/.*"name":"fire".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
[[ -x $fire ]] || { echo "the test does not build: cargo test --test fire --no-run"; exit 1; }
cp "$fire" "$here/target/fire-of-bugs"
git worktree remove --force "$work" 2>/dev/null
git worktree add --quiet --detach "$work" HEAD || exit 1
trap 'cd "$here"; git worktree remove --force "$work"; rm -f "$here/target/fire-of-bugs"' EXIT
# What is of the registry is built already, for tests.
if [[ ! -d $target ]]; then
  mkdir -p "$target/debug" && cp -al "$CARGO_TARGET_DIR"/debug/{deps,build,.fingerprint} "$target/debug/"
fi
missed=()
names=("$@")
if [[ $# == 0 ]]; then for patch in tests/fire/bugs/*.patch; do names+=("$(basename "$patch" .patch)"); done; fi
for name in "${names[@]}"; do
  patch=tests/fire/bugs/$name.patch
  read -r _ _ test settings < <(sed -n 2p "$patch")
  git -C "$work" checkout --quiet . && git -C "$work" apply "$here/$patch" || { missed+=("$name: the patch does not apply"); continue; }
  if [[ $test == unit ]]; then
    # What no fault here can bring about: `settings` names the unit test that knows it.
    log=$here/target/bug-$name.log
    (cd "$work" && CARGO_TARGET_DIR=$target cargo test --locked --workspace --lib "$settings") >"$log" 2>&1
    if grep -q '^test result: FAILED' "$log"; then
      echo "found  $name ($settings)"
    else
      missed+=("$name: not found, see $log")
    fi
    continue
  fi
  (cd "$work" && CARGO_TARGET_DIR=$target cargo test --locked --test fire --no-run 2>&1 | grep -E '^error' -A9) && { missed+=("$name: does not build"); continue; }
  log=$here/target/bug-$name.log
  if env $settings CAUSEWAY_BIN="$target/debug/causeway" "$here/target/fire-of-bugs" "$test" --nocapture >"$log" 2>&1; then
    missed+=("$name: not found, see $log")
    echo "MISSED $name ($test, $settings)"
  else
    echo "found  $name ($test, $settings): $(grep -A2 -m1 'panicked at' "$log" | tail -n +2 | cut -c1-200 | tr '\n' ' ')"
  fi
done
if ((${#missed[@]})); then printf '%s\n' "${missed[@]}"; exit 1; fi
echo "all were found"
