// Drives an agent through the npm client `consul` and asserts what came of it: `node npm_consul.js PORT` with NODE_PATH naming the
// folder that holds the package. The first part that fails ends the script with a stack and exit code 1.
"use strict";

const assert = require("node:assert/strict");
const loaded = require("consul");
const Consul = loaded.default || loaded.Consul || loaded;

const consul = new Consul({ host: "127.0.0.1", port: Number(process.argv[2]) });

async function until(what, good, within = 15000) {
  const end = Date.now() + within;
  for (;;) {
    const found = await good();
    if (found) return found;
    assert.ok(Date.now() < end, `${what}: not within ${within} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function keys() {
  const { kv } = consul;
  assert.ok(!(await kv.get("js/none")), "a key that is not there");
  assert.equal(await kv.set("js/a b/ü?%", "one"), true);
  const one = await kv.get("js/a b/ü?%");
  assert.equal(one.Value, "one");
  assert.equal(await kv.set({ key: "js/b", value: Buffer.from([0, 255, 1]), flags: 42 }), true);
  const raw = await kv.get({ key: "js/b", buffer: true });
  assert.deepEqual([...raw.Value], [0, 255, 1]);
  assert.equal(raw.Flags, 42);
  assert.deepEqual(await kv.keys("js/"), ["js/a b/ü?%", "js/b"]);
  assert.deepEqual(await kv.keys({ key: "js/", separator: "/" }), ["js/a b/", "js/b"]);
  assert.equal((await kv.get({ key: "js/", recurse: true })).length, 2);
  assert.ok(!(await kv.set({ key: "js/b", value: "x", cas: "0" })));
  assert.equal(await kv.set({ key: "js/b", value: "x", cas: String(raw.ModifyIndex) }), true);
  await kv.del({ key: "js/", recurse: true });
  assert.ok(!(await kv.get({ key: "js/", recurse: true })));
}

async function sessions() {
  const { session, kv } = consul;
  const { ID: first } = await session.create({ name: "js", ttl: "10s", lockdelay: "0s", behavior: "delete" });
  const { ID: second } = await session.create({ name: "js2", lockdelay: "0s" });
  assert.equal(await kv.set({ key: "js/lock", value: "1", acquire: first }), true);
  assert.ok(!(await kv.set({ key: "js/lock", value: "2", acquire: second })));
  assert.equal((await kv.get("js/lock")).Value, "1");
  assert.equal((await kv.get("js/lock")).Session, first);
  assert.equal((await session.renew(first))[0].ID, first);
  const [info] = [].concat(await session.get(first));
  assert.equal(info.Name, "js");
  assert.ok((await session.list()).some((s) => s.ID === second));
  assert.ok((await session.node(info.Node)).some((s) => s.ID === second));
  await session.destroy(first);
  assert.ok(!(await kv.get("js/lock")), "behaviour delete");
  await session.destroy(second);
  await assert.rejects(session.renew(first), /not found/i);
}

async function services() {
  const { agent, catalog, health } = consul;
  await agent.service.register({
    name: "js-web", id: "js-web-1", address: "10.8.0.1", port: 8000, tags: ["a"], meta: { k: "v" },
    check: { ttl: "60s", notes: "n" },
  });
  await agent.service.register({ name: "js-web", id: "js-web-2", port: 8001, tags: ["b"] });
  const mine = await agent.service.list();
  assert.equal(mine["js-web-1"].Port, 8000);
  assert.equal(mine["js-web-1"].Meta.k, "v");
  const passing = async () => (await health.service({ service: "js-web", passing: true })).map((s) => s.Service.ID);
  await until("one passes", async () => String(await passing()) === "js-web-2");
  await agent.check.pass({ id: "service:js-web-1", note: "fine & well" });
  await until("two pass", async () => (await passing()).length === 2);
  assert.equal((await agent.check.list())["service:js-web-1"].Output, "fine & well");
  await agent.check.warn("service:js-web-1");
  await until("a warning", async () => (await health.checks("js-web"))[0].Status === "warning");
  await agent.check.fail("service:js-web-1");
  await until("one left", async () => (await passing()).length === 1);
  const rows = await catalog.service.nodes({ service: "js-web", tag: "a" });
  assert.deepEqual(rows.map((r) => r.ServicePort), [8000]);
  assert.deepEqual((await catalog.service.list())["js-web"].sort(), ["a", "b"]);
  await agent.service.maintenance({ id: "js-web-2", enable: true, reason: "js" });
  await until("none left", async () => (await passing()).length === 0);
  await agent.service.maintenance({ id: "js-web-2", enable: false });
  await agent.check.register({ name: "js-check", tcp: `127.0.0.1:${process.argv[2]}`, interval: "1s" });
  await until("a check of its own", async () => (await agent.check.list())["js-check"].Status === "passing");
  await agent.check.deregister("js-check");
  await agent.service.deregister("js-web-1");
  await agent.service.deregister("js-web-2");
  await until("gone", async () => (await health.service("js-web")).length === 0);
}

// The client's own loop of blocking queries: each change once, in order, and an error does not end it.
async function watching() {
  const seen = [];
  const watch = consul.watch({ method: consul.kv.get, options: { key: "js/watched", wait: "20s" }, backoffFactor: 50 });
  watch.on("change", (data) => seen.push(data ? data.Value : null));
  watch.on("error", (error) => { throw error; });
  for (const value of ["1", "2", "3"]) {
    await consul.kv.set("js/watched", value);
    await until(`the change to ${value}`, () => seen.at(-1) === value);
  }
  watch.end();
  await consul.kv.del("js/watched");
}

async function therest() {
  const self = await consul.agent.self();
  assert.equal(self.Config.Datacenter, "dc1");
  assert.ok((await consul.agent.members()).some((m) => m.Name === self.Config.NodeName));
  assert.deepEqual(await consul.catalog.datacenters(), ["dc1"]);
  assert.ok((await consul.catalog.node.list()).some((n) => n.Node === self.Config.NodeName));
  assert.ok((await consul.catalog.node.services(self.Config.NodeName)).Node);
  assert.ok((await consul.health.node(self.Config.NodeName)).some((c) => c.CheckID === "serfHealth"));
  assert.ok((await consul.health.state("any")).length > 0);
  assert.ok((await consul.status.peers()).includes(await consul.status.leader()));
  const fired = await consul.event.fire("js-event", "payload");
  await until("the event", async () => (await consul.event.list("js-event")).some((e) => e.ID === fired.ID));
  const { ID } = await consul.query.create({
    name: "js-query", template: { type: "name_prefix_match" }, service: { service: "consul" },
  });
  const found = await consul.query.execute({ query: "js-query" });
  assert.equal(found.Nodes.length, 1);
  assert.equal([].concat(await consul.query.get(ID))[0].Name, "js-query");
  await consul.query.destroy(ID);
  const done = await consul.transaction.create([
    { KV: { Verb: "set", Key: "js/t", Value: Buffer.from("1").toString("base64") } },
    { KV: { Verb: "get", Key: "js/t" } },
  ]);
  assert.equal(done.Results.length, 2);
  await consul.kv.del("js/t");
  await assert.rejects(consul.kv.set({ key: "x", value: "y", dc: "nowhere" }), (e) => e.statusCode === 500);
}

(async () => {
  for (const part of [keys, sessions, services, watching, therest]) {
    await part();
    console.log("ok", part.name);
  }
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
