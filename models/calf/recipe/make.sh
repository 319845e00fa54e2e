#!/usr/bin/env bash
# Makes the calf from nothing, in an hour and a half on two cores: calf-long-run/model at the root of the repository.
# The first argument is the binary, `cuvier` if absent. The text is documentation of this machine's own Rust.
#
#     cargo build --release && models/calf/recipe/make.sh target/release/cuvier
set -euo pipefail
cuvier=$(command -v "${1:-cuvier}")
cuvier=$(realpath "$cuvier")
cd "$(dirname "$0")/../../.."
recipe=models/calf/recipe
"$cuvier" data --config $recipe/data.toml -o calf-data --text "$(rustc --print sysroot)/share/doc/rust/html"
"$cuvier" train --config $recipe/train.toml
"$cuvier" data --config $recipe/long-data.toml -o calf-long-data
"$cuvier" qat --config $recipe/long.toml
