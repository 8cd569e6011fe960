"""What the script of a batch job asks of its own Ray cluster, the one at RAY_ADDRESS: see cluster/slurm.sbatch.

    python -m ray_robust.launch.cluster.batch_job join --nodes 4 --seconds 180     wait for the nodes
    python -m ray_robust.launch.cluster.batch_job leave --seconds 60               trials save their states and end

To leave, every node is drained, as before a preemption: each training saves its state at its next step, and no other
trial can begin. The sweep then waits for nodes that do not come, until the script ends it.
"""

from __future__ import annotations

import time

from ray_robust.errors import DONE, FAILED, Arguments, UserError, command
from ray_robust.launch.cluster import private_apis
from ray_robust.launch.cluster.address import Address, address_of, probe
from ray_robust.launch.cluster.connect import QUIET

POLL = 0.5  # seconds between two looks
PROBE = 8.0  # seconds that one question to the head may take
REASON = "the job's time is nearly over"


def main(argv: list[str]) -> int:
    """Run the command; return its exit code, 1 where the time was not enough. Raises UserError."""
    parser = Arguments("python -m ray_robust.launch.cluster.batch_job", description="The Ray cluster of a batch job.")
    parser.add_argument("what", choices=("join", "leave"), help="wait for the nodes; have all trials save and end")
    parser.add_argument("--nodes", type=int, default=1, help="that there will be (default: 1)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of it (default: 60)")
    args = parser.parse_args(argv)
    address, until = address_of(None), time.monotonic() + args.seconds
    if address is None:
        raise UserError("RAY_ADDRESS: is not set; it names the cluster, as HOST:PORT")
    if why := _connect(address, until):
        print(f"no Ray cluster answers at {address.text}: {why}", flush=True)
        return FAILED
    import ray

    try:
        return await_nodes(args.nodes, until) if args.what == "join" else drain(address.text, until)
    finally:
        ray.shutdown()


def _connect(address: Address, until: float) -> str:
    """Connect to the cluster; return why none could be reached until then, "" as soon as one is. A head that answers
    may yet end and be started again. Raises UserError for what is no HOST:PORT."""
    host, _, port = address.text.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{address.where}: write HOST:PORT")
    import ray

    while True:
        if not (why := probe(host, int(port), PROBE)):
            try:
                ray.init(address=address.text, **QUIET)
                return ""
            except Exception as error:  # of many kinds, by how far the head had come
                why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                ray.shutdown()
        if time.monotonic() > until:
            return why
        time.sleep(POLL)


def await_nodes(nodes: int, until: float) -> int:
    """Wait for so many nodes, until a time of the monotonic clock, and print what they have. Fewer will do: a sweep
    takes those that come later as they come."""
    import ray

    while (there := sum(node["Alive"] for node in ray.nodes())) < nodes and time.monotonic() < until:
        time.sleep(POLL)
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    print(f"{there} of {nodes} nodes of Ray are there: {cpus:g} CPUs, {gpus:g} GPUs", flush=True)
    return DONE


def drain(address: str, until: float) -> int:
    """Drain every node of the cluster at "host:port", and wait until no trial runs; at most until a time of the
    monotonic clock."""
    import ray

    if not private_apis.living_actors():  # a drained node without work ends, and with the first one the sweep
        print("no trial is running", flush=True)
        return DONE
    deadline = time.time() + until - time.monotonic()
    for node in ray.nodes():
        if node["Alive"]:
            private_apis.drain_node(address, node["NodeID"], REASON, deadline)
    while running := private_apis.living_actors():
        if time.monotonic() > until:
            print(f"{running} workers of trials have not ended; these continue from their latest states", flush=True)
            return FAILED
        time.sleep(POLL)
    print("all trials have saved their states", flush=True)
    return DONE


if __name__ == "__main__":
    command(main)
