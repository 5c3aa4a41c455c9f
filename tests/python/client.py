"""Cloudflare's own Python client against lb, with answers checked strictly.

Usage: client.py URL TOKEN STEP [ORIGIN]...
Each step prints what the next one needs to know; a failure is an exception.
"""

import datetime
import sys
import time

import cloudflare
from cloudflare import Cloudflare

ACCOUNT = "0123456789abcdef0123456789abcdef"
ZONE = "fedcba9876543210fedcba9876543210"
NOBODY = "f" * 32


def connect(url, token):
    return Cloudflare(
        base_url=f"{url}/client/v4",
        api_token=token,
        max_retries=0,
        _strict_response_validation=True,
    )


def refused(kind, code, words, call):
    """The call fails with this status and code, and says this."""
    try:
        call()
    except cloudflare.APIStatusError as error:
        assert isinstance(error, kind), f"{type(error)} instead of {kind}: {error}"
        first = error.errors[0]
        assert first.code == code, f"code {first.code} instead of {code}: {first}"
        assert words in first.message, f"{words!r} is not in {first.message!r}"
        return error
    raise AssertionError(f"nothing was refused: {words}")


def by_name(items, name):
    found = [item for item in items if item.name == name]
    assert len(found) == 1, f"{len(found)} are called {name}"
    return found[0]


def deploy(client, first, second):
    """One of everything, so that traffic goes to the first origin."""
    balancers = client.load_balancers
    monitor = balancers.monitors.create(
        account_id=ACCOUNT, type="tcp", interval=1, timeout=1, retries=0, description="ports"
    )
    assert len(monitor.id) == 32 and monitor.method == "connection_established", monitor
    assert (monitor.port, monitor.consecutive_up, monitor.consecutive_down) == (0, 0, 0), monitor
    origins = [
        {"name": "z", "address": first, "port": 80},
        {"name": "a", "address": second, "port": 80, "enabled": False},
    ]
    pool = balancers.pools.create(account_id=ACCOUNT, name="api-eu", origins=origins, monitor=monitor.id)
    assert [origin.name for origin in pool.origins] == ["z", "a"], "origins keep their order"
    assert pool.origins[1].disabled_at is not None and pool.origins[0].weight == 1, pool
    zone = balancers.create(
        zone_id=ZONE, name="lb.example.com", default_pools=[pool.id], fallback_pool=pool.id, proxied=True
    )
    assert (zone.ttl, zone.steering_policy, zone.session_affinity) == (30, "", "none"), zone
    app = client.spectrum.apps.create(
        zone_id=ZONE,
        protocol="tcp/80",
        dns={"type": "CNAME", "name": "web.example.com"},
        origin_dns={"name": "lb.example.com", "ttl": 1200},
        traffic_type="direct",
        edge_ips={"type": "dynamic", "connectivity": "ipv4"},
        proxy_protocol="off",
        tls="off",
        ip_firewall=False,
    )
    assert type(app).__name__ == "SpectrumConfigAppConfig", type(app)
    assert app.edge_ips.type == "dynamic" and app.edge_ips.connectivity == "ipv4", app
    return zone, app


def move(client):
    """The same pool with the other origin, by PATCH."""
    pools = client.load_balancers.pools
    pool = by_name(pools.list(account_id=ACCOUNT), "api-eu")
    origins = [
        {"name": origin.name, "address": origin.address, "port": origin.port, "enabled": origin.name == "a"}
        for origin in pool.origins
    ]
    changed = pools.edit(pool_id=pool.id, account_id=ACCOUNT, origins=origins)
    assert [origin.enabled for origin in changed.origins] == [False, True], changed
    assert changed.monitor == pool.monitor and changed.created_on == pool.created_on, changed
    assert changed.modified_on > pool.modified_on, changed


