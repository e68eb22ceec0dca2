#!/usr/bin/env bash
. "$(dirname "${BASH_SOURCE[0]}")/remote.sh"

usage() {
    cat <<'HELP'
Runs an adapt-jax command on a TPU slice of a GKE cluster, as a JobSet.

usage: launch/gke.sh --name NAME --image IMAGE --accelerator ACCELERATOR --topology TOPOLOGY \
           --bucket BUCKET [options] -- COMMAND [ARGUMENTS]

  launch/gke.sh --name pod --image europe-docker.pkg.dev/P/R/adapt_jax:tpu \
      --accelerator tpu-v6e-slice --topology 4x4 --bucket gs://my-bucket/pod --spot \
      -- compare configs/real/gsm8k_pod.yaml --output-dir runs/pod

The bucket is runs/ on every host, through GKE's Cloud Storage FUSE driver. When a host was asked to
stop (exit code 75) or was taken away, all hosts start again, together, and continue; any other
error ends the job.

  --name NAME                of the JobSet
  --image IMAGE              built by launch/container.sh --target tpu
  --accelerator ACCELERATOR  tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice, tpu7x
  --topology TOPOLOGY        of the slice, for instance 2x4, 4x4, 2x2x4
  --bucket BUCKET            gs://BUCKET/FOLDER, where results and checkpoints are kept
  --service-account ACCOUNT  the Kubernetes service account that may write it (default: default)
  --max-restarts N           of all hosts together (default: 100)
  --spot                     on spot nodes
  --dry-run                  print the manifest instead of applying it
  --help                     this text

kubectl has to reach the cluster, which has the JobSet controller, the Cloud Storage FUSE driver and
a node pool of this accelerator and topology (docs/hardware/gke.md).
HELP
}

name='' image='' accelerator='' topology='' bucket='' service_account=default max_restarts=100 spot=''
parse_options "name image accelerator topology bucket service-account max-restarts" "spot" "$@"
set -- ${rest[@]+"${rest[@]}"}
require_name
require image accelerator topology bucket
require_number max-restarts
require_command "$@"
bucket_name='' bucket_path=''
require_bucket gs
case $accelerator in
    tpu-v5-lite-podslice | tpu-v6e-slice) form='^[0-9]+x[0-9]+$' example=4x4 ;;
    tpu-v5p-slice | tpu7x) form='^[0-9]+x[0-9]+x[0-9]+$' example=2x2x2 ;;
    *5p*) fail "--accelerator $accelerator is not known; the nearest is tpu-v5p-slice" ;;
    *6*) fail "--accelerator $accelerator is not known; the nearest is tpu-v6e-slice" ;;
    *7*) fail "--accelerator $accelerator is not known; the nearest is tpu7x" ;;
    *) fail "--accelerator $accelerator is not known; the nearest is tpu-v5-lite-podslice" ;;
esac
[[ $topology =~ $form ]] || fail "--topology $topology: $accelerator has topologies such as $example"

chips=$((${topology//x/ * }))
# a host has 4 chips; the small slices of v5e and v6e are one host of 1, 4 or 8
hosts=$((chips <= 4 ? 1 : chips / 4))
if [ "$topology" = 2x4 ]; then hosts=1; fi
[ $((chips % hosts)) = 0 ] || fail "--topology $topology: $chips chips are no whole number of hosts"

json_list() { # WORDS...: as JSON, which is YAML
    local word list=''
    for word in "$@"; do
        list="$list, \"$(sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' <<<"$word" |
            awk 'NR > 1 {printf "\\n"} {printf "%s", $0}')\""
    done
    echo "[${list#, }]"
}

spot_nodes=''
if [ -n "$spot" ]; then spot_nodes='                cloud.google.com/gke-spot: "true"
'; fi

manifest() {
    cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    # all pods in one node pool, which is one slice
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $max_restarts
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: hosts
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          parallelism: $hosts
          completions: $hosts
          backoffLimit: 0 # one pod fails: all start again
          podFailurePolicy:
            rules:
              - action: FailJob # but not for an error that comes again
                onExitCodes:
                  containerName: adapt-jax
                  operator: NotIn
                  values: [75, 137, 143] # asked to stop and saved; killed; terminated
          template:
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
            spec:
              serviceAccountName: $service_account
              restartPolicy: Never
              terminationGracePeriodSeconds: 120
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $topology
$spot_nodes              containers:
                - name: adapt-jax
                  image: $image
                  workingDir: /adapt_jax
                  command: [adapt-jax]
                  args: $(json_list "$@")
                  resources:
                    requests: {google.com/tpu: $((chips / hosts))}
                    limits: {google.com/tpu: $((chips / hosts))}
                  volumeMounts:
                    - {name: runs, mountPath: /adapt_jax/runs}
              volumes:
                - name: runs
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: "$bucket_name"
                      mountOptions: implicit-dirs,rename-dir-limit=100000,metadata-cache-ttl-secs=0${bucket_path:+,only-dir=$bucket_path}
YAML
}

plan "$chips chips on $hosts host(s) of $accelerator $topology${spot:+, spot}"
plan "results and checkpoints: $bucket (in the pods: runs/), whatever happens to the cluster"
plan "left running: the job until it ends; the node pool continues to cost until it is scaled to 0"
require_tool kubectl
if [ -n "$dry_run" ]; then
    echo "kubectl apply --filename - <<'YAML'"
    manifest "$@"
    echo YAML
    exit
fi
manifest "$@" | kubectl apply --filename -
plan "watch it:    kubectl logs --follow --selector jobset.sigs.k8s.io/jobset-name=$name"
plan "end it:      kubectl delete jobset $name"
plan "fetch it:    gcloud storage cp --recursive '$bucket/*' runs"
