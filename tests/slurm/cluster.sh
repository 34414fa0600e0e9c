#!/usr/bin/env bash
# A SLURM cluster of this machine alone, on loopback: `cluster.sh start FOLDER`, `cluster.sh stop FOLDER`.
# Needs root and Debian's packages: apt-get install --no-install-recommends slurm-wlm munge
# Everything it writes lies below FOLDER; export SLURM_CONF=FOLDER/slurm.conf to talk to it.
set -euo pipefail
action=$1 home=$2

start() {
    for program in munged slurmctld slurmd; do
        command -v "$program" > /dev/null || { echo "no $program on this machine" >&2; exit 3; }
    done
    [ "$(id -u)" = 0 ] || { echo "starting daemons needs root" >&2; exit 3; }
    mkdir -p "$home"/{munge,state,spool}
    chmod 711 "$home" && chmod 700 "$home/munge"
    dd if=/dev/urandom of="$home/munge/key" bs=128 count=1 status=none
    chmod 400 "$home/munge/key"
    # a socket's path may have 108 characters; pytest's folders have more
    socket=$(mktemp -d /tmp/munge.XXXXXX)
    echo "$socket" > "$home/socket"
    chmod 755 "$socket"
    munged --force --key-file="$home/munge/key" --socket="$socket/s" --pid-file="$home/munge/pid" \
        --log-file="$home/munge/log" --seed-file="$home/munge/seed"
    configure "$socket/s"
    export SLURM_CONF="$home/slurm.conf"
    slurmctld -f "$SLURM_CONF" -c
    slurmd -f "$SLURM_CONF" -N "$(hostname -s)" -c
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --partition=all --format=%T 2> /dev/null)" = idle ] && exit 0
        sleep 0.3
    done
    echo "the node did not come up: $(tail -n 3 "$home/slurmd.log" | tr '\n' ' ')" >&2
    stop
    exit 3
}

configure() {
    local node ports
    node=$(hostname -s)
    read -r -a ports <<< "$(python3 -c '
import socket
found = [socket.socket() for _ in range(2)]
[one.bind(("127.0.0.1", 0)) for one in found]
print(*(one.getsockname()[1] for one in found))')"
    cat > "$home/slurm.conf" << CONF
ClusterName=loopback
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
AuthType=auth/munge
AuthInfo=socket=$1,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=1000000,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=60
MinJobAge=3600
ReturnToService=2
MpiDefault=none
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc --all) State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=$node Default=YES PriorityTier=1 GraceTime=60 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=$node PriorityTier=2 MaxTime=INFINITE State=UP
CONF
}

stop() {
    export SLURM_CONF="$home/slurm.conf"
    timeout 10 scancel --me 2> /dev/null || true
    for _ in $(seq 90); do  # what runs is told to end, and is killed after KillWait
        [ -z "$(timeout 10 squeue --noheader 2> /dev/null)" ] && break
        sleep 1
    done
    for file in slurmd.pid slurmctld.pid munge/pid; do
        [ -s "$home/$file" ] && kill "$(cat "$home/$file")" 2> /dev/null || true
    done
    [ -s "$home/socket" ] && rm -rf "$(cat "$home/socket")"
    return 0
}

"$action"
