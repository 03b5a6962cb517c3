#!/bin/sh
# Prints where the program pgbouncer is; installs it with the machine's package manager if it is missing and we may.
#
#     checks/pgbouncer.sh
#
# Without the right to install it says what to do, on standard error, and exits 1.
set -eu

found() {
    PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin" command -v pgbouncer
}

found && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "pgbouncer is not installed: installing it with apt-get" >&2
    # The package's own service must not start: it would listen on a fixed port.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    lock='-o DPkg::Lock::Timeout=120'
    # shellcheck disable=SC2086
    { apt-get $lock update -q && apt-get $lock install -q -y --no-install-recommends pgbouncer; } > /dev/null
    found && exit 0
elif command -v brew > /dev/null; then
    echo "pgbouncer is not installed: installing it with brew" >&2
    brew install --quiet pgbouncer > /dev/null
    found && exit 0
fi

echo "pgbouncer is missing: install it (Debian, Ubuntu: sudo apt-get install pgbouncer; macOS: brew install pgbouncer)" >&2
exit 1
