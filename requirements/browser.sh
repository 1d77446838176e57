#!/bin/sh
# Install Debian's Chromium, in which the report is tested, where that can be done; else say so.
if command -v chromium >/dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no chromium, and no root with apt-get to install it: tests of the report's page are skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null; then
  echo "chromium cannot be installed: tests of the report's page are skipped" >&2
fi
