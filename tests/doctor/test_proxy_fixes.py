"""Detection of reverse proxies, and advice for each."""

from __future__ import annotations

import pytest

from proxy.doctor.proxy_fixes import FORMATS, FORWARDED, ReverseProxy, advice, detect
from tests.doctor.conftest import response


@pytest.mark.parametrize(
    ("headers", "vendor", "file"),
    [
        (
            {"Server": "cloudflare", "CF-Ray": "1"},
            ReverseProxy.CLOUDFLARE,
            "cdn/cloudflare/worker.js",
        ),
        (
            {"Via": "1.1 a.cloudfront.net (CloudFront)"},
            ReverseProxy.CLOUDFRONT,
            "cdn/cloudfront/function.js",
        ),
        ({"X-Served-By": "cache-fra-1"}, ReverseProxy.FASTLY, "cdn/fastly/smartserve.vcl"),
        ({"Server": "BunnyCDN-DE1-1"}, ReverseProxy.BUNNY, "cdn/bunny/script.js"),
        ({"Server": "nginx"}, ReverseProxy.NGINX, "nginx/cache.conf"),
        ({"Server": "Caddy"}, ReverseProxy.OTHER, "nginx/cache.conf"),
        ({"Server": "smartserve"}, ReverseProxy.NOBODY, "nginx/cache.conf"),
    ],
)
def test_each_vendor_is_detected_and_has_its_own_file(
    headers: dict[str, str], vendor: ReverseProxy, file: str
) -> None:
    found = detect(response(headers=headers))
    assert found is vendor
    assert f"deploy/{file}" in advice(found, FORMATS)


def test_a_cdn_is_also_given_the_fix_of_the_nginx_behind_it() -> None:
    text = advice(ReverseProxy.FASTLY, FORWARDED)
    assert "deploy/cdn/fastly" in text
    assert "behind it nginx: proxy_set_header X-Forwarded-For" in text
