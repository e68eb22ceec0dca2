# shellcheck shell=bash disable=SC2034
# Sourced: what is known of Cloud TPU's accelerator types. `read_tpu_type TYPE` sets
#
#   chips, hosts   of the slice
#   runtime        the runtime version (software image) that JAX needs on it
#   price          US dollars of a chip for an hour, on demand: list prices of 2025 in US regions
#
# and refuses an unknown type with the nearest known one. Types count chips from v5litepod on
# (v5litepod, v6e), cores of which a chip has two before that and in v5p and tpu7x.
# Sources: cloud.google.com/tpu/docs/runtimes, .../tpu/docs/v5e, v5p, v6e, tpu7x, .../tpu/pricing.

nearest_of() { # NUMBER CANDIDATES...
    local number=$1 best='' candidate distance shortest=-1
    shift
    for candidate in "$@"; do
        distance=$((candidate > number ? candidate - number : number - candidate))
        if [ "$shortest" -lt 0 ] || [ "$distance" -lt "$shortest" ]; then
            best=$candidate shortest=$distance
        fi
    done
    echo "$best"
}

nearest_family() { # NAME: the known family that is probably meant
    case $1 in
        v2* | v3* | v4*) echo "${1:0:2}" ;;
        *5p*) echo v5p ;;
        *5*) echo v5litepod ;;
        *6* | trillium*) echo v6e ;;
        *7* | ironwood*) echo tpu7x ;;
        *) echo v5litepod ;;
    esac
}

read_tpu_type() { # TYPE
    local family=${1%-*} size=${1##*-} known sizes nearest
    [[ $size =~ ^[1-9][0-9]{0,4}$ ]] || size=8
    known=$family
    case $family in v2 | v3 | v4 | v5litepod | v5p | v6e | tpu7x) ;; *) known=$(nearest_family "$family") ;; esac
    case $known in
        v5litepod | v6e) sizes='1 4 8 16 32 64 128 256' ;;
        v2) sizes='8 32 128 256 512' ;;
        v3) sizes='8 32 64 128 256 512 1024 2048' ;;
        *) sizes=$((size < 8 ? 8 : (size + 4) / 8 * 8)) ;;
    esac
    # shellcheck disable=SC2086 # one word for each size
    nearest=$known-$(nearest_of "$size" $sizes)
    [ "$1" = "$nearest" ] || fail "--type $1 is not known; the nearest is $nearest"

    case $family in
        v5litepod | v6e) chips=$size hosts=$((size <= 8 ? 1 : size / 4)) ;;
        *) chips=$((size / 2)) hosts=$((size / 8)) ;;
    esac
    case $family in
        v5litepod) runtime=v2-alpha-tpuv5-lite price=1.20 ;;
        v5p) runtime=v2-alpha-tpuv5 price=4.20 ;;
        v6e) runtime=v2-alpha-tpuv6e price=2.70 ;;
        tpu7x) runtime=v2-alpha-tpu7-ubuntu2404 price=12.00 ;;
        v4) runtime=tpu-ubuntu2204-base price=3.22 ;;
        v3) runtime=tpu-ubuntu2204-base price=2.00 ;;
        v2) runtime=tpu-ubuntu2204-base price=1.125 ;;
    esac
    hourly=$(awk "BEGIN {printf \"%.2f\", $chips * $price}")
}
