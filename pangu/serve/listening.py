"""Where a Serve replica listens for calls from other replicas: on its node's own address, not on every interface.

Ray Serve 2.60 binds that port to all interfaces and offers no setting for it. On one machine the node is 127.0.0.1, so nothing of
the served pair is reachable from outside but what the gateway's port offers.
"""

from typing import Any

EVERYWHERE = "[::]"


def listen_on_node_address() -> None:
    """Call in a replica's constructor, which runs before Serve opens the port; again does nothing."""
    import ray
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    if getattr(bind, "on_node_address", False):
        return

    def bind_to_node(server: Any, address: str) -> int:
        host, _, port = address.rpartition(":")
        return bind(server, f"{ray.util.get_node_ip_address()}:{port}" if host == EVERYWHERE else address)

    bind_to_node.on_node_address = True  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = bind_to_node
