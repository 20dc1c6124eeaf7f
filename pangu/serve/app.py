"""The Serve application as a graph of deployments; `deploy` and a RayService manifest name it by import path."""

from typing import Any, cast

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import BackpressureConfig

from pangu.serve.gateway import Gateway
from pangu.serve.pools import DecoderPool, StructurePool, TexturePool
from pangu.serve.settings import PoolSettings, ServeSettings


def build(settings: dict[str, Any]) -> Application:
    """The application; `settings` is the JSON of a `ServeSettings`. Serve calls this on the cluster."""
    chosen = ServeSettings.model_validate(settings)
    structure = _pool(StructurePool, "structure", chosen.structure, chosen)
    texture = _pool(TexturePool, "texture", chosen.texture, chosen)
    decoder = _pool(DecoderPool, "decoder", chosen.decoder, chosen)
    gateway = _deployment(
        serve.ingress()(Gateway),
        name="gateway",
        ray_actor_options={"num_cpus": chosen.gateway_cpus},
        # Well above what it accepts, so that the gateway itself can refuse with OpenAI's error object.
        max_ongoing_requests=4 * chosen.max_in_flight + 32,
        max_queued_requests=8 * chosen.max_in_flight,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=chosen.retry_after_s),
        graceful_shutdown_timeout_s=chosen.drain_s,
    )
    return gateway.bind(chosen.model_dump(mode="json"), structure, texture, decoder)


def _pool(pool: type, name: str, own: PoolSettings, settings: ServeSettings) -> Application:
    deployment = _deployment(
        pool,
        name=name,
        num_replicas=own.replicas,
        ray_actor_options={"num_cpus": own.num_cpus, "num_gpus": own.num_gpus},
        # A replica takes all that the gateway may accept: waiting in its own thread is cheaper than being routed again.
        max_ongoing_requests=settings.max_in_flight,
        max_queued_requests=settings.max_in_flight,
        graceful_shutdown_timeout_s=settings.drain_s,
    )
    return deployment.bind(own.threads)


def _deployment(target: type, **options: Any) -> Deployment:
    """`serve.deployment` of a class that is already at hand, which its signature types as a decorator."""
    return cast(Deployment, serve.deployment(target, **options))