def rename(client):
    """The pool and its origins under other names: nothing else becomes of them."""
    pools = client.load_balancers.pools
    pool = by_name(pools.list(account_id=ACCOUNT), "api-eu")
    # Whatever is taken for another one loses its flows at once.
    pools.edit(pool_id=pool.id, account_id=ACCOUNT, extra_body={"drain_timeout": 0})
    named = lambda suffix: [
        {"name": f"{origin.name}{suffix}", "address": origin.address, "port": origin.port, "enabled": origin.enabled}
        for origin in pool.origins
    ]
    renamed = pools.edit(pool_id=pool.id, account_id=ACCOUNT, name="api-west", origins=named("-new"))
    assert [origin.name for origin in renamed.origins] == ["z-new", "a-new"], renamed
    # Not even for a moment.
    health = pools.health.get(pool_id=pool.id, account_id=ACCOUNT).to_dict()["pop_health"]
    assert health and all(node["healthy"] for node in health.values()), health
    pools.edit(pool_id=pool.id, account_id=ACCOUNT, name="api-eu", origins=named(""))


def monitors(client):
    monitors = client.load_balancers.monitors
    made = monitors.create(
        account_id=ACCOUNT,
        type="https",
        path="/health",
        header={"Host": ["example.com"], "X-App": ["a", "b"]},
        expected_codes="2xx,301",
        expected_body="alive",
        follow_redirects=True,
        allow_insecure=True,
        interval=30,
        consecutive_down=3,
        port=8443,
    )
    read = monitors.get(monitor_id=made.id, account_id=ACCOUNT)
    assert read == made and read.header["X-App"] == ["a", "b"], read
    patched = monitors.edit(monitor_id=made.id, account_id=ACCOUNT, description="new", port=None)
    assert (patched.description, patched.port, patched.path) == ("new", 0, "/health"), patched
    replaced = monitors.update(monitor_id=made.id, account_id=ACCOUNT, type="http", interval=10)
    assert (replaced.description, replaced.path, replaced.expected_codes) == ("", "/", "200"), replaced
    assert not replaced.follow_redirects and replaced.created_on == made.created_on, replaced
    assert made.id in [monitor.id for monitor in monitors.list(account_id=ACCOUNT)]
    refused(
        cloudflare.BadRequestError,
        1002,
        "interval: 0 is outside 0.1 to 86400 seconds",
        lambda: monitors.edit(monitor_id=made.id, account_id=ACCOUNT, interval=0),
    )
    refused(
        cloudflare.BadRequestError,
        1002,
        "colour: unknown field",
        lambda: monitors.edit(monitor_id=made.id, account_id=ACCOUNT, extra_body={"colour": 1}),
    )
    assert monitors.delete(monitor_id=made.id, account_id=ACCOUNT).id == made.id
    refused(
        cloudflare.NotFoundError,
        1001,
        made.id,
        lambda: monitors.get(monitor_id=made.id, account_id=ACCOUNT),
    )


