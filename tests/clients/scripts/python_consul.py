"""Drives an agent through a Python client of Consul and asserts what came of it: `python_consul.py PORT`.

The same for Debian's python3-consul (python-consul 0.7.1) and for py-consul of PyPI, whose newer calls come at the end. Each
function is one part of the interface; the first that fails ends the script with a traceback and exit code 1.
"""

import base64
import sys
import threading
import time

import consul

PORT = int(sys.argv[1])
NEWER = hasattr(consul.Consul(port=PORT), "snapshot")


def client(**more):
    return consul.Consul(host="127.0.0.1", port=PORT, **more)


def until(what, good, within=15.0):
    """Polls until `good` gives something true, and gives that."""
    end = time.monotonic() + within
    while True:
        found = good()
        if found:
            return found
        assert time.monotonic() < end, "%s: not within %s s; at last %r" % (what, within, found)
        time.sleep(0.02)


def ttl(verb, check, note=None):
    """Sets the state of a TTL check: `pass`, `warn` or `fail`."""
    params = {"note": note} if note else {}
    return put(getattr(client().agent.check, "ttl_" + verb), (check, note), "/v1/agent/check/%s/%s" % (verb, check), params)


def deregister(kind, name):
    return put(getattr(client().agent, kind).deregister, (name,), "/v1/agent/%s/deregister/%s" % (kind, name), {})


def put(method, arguments, path, params):
    """python-consul 0.7.1 asks these with GET, which Consul has refused since 1.0, and must be refused by us: so with PUT, through
    its own transport."""
    done = method(*arguments)
    if NEWER:
        return done
    assert done is False, (path, done)
    return client().http.put(consul.base.CB.bool(), path, params=params)


def refused(what, error, call):
    try:
        call()
    except error as said:
        return str(said)
    raise AssertionError("%s: no %s" % (what, error.__name__))


def keys():
    kv = client().kv
    index, none = kv.get("py/none")
    assert none is None and int(index) >= 1
    assert kv.put("py/a", "one") is True
    assert kv.put("py/b/c", b"\x00\xffraw", flags=3503) is True
    assert kv.put("py/empty", "") is True
    _, a = kv.get("py/a")
    assert a["Value"] == b"one" and a["Flags"] == 0 and a["LockIndex"] == 0, a
    assert a["CreateIndex"] == a["ModifyIndex"]
    _, raw = kv.get("py/b/c")
    assert raw["Value"] == b"\x00\xffraw" and raw["Flags"] == 3503, raw
    _, empty = kv.get("py/empty")
    assert empty["Value"] is None, empty
    _, all_keys = kv.get("py/", recurse=True)
    assert [k["Key"] for k in all_keys] == ["py/a", "py/b/c", "py/empty"]
    _, names = kv.get("py/", keys=True, separator="/")
    assert names == ["py/a", "py/b/", "py/empty"], names
    assert kv.put("py/a", "no", cas=0) is False
    assert kv.put("py/a", "no", cas=a["ModifyIndex"] + 7) is False
    assert kv.put("py/a", "two", cas=a["ModifyIndex"]) is True
    _, now = kv.get("py/a", consistency="consistent")
    assert now["Value"] == b"two" and now["CreateIndex"] == a["CreateIndex"] < now["ModifyIndex"]
    assert kv.delete("py/a", cas=a["ModifyIndex"]) is False
    assert kv.delete("py/", recurse=True) is True
    assert kv.get("py/", recurse=True)[1] is None


def waiting():
    kv = client().kv
    kv.put("py/wait", "1")
    index, _ = kv.get("py/wait")
    began = time.monotonic()
    same, _ = kv.get("py/wait", index=index, wait="300ms")
    assert same == index and 0.25 < time.monotonic() - began < 5
    seen = []
    reader = threading.Thread(target=lambda: seen.append(client().kv.get("py/wait", index=index, wait="20s")))
    reader.start()
    client().kv.put("py/other", "not what is waited for")
    assert not seen
    client().kv.put("py/wait", "2")
    reader.join(10)
    assert not reader.is_alive() and seen[0][1]["Value"] == b"2" and int(seen[0][0]) > int(index)
    kv.delete("py/", recurse=True)


