#!/bin/sh
# Fetches Fashion-MNIST from Debian's package into the user's cache, without root.
# Anywhere else: torchvision.datasets.FashionMNIST(root, download=True), then --data-dir root.
set -eu
target="${1:-${XDG_CACHE_HOME:-$HOME/.cache}/fl-node/fashion-mnist}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
apt-get download dataset-fashion-mnist
dpkg-deb -x dataset-fashion-mnist_*.deb unpacked
mkdir -p "$target"
cp unpacked/usr/share/datasets/fashion-mnist/*.gz "$target/"
echo "Fashion-MNIST is in $target"