def pools(client, first, second):
    balancers = client.load_balancers
    pools = balancers.pools
    # What Cloudflare's types cannot hold stands beside what they can.
    ours = [one for one in balancers.monitors.list(account_id=ACCOUNT) if one.description == "of-the-file"]
    assert [(one.interval, one.timeout, one.exact) for one in ours] == [(1, 1, {"interval": 0.5, "timeout": 0.4})], ours
    hashed = by_name(balancers.list(zone_id=ZONE), "of-the-file")
    assert hashed.steering_policy == "random" and hashed.exact == {"steering_policy": "hash"}, hashed
    known = by_name(pools.list(account_id=ACCOUNT), "api-eu")
    monitor = known.monitor
    origins = [{"name": "one", "address": first, "port": 80, "weight": 0.5}]
    made = pools.create(
        account_id=ACCOUNT,
        name="api-more",
        origins=origins,
        monitor=monitor,
        description="more",
        latitude=50.1,
        longitude=8.7,
        minimum_origins=1,
        origin_steering={"policy": "hash"},
    )
    assert (made.latitude, made.origin_steering.policy) == (50.1, "hash"), made
    assert made.load_shedding.default_percent == 0 and made.load_shedding.session_policy == "hash", made
    listed = [pool.id for pool in pools.list(account_id=ACCOUNT, monitor=monitor)]
    assert listed == [known.id, made.id], listed
    patched = pools.edit(pool_id=made.id, account_id=ACCOUNT, monitor=None, enabled=False)
    assert patched.monitor == "" and patched.disabled_at is not None, patched
    filters = {"origin": {"disable": True}, "pool": {"healthy": False}}
    patched = pools.edit(pool_id=made.id, account_id=ACCOUNT, notification_filter=filters)
    told = patched.notification_filter
    assert (told.origin.disable, told.origin.healthy, told.pool.healthy) == (True, None, False), patched
    replaced = pools.update(
        pool_id=made.id,
        account_id=ACCOUNT,
        name="api-more",
        origins=[*origins, {"name": "two", "address": second, "port": 80}],
    )
    assert replaced.enabled and replaced.description == "" and replaced.disabled_at is None, replaced
    assert replaced.notification_filter is None, replaced
    assert pools.get(pool_id=made.id, account_id=ACCOUNT) == replaced
    # A probe of a monitor that is none of theirs.
    preview = pools.health.create(pool_id=made.id, account_id=ACCOUNT, type="tcp", timeout=2)
    assert preview.pools == {made.id: "api-more"}, preview
    deadline = time.monotonic() + 10
    while not (found := balancers.previews.get(preview_id=preview.preview_id, account_id=ACCOUNT)):
        assert time.monotonic() < deadline, "the preview does not end"
        time.sleep(0.05)
    assert found[made.id].healthy and found[made.id].origins[0][first].healthy, found
    # What was answered is told where something is answered.
    assert found[made.id].origins[0][first].response_code == 0, found
    preview = pools.health.create(pool_id=made.id, account_id=ACCOUNT, type="http", expected_codes="2xx", timeout=2)
    while not (found := balancers.previews.get(preview_id=preview.preview_id, account_id=ACCOUNT)):
        assert time.monotonic() < deadline, "the preview does not end"
        time.sleep(0.05)
    assert found[made.id].origins[0][first].response_code == 200, found
    health = pools.health.get(pool_id=known.id, account_id=ACCOUNT)
    assert health.pool_id == known.id, health
    referring = pools.references.get(pool_id=known.id, account_id=ACCOUNT)
    kinds = sorted((reference.reference_type, reference.resource_type) for reference in referring)
    assert ("referrer", "load_balancer") in kinds and ("referral", "monitor") in kinds, kinds
    refused(
        cloudflare.BadRequestError,
        1003,
        "`api-eu` is already the name of the pool with the id",
        lambda: pools.create(account_id=ACCOUNT, name="api-eu", origins=origins),
    )
    error = refused(
        cloudflare.BadRequestError,
        1002,
        "origins[0].weight: weight 7 is outside 0 to 1",
        lambda: pools.create(account_id=ACCOUNT, name="bad", origins=[{**origins[0], "weight": 7}]),
    )
    assert error.body["errors"][0]["source"]["pointer"] == "/origins/0/weight", error.body
    error = refused(
        cloudflare.APIStatusError,
        1005,
        "load balancer `lb.example.com`",
        lambda: pools.delete(pool_id=known.id, account_id=ACCOUNT),
    )
    assert error.status_code == 412, error
    # What the configuration file declares is read here, and changed there.
    ours = by_name(pools.list(account_id=ACCOUNT), "of-the-file")
    refused(
        cloudflare.PermissionDeniedError,
        1003,
        "lb.toml",
        lambda: pools.edit(pool_id=ours.id, account_id=ACCOUNT, description="x"),
    )
    assert pools.delete(pool_id=made.id, account_id=ACCOUNT).id == made.id


