"""reward_config: every bad value is refused by name, and each run has its kind."""

import pytest

from tinygpt.config import FinetuneConfig, TrainConfig, asdict, from_dict
from tinygpt.errors import UserError
from tinygpt.reward_config import RUN_KINDS, RewardConfig, kind_of


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"samples": 1}, "samples must be at least 2, not 1"),
        ({"samples": 257}, "samples must be at most 256, not 257"),
        ({"max_new_tokens": 0}, "max_new_tokens must be more than 0, not 0"),
        ({"temperature": 0.0}, "temperature must be more than 0, not 0.0"),
        ({"kl_weight": -0.1}, "kl_weight must be at least 0, not -0.1"),
        ({"checks": ()}, "checks must name a check or more"),
        ({"sharding": "full"}, "sharding full keeps no whole model"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_what_is_out_of_range_is_named(change: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        RewardConfig(**change)


def test_kinds_of_runs_and_their_settings() -> None:
    for config in (TrainConfig(), FinetuneConfig(), RewardConfig(samples=5)):
        kind = RUN_KINDS[kind_of(config)]
        assert kind is type(config)
        assert from_dict(kind, asdict(config)) == config
