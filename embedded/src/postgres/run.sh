# Runs a PostgreSQL server for as long as the process that started this script lives.
#
#   sh run.sh REMOVE COMMAND...
#
# fd 0  a pipe whose other end only that process holds: its end, however it comes, is the end of the pipe
# fd 1  the cluster's directory, locked; it stays open here as fd 9 until the last process of the cluster is gone,
#       and the command may name the directory as /proc/self/fd/9
# fd 2  the log
# REMOVE is a directory to remove afterwards, or empty.
exec 9>&1 1>&2 8<&0 0</dev/null
remove=$1
shift

"$@" 8<&- &
server=$!
trap 'kill -INT "$server"' HUP INT TERM

# SIGINT is PostgreSQL's fast shutdown: it ends the sessions, keeps what is committed and stops.
{ read -r _ <&8 || :; kill -INT "$server"; } &
guard=$!
exec 8<&-

# A signal ends `wait` early, so it counts only once the server is gone.
while :; do
    wait "$server"
    status=$?
    kill -0 "$server" 2>/dev/null || break
done
kill "$guard" 2>/dev/null
wait "$guard" 2>/dev/null
if [ -n "$remove" ]; then
    rm -rf -- "$remove"
fi
exit "$status"