def monitor_groups(client, first):
    balancers = client.load_balancers
    groups = balancers.monitor_groups
    ports = balancers.monitors.create(account_id=ACCOUNT, type="tcp", interval=1, port=80, description="80")
    pings = balancers.monitors.create(account_id=ACCOUNT, type="icmp_ping", interval=1, description="pings")
    member = lambda monitor, **flags: {
        "monitor_id": monitor.id,
        "enabled": True,
        "monitoring_only": False,
        "must_be_healthy": False,
        **flags,
    }
    made = groups.create(
        account_id=ACCOUNT,
        description="both",
        members=[member(ports, must_be_healthy=True), member(pings, monitoring_only=True)],
    )
    assert [one.monitor_id for one in made.members] == [ports.id, pings.id], made
    assert made.members[0].must_be_healthy and made.members[1].monitoring_only, made
    assert groups.get(monitor_group_id=made.id, account_id=ACCOUNT) == made
    pool = balancers.pools.create(
        account_id=ACCOUNT,
        name="grouped",
        origins=[{"name": "one", "address": first, "port": 80}],
        extra_body={"monitor_group": made.id},
    )
    assert pool.monitor_group == made.id and pool.monitor == "", pool
    patched = groups.edit(monitor_group_id=made.id, account_id=ACCOUNT, description="one", members=[member(ports)])
    assert (patched.description, len(patched.members)) == ("one", 1), patched
    assert made.id in [group.id for group in groups.list(account_id=ACCOUNT)]
    referring = groups.references.get(monitor_group_id=made.id, account_id=ACCOUNT)
    kinds = sorted((reference.reference_type, reference.resource_type) for reference in referring)
    assert kinds == [("referral", "monitor"), ("referrer", "pool")], kinds
    refused(
        cloudflare.BadRequestError,
        1002,
        "members[0].monitor_id: there is no monitor",
        lambda: groups.update(
            monitor_group_id=made.id,
            account_id=ACCOUNT,
            description="x",
            members=[{**member(ports), "monitor_id": NOBODY}],
        ),
    )
    error = refused(
        cloudflare.APIStatusError,
        1005,
        "pool `grouped`",
        lambda: groups.delete(monitor_group_id=made.id, account_id=ACCOUNT),
    )
    assert error.status_code == 412, error
    balancers.pools.delete(pool_id=pool.id, account_id=ACCOUNT)
    assert groups.delete(monitor_group_id=made.id, account_id=ACCOUNT).id == made.id
    for monitor in (ports, pings):
        balancers.monitors.delete(monitor_id=monitor.id, account_id=ACCOUNT)


def load_balancers(client):
    balancers = client.load_balancers
    pool = by_name(balancers.pools.list(account_id=ACCOUNT), "api-eu")
    other = by_name(balancers.pools.list(account_id=ACCOUNT), "of-the-file")
    for owner in ({"zone_id": ZONE}, {"account_id": ACCOUNT}):
        made = balancers.create(
            name="second.example.com",
            default_pools=[other.id, pool.id],
            fallback_pool=pool.id,
            steering_policy="random",
            random_steering={"default_weight": 0.2, "pool_weights": {pool.id: 0.8}},
            **owner,
        )
        assert made.default_pools == [other.id, pool.id] and made.zone_name == "example.com", made
        assert made.random_steering.pool_weights == {pool.id: 0.8}, made
        assert balancers.get(load_balancer_id=made.id, **owner) == made
        patched = balancers.edit(load_balancer_id=made.id, description="draft", enabled=False, **owner)
        assert not patched.enabled and patched.default_pools == made.default_pools, patched
        replaced = balancers.update(
            load_balancer_id=made.id,
            name="second.example.com",
            default_pools=[pool.id],
            fallback_pool=other.id,
            **owner,
        )
        assert replaced.enabled and replaced.description == "" and replaced.steering_policy == "", replaced
        assert made.id in [balancer.id for balancer in balancers.list(**owner)]
        refused(
            cloudflare.BadRequestError,
            1002,
            "default_pools[0]: there is no pool",
            lambda: balancers.edit(load_balancer_id=made.id, default_pools=[NOBODY], **owner),
        )
        assert balancers.delete(load_balancer_id=made.id, **owner).id == made.id
    found = balancers.searches.list(account_id=ACCOUNT, query="lb.example", references="*")
    assert found.result is not None, found
    assert balancers.regions.list(account_id=ACCOUNT, country_code_a2="DE")["regions"][0]["region_code"] == "WEU"
    assert balancers.regions.get(region_id="ENAM", account_id=ACCOUNT)["regions"]


