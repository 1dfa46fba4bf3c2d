"""A program of its own: a gang over the two nodes of a Ray cluster, of which one goes away in the middle.

It is given a folder, and writes the result of the gang and what its log says as JSON to ``result.json``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from foldase.runtime.context import CancelFlag, RunningStep
from foldase.runtime.gang_life import GangLimits, GangUsage
from foldase.runtime.gang_worker import RayHosts
from foldase.runtime.gangs import Gang
from foldase.runtime.workplace import Workplace
from foldase.scheduler.executor import Task
from foldase_workflows.contracts.operator import Resources

NODE = {"num_cpus": 2, "object_store_memory": 80 << 20}
LIMITS = GangLimits(start_seconds=100, restart_seconds=5, silence_seconds=30, heartbeat_seconds=1)


def main(home: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    second = cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    here = ray.get_runtime_context().get_node_id()
    (there,) = (node["NodeID"] for node in ray.nodes() if node["NodeID"] != here)
    workplace = Workplace(home)
    task = Task("r", "s", 1, 1, "test", "cpu", "identity", {}, Resources(cpu=1.0, ranks=4))
    step = RunningStep(task, workplace, CancelFlag())
    state = step.checkpoints / "state.json"

    def remove_in_the_middle() -> None:
        while not state.exists() or json.loads(state.read_text())["number"] < 3:
            time.sleep(0.1)
        cluster.remove_node(second, allow_graceful=False)

    threading.Thread(target=remove_in_the_middle, daemon=True).start()
    hosts = RayHosts("leader", 1.0, 0.0, (here, here, there, there))
    gang = Gang(step, hosts, LIMITS, GangUsage())
    result = gang.run("rank_functions:count", {"to": 12, "seconds": 0.2})
    step.close()
    log = workplace.logs.path("r", "s", 1, "log").read_text().splitlines()
    said = [json.loads(line)["message"] for line in log]
    (home / "result.json").write_text(json.dumps({"result": result, "log": said}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    # The test gives a short folder of its own, so that no later start of Ray finds this cluster's address.
    assert "RAY_TMPDIR" in os.environ
    main(Path(sys.argv[1]))
