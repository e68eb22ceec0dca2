# shellcheck shell=bash
# Sourced by the scripts that start a job elsewhere: options, dry runs, quoting, and the plan.
#
# A script declares a variable for each of its options (dashes become underscores), defines `usage`,
# and calls `parse_options "OPTIONS WITH A VALUE" "FLAGS" "$@"`. What follows -- is in `rest`.

set -euo pipefail
script=$(basename "$0")
rest=()
name='' dry_run=''

fail() { # MESSAGE: a mistake of the user, in one line
    echo "error: $1 (launch/$script --help)" >&2
    exit 2
}

parse_options() { # "OPTIONS WITH A VALUE" "FLAGS" ARGUMENTS...
    local values=" $1 " flags=" $2 dry-run " option
    shift 2
    while [ $# -gt 0 ]; do
        option=${1#--}
        case $1 in
            --help | -h) usage && exit ;;
            --) shift && rest=("$@") && return ;;
            -*) ;;
            *) fail "expected -- before the command, found $1" ;;
        esac
        if [[ $values == *" $option "* ]]; then
            case ${2:-} in '' | -*) fail "$1 needs a value" ;; esac
            printf -v "${option//-/_}" %s "$2"
            shift
        elif [[ $flags == *" $option "* ]]; then
            printf -v "${option//-/_}" %s 1
        else
            fail "unknown option $1"
        fi
        shift
    done
}

require() { # OPTIONS...: each has a value
    local option variable
    for option in "$@"; do
        variable=${option//-/_}
        [ -n "${!variable}" ] || fail "--$option is missing"
    done
}

require_number() { # OPTIONS...: each is a whole number above 0
    local option variable
    for option in "$@"; do
        variable=${option//-/_}
        [[ ${!variable} =~ ^[1-9][0-9]*$ ]] || fail "--$option ${!variable}: expected a whole number above 0"
    done
}

require_command() { # the words after --
    [ $# -gt 0 ] || fail "no adapt-jax command; it follows --"
    local word previous=''
    for word in "$@"; do
        case $word in --output-dir=*) previous=--output-dir && word=${word#*=} ;; esac
        if [ "$previous" = --output-dir ]; then
            case $word in
                runs | */../* | ../* | */..) fail "--output-dir $word: expected a folder below runs/" ;;
                runs/*) ;;
                *) fail "--output-dir $word: expected a folder below runs/, all else is lost with the machine" ;;
            esac
        fi
        previous=$word
    done
}

require_bucket() { # SCHEMES: sets bucket_name and bucket_path (which may be empty)
    [[ $bucket =~ ^($1)://[a-z0-9][a-z0-9._-]+[a-z0-9](/[A-Za-z0-9._-]+)*/?$ ]] ||
        fail "--bucket $bucket: expected ${1%%|*}://BUCKET or ${1%%|*}://BUCKET/FOLDER"
    bucket=${bucket%/}
    bucket_name=${bucket#*://}
    bucket_path=''
    # shellcheck disable=SC2034 # for the script
    case $bucket_name in */*) bucket_path=${bucket_name#*/} && bucket_name=${bucket_name%%/*} ;; esac
}

require_name() { # --name is what every tool accepts
    require name
    [[ $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
        fail "--name $name: expected at most 40 of a-z, 0-9 and -, a letter first"
}

require_tool() { # TOOL: it is installed, unless this is a dry run
    [ -n "$dry_run" ] || command -v "$1" >/dev/null || fail "$1 is not installed"
}

quoted() { # a command line which a shell reads as these words
    local word line=''
    for word in "$@"; do
        # shellcheck disable=SC2001 # bash 3 and 5 replace quotes in two ways
        case $word in
            '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'$(sed "s/'/'\\\\''/g" <<<"$word")'" ;;
        esac
        line="$line $word"
    done
    echo "${line# }"
}

run() { # runs a command, or prints it in a dry run
    if [ -n "$dry_run" ]; then quoted "$@"; else "$@"; fi
}

plan() { # one line of what will be done: a comment among the commands of a dry run
    if [ -n "$dry_run" ]; then echo "# $*"; else echo "$*" >&2; fi
}

install_elsewhere() { # EXTRA: shell commands that install the project in the folder they run in
    # uv brings a Python of its own, because the images of TPUs come with an older one
    cat <<SHELL
curl -LsSf https://astral.sh/uv/install.sh | sh
PATH=\$HOME/.local/bin:\$PATH
uv python install 3.12
PYTHON=\$(uv python find --managed-python 3.12)
export PYTHON
bash -c '. launch/common.sh && install $1'
# public data sets; where they cannot be had, the commands that need them say so
.venv/bin/python launch/fetch_data.py gsm8k banking77 pubmedqa mawps || true
SHELL
}