def applications(client, first):
    apps = client.spectrum.apps
    static = {"type": "static", "ips": ["203.0.113.77"]}
    made = apps.create(
        zone_id=ZONE,
        protocol="tcp/1000-1010",
        dns={"type": "ADDRESS", "name": "range.example.com"},
        origin_direct=[f"tcp://{first}:3000-3010"],
        edge_ips=static,
        traffic_type="direct",
    )
    assert made.edge_ips.ips == ["203.0.113.77"], made
    # The short form of smaller plans.
    short = apps.create(
        zone_id=ZONE,
        protocol="tcp/2000",
        dns={"type": "CNAME", "name": "short.example.com"},
        origin_direct=[f"tcp://{first}:80"],
    )
    assert short.traffic_type == "direct", short
    # The same shape under another name.
    assert apps.get(app_id=made.id, zone_id=ZONE).to_dict() == made.to_dict()
    # Page by page, until an empty one.
    names = [app.dns.name for app in apps.list(zone_id=ZONE, per_page=1)]
    assert names == ["of-the-file", "range.example.com", "short.example.com", "web.example.com"], names
    names = [app.dns.name for app in apps.list(zone_id=ZONE, order="created_on", direction="desc")]
    assert names == ["short.example.com", "range.example.com", "web.example.com", "of-the-file"], names
    replaced = apps.update(
        app_id=made.id,
        zone_id=ZONE,
        protocol="tcp/1000",
        dns={"type": "ADDRESS", "name": "range.example.com"},
        origin_dns={"name": "lb.example.com"},
        origin_port=80,
        edge_ips=static,
        traffic_type="direct",
        argo_smart_routing=False,
    )
    assert replaced.origin_port == 80 and replaced.origin_direct is None, replaced
    for code, words, changes in [
        (11000, "tls: TLS mode", {"tls": "full"}),
        (11000, "traffic_type: traffic type", {"traffic_type": "http"}),
        (11001, "origin_dns.name: there is no load balancer", {"origin_dns": {"name": "nowhere.example.com"}}),
        (11004, "dns.type", {"dns": {"type": "CNAME", "name": "range.example.com"}}),
    ]:
        body = {
            "protocol": "tcp/1000",
            "dns": {"type": "ADDRESS", "name": "range.example.com"},
            "origin_dns": {"name": "lb.example.com"},
            "edge_ips": static,
            "traffic_type": "direct",
            **changes,
        }
        call = lambda: apps.update(app_id=made.id, zone_id=ZONE, **body)
        refused(cloudflare.BadRequestError, code, words, call)
    protocols = [protocol.name for protocol in client.spectrum.protocols.list(zone_id=ZONE)]
    assert "ssh" in protocols, protocols
    for app in (made, short):
        assert apps.delete(app_id=app.id, zone_id=ZONE).id == app.id


