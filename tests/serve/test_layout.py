"""Which pairs lie in one replica, and that a running one moves only where it must."""

from typing import Any

from pangu.serve.app import build
from pangu.serve.settings import CHOSEN_LAYOUT, SMALL_PAIR_BYTES, ServeSettings
from tests import subtests

SMALL, LARGE = SMALL_PAIR_BYTES, SMALL_PAIR_BYTES + 1


@subtests.parametrize(
    ("fields", "weight_bytes", "running", "layout"),
    [
        ({}, SMALL, None, "pair"),
        ({}, LARGE, None, "pools"),
        ({}, None, None, "pools"),
        ({}, SMALL, "pair", "pair"),
        ({}, LARGE, "pair", "pools"),
        ({}, SMALL, "pools", "pools"),
        ({"texture": {"replicas": 2}}, SMALL, None, "pools"),
        ({"decoder": {"most_replicas": 2}}, SMALL, None, "pools"),
        ({"structure": {"num_gpus": 0.5}}, SMALL, "pair", "pools"),
        ({"layout": "pair", "structure": {"replicas": 2}}, LARGE, "pools", "pair"),
        ({"layout": "pools"}, SMALL, "pair", "pools"),
        ({"layout": "one_process"}, LARGE, None, "one_process"),
    ],
)
def test_a_small_pair_without_a_device_of_its_own_lies_in_one_replica_unless_it_is_told_or_runs_otherwise(
    fields: dict[str, Any], weight_bytes: int | None, running: Any, layout: str
) -> None:
    settings = ServeSettings.model_validate(fields)
    assert settings.layout_of(weight_bytes, running) == layout


def test_what_is_declared_says_which_parts_run_and_the_settings_come_back_as_they_were_asked() -> None:
    asked = ServeSettings.model_validate({"coop": {"partners": {"ink": {"source": "ink"}}}})
    arguments = asked.arguments("pair")
    assert arguments[CHOSEN_LAYOUT] == "pair" and ServeSettings.of_arguments(arguments) == asked
    assert asked.parts("pair") == ("pair", "coop") and ServeSettings().parts("pair") == ("pair",)
    assert asked.parts("pools") == ("structure", "texture", "decoder", "coop") and asked.parts("one_process") == ()
    three = asked.arguments("pools", ["middle"])
    assert ServeSettings.of_arguments(three) == asked and asked.arguments("pools", []) == asked.arguments("pools")
    for given, parts in (
        (arguments, {"pair", "coop"}),
        (asked.arguments(), {"structure", "texture", "decoder", "coop"}),
        (three, {"structure", "middle", "texture", "decoder", "coop"}),
    ):
        application = build(given)
        bound = application._bound_deployment.init_args[1]
        assert set(bound) == parts
