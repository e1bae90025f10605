#!/bin/sh
# Build what a release publishes into dist/, and try it: make_dist.sh VENV, an environment with requirements-dist.txt.
# The packages are built twice and must be the same. SOURCE_DATE_EPOCH, which `make dist` sets, is the time of their files.
set -eu
bin=$(cd "$1/bin" && pwd)
: "${SOURCE_DATE_EPOCH:?}"

rm -rf dist
for folder in dist dist/again; do
    "$bin/uv" build --quiet --no-build-isolation --python "$bin/python" --out-dir "$folder" .
done
rm -f dist/.gitignore dist/again/.gitignore
for file in dist/*.whl dist/*.tar.gz; do
    cmp "$file" "dist/again/${file##*/}"
done
rm -r dist/again
"$bin/twine" check --strict dist/*.whl dist/*.tar.gz
wheel=$(echo dist/*.whl)
version=$("$bin/hatchling" version)

# What is installed with the pinned requirements is what the list of components has.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export HOME="$scratch" UV_TOOL_DIR="$scratch/tools" UV_TOOL_BIN_DIR="$scratch/bin" CLINVK_HOME="$scratch/home"
"$bin/uv" venv --quiet --python "$bin/python" "$scratch/venv"
"$bin/uv" pip install --quiet --python "$scratch/venv" --require-hashes -r packaging/requirements.txt
"$bin/uv" pip install --quiet --python "$scratch/venv" --no-deps "$wheel"
sed "s/^dynamic = .*/version = \"$version\"/" pyproject.toml >"$scratch/pyproject.toml"
"$bin/cyclonedx-py" environment --pyproject "$scratch/pyproject.toml" --mc-type application --output-reproducible \
    --output-format JSON --output-file "dist/clinvk-$version.cdx.json" "$scratch/venv"

"$bin/uv" tool install --quiet --python "$bin/python" "$wheel"
test "$("$scratch/bin/clinvk" version)" = "clinvk $version"
test "$("$bin/uvx" --quiet --python "$bin/python" --from "$wheel" clinvk version)" = "clinvk $version"

cd dist
command -v sha256sum >/dev/null || sha256sum() { shasum -a 256 "$@"; }
sums=$(sha256sum -- *)
echo "$sums" | tee SHA256SUMS