def analytics(client):
    """What the applications have done: at least one connection has come and gone by now."""
    spectrum = client.spectrum.analytics
    app = by_dns_name(client.spectrum.apps.list(zone_id=ZONE), "web.example.com")
    deadline = time.monotonic() + 20
    while True:
        summary = spectrum.events.summaries.get(
            zone_id=ZONE,
            dimensions=["appID", "event"],
            metrics=["count", "bytesIngress", "bytesEgress", "durationAvg", "duration99th"],
            sort=["-count", "event"],
            filters=f"appID=={app.id}",
        )
        rows = {tuple(row.dimensions): row.metrics for row in summary.data}
        if rows.get((app.id, "connect"), [0])[0] > 0:
            break
        assert time.monotonic() < deadline, summary
        time.sleep(0.1)
    assert summary.rows == len(summary.data) and summary.data_lag >= 0, summary
    assert summary.totals["count"] == sum(metrics[0] for metrics in rows.values()), summary
    assert summary.query.dimensions == ["appID", "event"] and summary.query.sort == ["-count", "event"], summary
    assert summary.totals["bytesIngress"] > 0 and summary.totals["bytesEgress"] > 0, summary
    until = summary.query.until
    by_time = spectrum.events.bytimes.get(
        zone_id=ZONE,
        time_delta="hour",
        dimensions=["coloName", "ipVersion"],
        metrics=["count"],
        filters="event==connect",
        since=until - datetime.timedelta(hours=2),
        until=until,
    )
    assert len(by_time.time_intervals) in (2, 3), by_time
    assert [row.dimensions[1] for row in by_time.data] == ["4"], by_time
    assert len(by_time.data[0].metrics[0]) == len(by_time.time_intervals), by_time
    current = spectrum.aggregates.currents.get(zone_id=ZONE, app_id=app.id)
    assert [one.app_id for one in current] == [app.id] and current[0].connections >= 0, current
    refused(
        cloudflare.BadRequestError,
        1002,
        'sort: "-bytesEgress" is not among',
        lambda: spectrum.events.summaries.get(zone_id=ZONE, metrics=["count"], sort=["-bytesEgress"]),
    )
    refused(
        cloudflare.BadRequestError,
        1002,
        "filters: \"colour\" is not one of event",
        lambda: spectrum.events.summaries.get(zone_id=ZONE, filters="colour==red"),
    )


def by_dns_name(apps, name):
    found = [app for app in apps if app.dns.name == name]
    assert len(found) == 1, f"{len(found)} are called {name}"
    return found[0]


def clean(client):
    """Everything goes, those that refer to others first."""
    for app in list(client.spectrum.apps.list(zone_id=ZONE)):
        if app.dns.name != "of-the-file":
            client.spectrum.apps.delete(app_id=app.id, zone_id=ZONE)
    balancers = client.load_balancers
    for balancer in balancers.list(zone_id=ZONE):
        if balancer.name != "of-the-file":
            balancers.delete(load_balancer_id=balancer.id, zone_id=ZONE)
    for pool in balancers.pools.list(account_id=ACCOUNT):
        if pool.name != "of-the-file":
            balancers.pools.delete(pool_id=pool.id, account_id=ACCOUNT)
    for monitor in balancers.monitors.list(account_id=ACCOUNT):
        if monitor.description != "of-the-file":
            balancers.monitors.delete(monitor_id=monitor.id, account_id=ACCOUNT)
    assert [pool.name for pool in balancers.pools.list(account_id=ACCOUNT)] == ["of-the-file"]


def walk(client, first, second):
    """Every call of the client, on objects that are not needed for traffic."""
    monitors(client)
    pools(client, first, second)
    monitor_groups(client, first)
    load_balancers(client)
    applications(client, first)


def strangers(client):
    wrong = client.with_options(api_token="wrong")
    refused(
        cloudflare.AuthenticationError,
        10000,
        "the token is not the right one",
        lambda: list(wrong.load_balancers.pools.list(account_id=ACCOUNT)),
    )


STEPS = {
    "deploy": deploy,
    "move": move,
    "rename": rename,
    "walk": walk,
    "analytics": analytics,
    "strangers": strangers,
    "clean": clean,
}


if __name__ == "__main__":
    url, token, step, *arguments = sys.argv[1:]
    STEPS[step](connect(url, token), *arguments)
    print("done")