def sessions():
    c = client()
    refused("a TTL too short", (consul.ConsulException, AssertionError, ValueError), lambda: c.session.create(ttl=1))
    first = c.session.create(name="first", ttl=10, lock_delay=0, behavior="delete")
    second = c.session.create(name="second", ttl=60, lock_delay=0)
    assert c.kv.put("py/lock", "1", acquire=first) is True
    assert c.kv.put("py/lock", "2", acquire=second) is False
    _, held = c.kv.get("py/lock")
    assert held["Session"] == first and held["LockIndex"] == 1 and held["Value"] == b"1", held
    assert c.kv.put("py/lock", "x", release=second) is False
    assert c.kv.put("py/lock", "3", release=first) is True
    assert c.kv.put("py/lock", "2", acquire=second) is True
    assert c.kv.get("py/lock")[1]["LockIndex"] == 2
    assert c.kv.put("py/ours", "", acquire=first) is True
    _, info = c.session.info(first)
    assert info["Name"] == "first" and info["Behavior"] == "delete" and info["TTL"] == "10s", info
    assert c.session.renew(first)["ID"] == first
    _, listed = c.session.list()
    assert {first, second} <= {s["ID"] for s in listed}
    _, of_node = c.session.node(info["Node"])
    assert {first, second} <= {s["ID"] for s in of_node}
    assert c.session.destroy(first) is True
    assert c.kv.get("py/ours")[1] is None, "behaviour delete"
    refused("a session that is gone", consul.NotFound, lambda: c.session.renew(first))
    said = refused("locking without one", consul.ConsulException, lambda: c.kv.put("py/lock", "x", acquire=first))
    assert "invalid session" in said, said
    assert c.session.destroy(second) is True
    _, freed = c.kv.get("py/lock")
    assert "Session" not in freed and freed["Value"] == b"2", freed
    c.kv.delete("py/", recurse=True)


def services():
    c = client()
    a = c.agent
    assert a.service.register("py-web", service_id="py-web-1", address="10.9.0.1", port=8080, tags=["v1", "blue"],
                              check=consul.Check.ttl("60s")) is True
    assert a.service.register("py-web", service_id="py-web-2", address="10.9.0.2", port=8081, tags=["v2"]) is True
    mine = a.services()
    assert mine["py-web-1"]["Port"] == 8080 and sorted(mine["py-web-1"]["Tags"]) == ["blue", "v1"], mine["py-web-1"]
    assert a.checks()["service:py-web-1"]["Status"] == "critical"

    def health(**more):
        return [s["Service"]["ID"] for s in c.health.service("py-web", **more)[1]]

    until("both in the catalog", lambda: sorted(health()) == ["py-web-1", "py-web-2"])
    until("one passes", lambda: health(passing=True) == ["py-web-2"])
    assert health(tag="blue") == ["py-web-1"]
    assert ttl("pass", "service:py-web-1", "all-is-well") is True
    until("two pass", lambda: sorted(health(passing=True)) == ["py-web-1", "py-web-2"])
    checks = [n["Checks"] for n in c.health.service("py-web", tag="v1")[1]][0]
    assert [x["Output"] for x in checks if x["CheckID"] == "service:py-web-1"] == ["all-is-well"], checks
    assert ttl("warn", "service:py-web-1", "hm") is True
    until("a warning", lambda: [x["Status"] for x in c.health.checks("py-web")[1]] == ["warning"])
    assert ttl("fail", "service:py-web-1") is True
    until("one is left", lambda: health(passing=True) == ["py-web-2"])
    seen = []
    index = c.health.service("py-web", passing=True)[0]

    def await_two():
        # A wait may end for a change that this list does not show, such as the output of a check that fails.
        at, rows = index, []
        while len(rows) != 2:
            at, rows = client().health.service("py-web", passing=True, index=at, wait="20s")
            seen.append(sorted(row["Service"]["ID"] for row in rows))

    waiter = threading.Thread(target=await_two, daemon=True)
    waiter.start()
    assert ttl("pass", "service:py-web-1") is True
    waiter.join(10)
    assert seen and seen[-1] == ["py-web-1", "py-web-2"], seen
    rows = c.catalog.service("py-web", tag="v2")[1]
    assert [(r["ServiceAddress"], r["ServicePort"]) for r in rows] == [("10.9.0.2", 8081)], rows
    assert sorted(c.catalog.services()[1]["py-web"]) == ["blue", "v1", "v2"]
    assert a.service.maintenance("py-web-2", True, "by-hand") is True
    until("maintenance", lambda: health(passing=True) == ["py-web-1"])
    assert a.service.maintenance("py-web-2", False) is True
    until("maintenance over", lambda: len(health(passing=True)) == 2)
    for name in ("py-web-1", "py-web-2"):
        assert deregister("service", name) is True
    until("both gone", lambda: health() == [] and "py-web" not in c.catalog.services()[1])
    assert a.check.register("py-alone", check=consul.Check.tcp("127.0.0.1", PORT, "1s")) is True
    until("a check of its own", lambda: a.checks()["py-alone"]["Status"] == "passing")
    assert deregister("check", "py-alone") is True
    assert "py-alone" not in a.checks()
    assert a.maintenance(True, "py") is True
    assert a.checks()["_node_maintenance"]["Notes"] == "py"
    assert a.maintenance(False) is True


