"""The Serve application as a graph of deployments; `deploy` and a RayService manifest name it by import path."""

from collections.abc import Sequence
from typing import Any, cast

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, BackpressureConfig, RequestRouterConfig

from pangu.config import MIDDLE_ROLES, Role
from pangu.errors import UserError
from pangu.serve.gateway import Gateway
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.replicas import REPLICAS
from pangu.serve.settings import BETWEEN, CHOSEN_LAYOUT, PoolSettings, ServeSettings

ROUTER: dict[str, Any] = {"request_router_class": "pangu.serve.routing:LayoutRouter"}
"""Of the structure pool, whose replicas have caches."""


def build(settings: dict[str, Any]) -> Application:
    """The application of `ServeSettings.arguments`. Serve calls this on the cluster."""
    chosen = ServeSettings.of_arguments(settings)
    # A manifest chooses none: which releases it will be given is not known.
    layout = settings.get(CHOSEN_LAYOUT) or chosen.layout_of()
    fixed = chosen.model_copy(update={"layout": layout}).model_dump(mode="json")
    return build_with(fixed, None, settings.get(BETWEEN, ()))


def build_with(
    settings: dict[str, Any], routing: dict[str, Any] | None, between: Sequence[Role] | None = None
) -> Application:
    """The same with the JSON of a `ReleaseRouting` for all parts, where no declaration brings it as `user_config`.

    between: experts between structure and texture that have pools; None: those of the routing.
    """
    chosen = ServeSettings.model_validate(settings)
    if between is None:
        between = () if routing is None else ReleaseRouting.model_validate(routing).between
    layout = chosen.layout_of()
    if chosen.offload_idle and layout != "one_process":
        raise UserError('offload_idle shares a device between halves of one process; set "layout": "one_process", too.')
    pools = {name: _pool(name, chosen, routing) for name in chosen.parts(layout, between)}
    gateway = _deployment(
        serve.ingress()(Gateway),
        name="gateway",
        user_config=routing,
        ray_actor_options=_share_of_device(chosen),
        # Well above what it accepts, so that the gateway itself can refuse with OpenAI's error object.
        max_ongoing_requests=4 * chosen.max_in_flight + 32,
        max_queued_requests=8 * chosen.max_in_flight,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=chosen.retry_after_s),
        graceful_shutdown_timeout_s=chosen.drain_s,
        max_surge_percent=chosen.surge_percent,
    )
    return gateway.bind(chosen.model_dump(mode="json"), pools)


def _share_of_device(settings: ServeSettings) -> dict[str, float]:
    alone = settings.layout == "one_process"
    return {"num_cpus": settings.gateway_cpus, "num_gpus": settings.structure.num_gpus if alone else 0.0}


def _pool(name: str, settings: ServeSettings, routing: dict[str, Any] | None) -> Application:
    own = _sizes(name, settings)
    deployment = _deployment(
        REPLICAS["middle" if name in MIDDLE_ROLES else name],
        name=name,
        user_config=routing,
        ray_actor_options={"num_cpus": own.num_cpus, "num_gpus": own.num_gpus},
        # A replica takes all that the gateway may accept: waiting beside its batch is cheaper than being routed again.
        max_ongoing_requests=settings.max_in_flight + 8,
        max_queued_requests=settings.max_in_flight + 8,
        graceful_shutdown_timeout_s=settings.drain_s,
        max_surge_percent=settings.surge_percent,
        **_scale(own, settings),
        **({"request_router_config": RequestRouterConfig(**ROUTER)} if name in ("structure", "pair") else {}),
    )
    if name == "pair":
        return deployment.bind(settings.model_dump(mode="json"))
    sizes = settings.coop if name == "coop" else own
    moderation = settings.moderation.model_dump(mode="json")
    adapters = [{name: own.model_dump(mode="json") for name, own in settings.loras.items()}, settings.loras_held]
    beside: dict[str, list[Any]] = {
        **{role: [*adapters, role] for role in MIDDLE_ROLES},
        "structure": [*adapters, settings.cache_bytes],
        "texture": adapters,
        "decoder": [moderation, settings.decoded_pixels],
        "coop": [settings.cache_bytes],
    }
    return deployment.bind(sizes.model_dump(mode="json"), *beside.get(name, []))


def _sizes(name: str, settings: ServeSettings) -> PoolSettings:
    if name == "coop":
        return settings.coop.pool
    return settings.of_part("structure" if name == "pair" else name)


def _scale(own: PoolSettings, settings: ServeSettings) -> dict[str, Any]:
    if own.most_replicas is None or own.most_replicas <= own.replicas:
        return {"num_replicas": own.replicas}
    target = max(1.0, settings.max_in_flight / own.most_replicas)
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=own.replicas,
            max_replicas=own.most_replicas,
            target_ongoing_requests=target,
            upscale_delay_s=own.upscale_after_s,
            downscale_delay_s=own.downscale_after_s,
        )
    }


def _deployment(target: type, **options: Any) -> Deployment:
    """`serve.deployment` of a class that is already at hand, which its signature types as a decorator."""
    return cast(Deployment, serve.deployment(target, **options))
