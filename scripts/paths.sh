# Sourced with names of variables: goes to the root of the repository, where what has no path of its own lies. A relative
# path in one of the variables stays what it is in the folder that the script was called from.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for name in $([ "$PWD" = "$root" ] || echo "$@"); do
    case ${!name:-/} in /*) ;; *) printf -v "$name" %s "$PWD/${!name}" ;; esac
done
cd "$root"