def catalog():
    c = client()
    own = c.agent.self()
    assert own["Config"]["Datacenter"] == "dc1" and own["Config"]["Version"].count(".") == 2, own["Config"]
    # Patroni reads it where a TTL was refused; null in the configuration of Consul's newer releases.
    assert own["DebugConfig"]["SessionTTLMin"] == "0s", own["DebugConfig"]["SessionTTLMin"]
    assert own["Member"]["Name"] == own["Config"]["NodeName"]
    members = c.agent.members()
    assert own["Config"]["NodeName"] in [m["Name"] for m in members]
    assert c.catalog.register("py-box", "10.9.1.1", service={"Service": "py-db", "ID": "py-db", "Port": 5432, "Tags": ["p"]},
                              check={"Name": "c", "CheckID": "c", "Status": "passing", "Node": "py-box"}) is True
    assert "py-box" in [n["Node"] for n in c.catalog.nodes()[1]]
    node = c.catalog.node("py-box")[1]
    assert node["Services"]["py-db"]["Port"] == 5432 and node["Node"]["Address"] == "10.9.1.1", node
    assert [x["CheckID"] for x in c.health.node("py-box")[1]] == ["c"]
    assert "py-box" in [x["Node"] for x in c.health.state("passing")[1]]
    assert [x["Node"]["Node"] for x in c.health.service("py-db", passing=True)[1]] == ["py-box"]
    assert c.catalog.deregister("py-box") is True
    assert c.catalog.node("py-box")[1] is None
    assert "py-box" not in [n["Node"] for n in c.catalog.nodes(consistency="consistent")[1]]
    assert c.catalog.datacenters() == ["dc1"]
    leader, peers = c.status.leader(), c.status.peers()
    assert leader in peers and len(peers) == 1, (leader, peers)
    raft = c.operator.raft_config()
    assert [s["Address"] for s in raft["Servers"] if s["Leader"]] == [leader], raft


def events():
    c = client()
    fired = c.event.fire("py-deploy", "payload")
    seen = until("the event", lambda: [e for e in c.event.list("py-deploy")[1] if e["ID"] == fired["ID"]])
    payload = seen[0]["Payload"]
    assert payload in (b"payload", base64.b64encode(b"payload").decode()), payload


def queries():
    c = client()
    c.agent.service.register("py-q", port=99, tags=["t"])
    until("the service", lambda: c.catalog.service("py-q")[1])
    made = c.query.create("py-q", name="py-query", tags=["t"], onlypassing=True, ttl="7s")["ID"]
    got = c.query.get(made)
    got = got[0] if isinstance(got, list) else got
    assert got["Name"] == "py-query" and got["Service"]["OnlyPassing"] is True and got["DNS"]["TTL"] == "7s", got
    found = c.query.execute("py-query")
    assert [n["Service"]["Port"] for n in found["Nodes"]] == [99] and found["DNS"]["TTL"] == "7s", found
    # Both make a template of every query.
    assert c.query.explain("py-query-x")["Query"]["ID"] == made
    assert made in [q["ID"] for q in c.query.list()]
    assert c.query.delete(made) is True
    assert made not in [q["ID"] for q in c.query.list()]
    deregister("service", "py-q")


def refusals():
    c = client()
    refused("ACLs that are off", consul.ACLDisabled, lambda: c.acl.list() if not NEWER else c.acl.token.list())
    refused("a write to a datacenter nobody knows", consul.ConsulException, lambda: c.kv.put("x", "y", dc="nowhere"))


def newer():
    c = client()
    b64 = lambda text: base64.b64encode(text.encode()).decode()
    done = c.txn.put([{"KV": {"Verb": "set", "Key": "py/t1", "Value": b64("1")}},
                      {"KV": {"Verb": "get", "Key": "py/t1"}}])
    assert [r["KV"]["Key"] for r in done["Results"]] == ["py/t1", "py/t1"] and done["Errors"] is None, done
    raw = c.snapshot.save()
    assert raw[:2] == b"\x1f\x8b"
    c.kv.put("py/after", "later")
    assert c.snapshot.restore(raw) is True
    until("the state of the snapshot", lambda: c.kv.get("py/after")[1] is None and c.kv.get("py/t1")[1])
    refused("half a snapshot", consul.ConsulException, lambda: c.snapshot.restore(raw[: len(raw) // 2]))
    c.kv.delete("py/", recurse=True)
    assert c.config.set("service-defaults", "py-web", {"Protocol": "http"}) is True
    assert c.config.get("service-defaults", "py-web")["Protocol"] == "http"
    assert [e["Name"] for e in c.config.list("service-defaults")] == ["py-web"]
    assert c.config.delete("service-defaults", "py-web") is True
    pilot = c.operator.autopilot_configuration()
    assert pilot["CleanupDeadServers"] is True and pilot["LastContactThreshold"] == "200ms", pilot
    until("servers that are well", lambda: c.operator.autopilot_health()["Healthy"] is True, 30)
    # Those of a whole interval of 10 s.
    until("gauges", lambda: c.agent.metrics()["Gauges"], 30)
    chosen = c.agent.services(filter_expr='Service == "nobody"')
    assert chosen == {}, chosen
    refused("a filter that is none", consul.ConsulException, lambda: c.agent.services(filter_expr="Nope =="))


PARTS = [keys, waiting, sessions, services, catalog, events, queries, refusals] + ([newer] if NEWER else [])
for part in PARTS:
    part()
    print("ok", part.__name__, flush=True)
