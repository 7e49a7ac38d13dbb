"""admin_api.py ADMIN_URL PROXY_URL KEY UPSTREAM_PORT: the public package apisix-client against our Admin API.

Every kind of object that the package knows is created, read, listed, changed and deleted, and what it made serves
traffic. It ends with 0 if all of that is as the package expects it of APISIX. What the package cannot read back from
any gateway, objects with plugins and routes with an upstream inside, is only written.
"""

import sys
import time

import httpx
from apisix_client import ApisixClient
from apisix_client.common import Pagging
from apisix_client.consumer.models import Consumer
from apisix_client.plugin import KeyAuth, KeyAuthSettings, LimitCount, ProxyRewrite
from apisix_client.route.models import Route
from apisix_client.service.models import Service
from apisix_client.upstream.models import Node, Upstream

ADMIN, PROXY, KEY, UPSTREAM = sys.argv[1:]
client = ApisixClient(f"{ADMIN}/", KEY)
proxy = httpx.Client(base_url=PROXY, timeout=10)


def upstream(**more):
    return Upstream(nodes=[Node(host="127.0.0.1", port=int(UPSTREAM), weight=1)], **more)


def eventually(status, path, **headers):
    """A write is live a moment after its answer."""
    until = time.monotonic() + 10
    while (answer := proxy.get(path, headers=headers)).status_code != status:
        assert time.monotonic() < until, f"{path} {headers}: {answer.status_code} in place of {status}: {answer.text}"
        time.sleep(0.02)
    return answer


def life_of(kind, one, other):
    """`one` and `other` are the same object with another description; `other` is `one` changed."""
    before = kind.count()
    made = kind.create_with_id_generation(one)
    assert made, f"{kind.url_postfix}: not created"
    assert kind.create_or_update(one, "named") == "named"
    found = kind.get("named")
    assert (found.value.id, found.value.desc) == ("named", one.desc), found
    assert found.key.endswith(f"{kind.url_postfix}/named"), found
    assert abs(found.value.create_time.timestamp() - time.time()) < 60, found
    assert found.modified_index >= found.created_index > 0, found
    assert kind.create_or_update(other, "named") == "named"
    changed = kind.get("named")
    assert changed.value.desc == other.desc, changed
    assert (changed.value.create_time, changed.created_index) == (found.value.create_time, found.created_index)
    assert changed.modified_index > found.modified_index, (found, changed)
    assert kind.count() == before + 2
    assert {made, "named"} <= {one.value.id for one in kind.get_all()}
    for name in (made, "named"):
        assert kind.delete(name)
        assert kind.get(name) is None
        assert not kind.delete(name), "deleted twice"
    assert kind.count() == before


def consumers():
    kind = client.consumer
    for desc in ("first", "second"):
        assert kind.create_or_update(Consumer(username="jack", desc=desc))
        assert kind.get("jack").value.desc == desc
    assert [one.value.username for one in kind.get_all()] == ["jack"]
    assert kind.count() == 1
    assert kind.delete("jack")
    assert kind.get("jack") is None
    assert not kind.delete("jack")


def pages():
    names = [f"page-{number:02}" for number in range(25)]
    for name in names:
        assert client.upstream.create_or_update(upstream(), name) == name
    found = [[one.value.id for one in client.upstream.get_all(Pagging(page, 10))] for page in (1, 2, 3)]
    assert [len(page) for page in found] == [10, 10, 5], found
    assert sorted(sum(found, [])) == names
    for name in names:
        assert client.upstream.delete(name)


def refusals():
    wrong = Route(uri="/wrong", plugins=[LimitCount(count=0, time_window=60)])
    assert client.route.create_or_update(wrong, "wrong") is None
    assert client.route.create_or_update(Route(uri="/wrong", upstream_id="nobody"), "wrong") is None
    assert client.route.get("wrong") is None
    assert not ApisixClient(f"{ADMIN}/", "wrong key").consumer.create_or_update(Consumer(username="mallory"))


def traffic():
    """A route that takes its upstream from a service and its guard from the plugins of both."""
    assert client.upstream.create_or_update(upstream(), "u") == "u"
    assert client.service.create_or_update(Service(upstream_id="u", plugins=[KeyAuthSettings()]), "s") == "s"
    rewrite = ProxyRewrite(uri="/rewritten")
    assert client.route.create_or_update(Route(uri="/guarded", service_id="s", plugins=[rewrite]), "r") == "r"
    assert client.consumer.create_or_update(Consumer(username="jack", plugins=[KeyAuth(key="jack-key")]))
    assert "GET /rewritten " in eventually(200, "/guarded", apikey="jack-key").text
    assert proxy.get("/guarded").status_code == 401
    refused = httpx.delete(f"{ADMIN}/apisix/admin/upstreams/u", headers={"X-API-KEY": KEY})
    assert (refused.status_code, list(refused.json())) == (400, ["error_msg"]), refused.text
    assert client.route.delete("r") and client.service.delete("s")
    eventually(404, "/guarded", apikey="jack-key")
    assert client.upstream.delete("u") and client.consumer.delete("jack")


def plugins():
    listed = client.plugin.get_available()
    assert {"key-auth", "limit-count", "prometheus"} <= set(listed), listed
    assert client.plugin.reload()


life_of(client.upstream, upstream(desc="one"), upstream(desc="two"))
life_of(client.service, Service(desc="one", upstream=upstream()), Service(desc="two", upstream=upstream()))
assert client.upstream.create_or_update(upstream(), "u") == "u"
life_of(client.route, Route(uri="/a", desc="one", upstream_id="u"), Route(uri="/a", desc="two", upstream_id="u"))
assert client.upstream.delete("u")
consumers()
pages()
refusals()
plugins()
traffic()
