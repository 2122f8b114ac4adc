"""Settings of several servers: the URL of Redis, which may contain a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.settings import load_settings

PASSWORD = "hunter2-hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        f"redis://:{PASSWORD}@[::1]:6379/3",
        f"rediss://user:{PASSWORD}@redis.internal:6380/0?ssl_ca_certs=/etc/ssl/redis.pem",
        f"unix:///run/redis/redis.sock?db=2&password={PASSWORD}",
    ],
)
def test_the_forms_that_the_driver_understands_are_accepted(url: str) -> None:
    settings = load_settings(overrides={"cluster": {"redis_url": url}})
    assert settings.cluster.redis_url == url
    assert PASSWORD not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{PASSWORD}@localhost",
        f"localhost:6379?password={PASSWORD}",
        f"redis://:{PASSWORD}@",
        f"redis://:{PASSWORD}@localhost:0",
        f"redis://:{PASSWORD}@localhost:99999",
        f"redis://:{PASSWORD}@localhost/zero",
        f"redis://localhost?db=first&password={PASSWORD}",
        f"redis://localhost?password={PASSWORD}&socket_timeout=900",
        f"redis://:{PASSWORD}@[::1",
        f"unix://?password={PASSWORD}",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    config = tmp_path / "smartserve.toml"
    config.write_text(f'[cluster]\nredis_url = "{url}"')
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config)
    assert "cluster.redis_url" in str(caught.value)
    assert PASSWORD not in str(caught.value) + repr(caught.value) + str(caught.value.__cause__)


def test_a_prefix_without_characters_of_other_meaning_is_required() -> None:
    with pytest.raises(ConfigurationError, match=r"cluster\.redis_prefix"):
        load_settings(overrides={"cluster": {"redis_prefix": "smart*"}})
