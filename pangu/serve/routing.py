"""Which structure replica draws a request, as Ray Serve asks it: the order of `layouts` over the replicas that it knows."""

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from pangu.serve.replica_affinity import affinity_key, in_order


class LayoutRouter(RequestRouter):
    """Ray Serve asks it for each call of the structure pool; it runs in the gateway."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One rank for each replica, in the order of choice; Serve takes the first that is not full."""
        layout = None
        if pending_request is not None:
            # All replicas are offered at once, so there is nothing to try before waiting.
            pending_request.routing_context.should_backoff = True
            layout = affinity_key(pending_request.args)
        replicas = {each.replica_id.unique_id: each for each in candidate_replicas}
        lengths = self.replica_queue_len_cache
        busy = {name: lengths.get(each.replica_id) or 0 for name, each in replicas.items()}
        return [[replicas[name]] for name in in_order(busy, layout)]
