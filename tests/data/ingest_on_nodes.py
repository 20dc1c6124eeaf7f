"""`HOME CARD NODES LOST`: an ingest in a Ray cluster of so many nodes, one of which is killed at the first progress if LOST is 1.

Prints the outcome as JSON, and before it one line `nodes N` for each progress.
"""

import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from pangu.data.card import Card
from pangu.data.ingest import ingest
from pangu.progress import Progress
from pangu.storage import Home


def main(home: Home, card: Card, nodes: int, lost: bool) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    others = [cluster.add_node(num_cpus=1, include_dashboard=False) for _ in range(nodes - 1)]
    ray.init(address=cluster.address, log_to_driver=False)

    def report(progress: Progress) -> None:
        if lost and others and progress.done:
            cluster.remove_node(others.pop(), allow_graceful=False)
        print(f"nodes {progress.facts['nodes']}", flush=True)

    try:
        print(ingest(card, home, report, on_ray=True).model_dump_json())
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])), Card.model_validate_json(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1")
