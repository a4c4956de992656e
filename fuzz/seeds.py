#!/usr/bin/env python3
"""Writes the seeds of fuzz/corpus: one valid input or two of each kind, from which libFuzzer finds the rest. Finds are added by hand."""
import gzip, io, json, os, struct, tarfile, hashlib

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")


def put(target, **files):
    os.makedirs(os.path.join(HERE, target), exist_ok=True)
    for name, data in files.items():
        data = data.encode() if isinstance(data, str) else bytes(data)
        with open(os.path.join(HERE, target, name), "wb") as out:
            out.write(data)


# Protobuf: numbers, texts and messages by field.
def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def msg(*fields):
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


# DNS
def dns(name, qtype=1, extra=b"", additional=0, flags=0x0100, cls=1, counts=None):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split(".") if l) + b"\0"
    head = struct.pack(">HHHHHH", 0x1234, flags, *(counts or (1, 0, 0, additional)))
    return head + labels + struct.pack(">HH", qtype, cls) + extra


OPT = bytes([0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0])
SUBNET = bytes([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 10, 0, 0])
put("dns", a=dns("web.service.consul"), case=dns("WeB.service.dc1.CONSUL", 28), srv=dns("_web._tcp.service.consul", 33, OPT, 1),
    node=dns("n7.node.consul", 255), own=dns("own.service.consul"), txt=dns("n7.node.consul", 16), soa=dns("consul", 6), ns=dns("x.consul", 2),
    addr=dns("0a000001.addr.dc1.consul"), ptr=dns("1.0.0.10.in-addr.arpa", 12), query=dns("near.query.consul", 1, SUBNET, 1),
    outside=dns("example.com"), notify=dns("consul", 6, flags=0x2000), chaos=dns("version.bind", 16, cls=3),
    loop=dns("")[:12] + b"\xc0\x0c\0\1\0\1", two=dns("a.consul", counts=(2, 0, 0, 0)), many=dns("a.consul", counts=(65535, 65535, 65535, 65535)),
    short=b"\x12\x34\1", badvers=dns("web.service.consul", 1, b"\0\0\x29\x04\xd0\0\1\0\0\0\0", 1), answer=dns("example.com", flags=0x8180)[:2].replace(b"\x12\x34", b"\0\7") + dns("example.com", flags=0x8180)[2:])


# Gossip
def ident(name, host=2, generation=7):
    return bytes([len(name)]) + name.encode() + struct.pack(">Q", generation) + bytes([4, 10, 0, 0, host]) + struct.pack(">H", 8301)


def piece(kind, data):
    return bytes([kind]) + struct.pack(">H", len(data)) + data


def record(name, tags={"dc": "dc1"}, leaving=0):
    tags = b"".join(bytes([len(k)]) + k.encode() + struct.pack(">H", len(v)) + v.encode() for k, v in tags.items())
    return bytes([len(name)]) + name.encode() + struct.pack(">QQB", 7, 8, leaving) + struct.pack(">H", len(tags)) + tags


def event(name="deploy"):
    texts = [name.encode(), b"^a", b"", b"", b"payload"]
    return bytes([1]) + (5).to_bytes(16, "big") + struct.pack(">Q", 1) + b"".join(struct.pack(">H", len(t)) + t for t in texts)


def packet(kind, src=("b", 2), dst=("a", 1), rest=b""):
    return bytes([kind]) + ident(*src) + b"\0\0" + ident(*dst) + rest


MEMBER = ident("d", 4) + b"\0\0" + b"\0"
ITEM = b"\1" + record("b")
STATE = b"\1" + ident("b") + struct.pack(">I", 2) + ident("b") + b"\0\0\0\0" + struct.pack(">I", 0) + b"\1" + record("b") \
    + ident("d", 4) + b"\0\1\2\0" + struct.pack(">I", 9) + b"\0" + struct.pack(">Q", 3) + b"\0\1" + event()
put("gossip", ping=piece(0, packet(1, rest=b"\5")), ack=piece(6, b"....................") + piece(0, packet(2, rest=b"\1")),
    ping_req=piece(0, packet(3, rest=b"\5" + ident("c", 3))), indirect=piece(0, packet(4, rest=b"\5" + ident("c", 3))),
    gossip=piece(0, packet(9, rest=b"\0\1" + MEMBER)), down=piece(0, packet(9, rest=b"\0\1" + ident("c", 3) + b"\0\0\2")),
    suspect_us=piece(0, packet(9, rest=b"\0\1" + ident("a", 1) + b"\0\0\1")), announce=piece(1, packet(7, src=("e", 5))),
    undead=piece(0, packet(11)), item=piece(0, packet(10, rest=b"\0\0" + struct.pack(">H", len(ITEM)) + ITEM)),
    state=piece(2, STATE), packets=piece(2, b"\2" + struct.pack(">H", len(packet(1, rest=b"\5"))) + packet(1, rest=b"\5")),
    whois=piece(2, b"\3"), iam=piece(2, b"\4" + ident("a", 9, 9) + struct.pack(">Q", 1)), taken=piece(2, b"\6" + ident("a", 9, 9) + struct.pack(">Q", 1)),
    errand=piece(2, b"\7\1\x10" + b"k" * 16), keys=piece(2, b"\x09\1\x10" + b"k" * 16), plain=piece(3, b"\xc0" + packet(1, rest=b"\5")),
    seal=piece(4, b"some bytes to seal"), idle=b"".join(piece(6, b"x" * 40) for _ in range(12)))

# HTTP bodies
put("body", url=b"\0dc=dc2&stale&index=7&wait=1m30.5s&filter=Node+%3D%3D+%22a%22&max_stale=5s&cas=3&node-meta=a:b",
    url_bad=b"\0wait=-5s&index=-1&stale&consistent&token=%00&cas=99999999999999999999&filter=%ff",
    txn=b"\1" + json.dumps([{"KV": {"Verb": "set", "Key": "k", "Value": "dg==", "Flags": 3}}, {"Node": {"Verb": "get", "Node": {"Node": "a"}}},
                            {"Service": {"Verb": "set", "Node": "a", "Service": {"ID": "w", "Service": "web"}}},
                            {"Check": {"Verb": "cas", "Check": {"Node": "a", "CheckID": "c"}}}, {"Session": {"Verb": "delete", "Session": {"ID": "x"}}}]).encode(),
    session=b'\2{"Name":"s","Node":"a","LockDelay":"15s","TTL":"30s","Behavior":"delete","NodeChecks":["serfHealth"],"ServiceChecks":[{"ID":"c"}]}',
    session_number=b'\2{"LockDelay":9223372036854775807,"Checks":[]}',
    query=b'\3' + json.dumps({"Name": "q", "Template": {"Type": "name_prefix_match", "Regexp": "^(a|b)$"}, "DNS": {"TTL": "10s"}, "Service": {
        "Service": "web", "Near": "_agent", "Tags": ["a", "!b"], "NodeMeta": {"k": "v"}, "OnlyPassing": True, "IgnoreCheckIDs": [],
        "Failover": {"NearestN": 3, "Datacenters": ["dc2"], "Targets": [{"Datacenter": "dc3"}]}}}).encode(),
    resolver=b'\4{"Kind":"service-resolver","Name":"web","ConnectTimeout":"5s","Hysteresis":"1s","Failover":{"*":{"Datacenters":["dc2"]}}}',
    mesh=b'\4{"Kind":"service-defaults","Name":"web","Protocol":"http","Extra":{"a":[1,2.5,null]}}',
    proxy=b'\4{"kind":"proxy-defaults","name":"x","config":{"a":1}}',
    autopilot=b'\5{"CleanupDeadServers":true,"LastContactThreshold":"200ms","MaxTrailingLogs":250,"ServerStabilizationTime":10000000000}',
    service=b'\6{"Name":"web","id":"w","tags":["a"],"Port":80,"Meta":{"k":"v"},"tagged_addresses":{"lan":{"address":"1.2.3.4","port":8}},"Weights":{"Passing":1,"Warning":1},"Checks":[{"TTL":"10s"},{"HTTP":"http://x","Interval":"1s","Header":{"a":["b"]}}]}',
    check=b'\7{"Name":"c","Args":["true"],"Interval":"10s","Timeout":1e9,"DeregisterCriticalServiceAfter":"1m","Status":"passing"}',
    register=b'\x08{"Node":"a","Address":"10.0.0.1","NodeMeta":{"k":"v"},"Service":{"Service":"web"},"Checks":[{"CheckID":"c","Definition":{"TCP":"a:1","Interval":"5s"}}]}',
    coordinate=b'\x09{"Node":"a","Coord":{"Vec":[0,1,2,3,4,5,6,7],"Error":1.5,"Adjustment":0,"Height":0.00001}}',
    watch=b'\x0a{"type":"service","service":"web x","tag":["a","b"],"args":["true"],"datacenter":"dc2","stale":true}',
    watch_http=b'\x0a{"type":"key","key":"a/\xc3\xa4?","handler_type":"http","http_handler_config":{"path":"http://x","timeout":"1s"}}',
    interval=b'\x0b{"interval":"-1h2m3.4s"}', deep=b"\6" + b"[" * 300, empty=b"\1", nul=b'\6{"Name":"\\u0000\\ud800"}', number=b'\6{"Port":1e400}')

# Filters
put("filter", equal='Node == "a"', meta='Meta.env == prod and not (Meta["a b"] is empty)', tags='"v1" in Service.Tags or Service.Tags is not empty',
    port='Service.Port != 80', matches='Service.ID matches "^w.b$"', contains='Service.Tags not contains `v2`', checks='Checks.Status == passing',
    flag='Service.EnableTagOverride == true', bad_regex='Node matches "("', bad='Node = a', deep="(" * 70 + "Node is empty" + ")" * 70,
    nots="not " * 30 + "Node is empty", unicode='Meta["\u00e4\\u"] == "\u00e4"', big_regex='Node matches "((a{99}){99}){99}"')


# Archives
def tar(*files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()[: 512 * (2 * len(files) + 2)]


meta = json.dumps({"Version": 1, "ID": "causeway-2-7", "Index": 7, "Term": 2, "Size": 5}).encode()
sums = "".join(f"{hashlib.sha256(d).hexdigest()}  {n}\n" for n, d in (("meta.json", meta), ("state.bin", b"state"))).encode()
good = tar(("meta.json", meta), ("state.bin", b"state"), ("SHA256SUMS", sums))
lies = bytearray(good)
lies[124:136] = b"77777777777\0"
lies[148:156] = b"        "
lies[148:156] = b"%06o\0 " % sum(lies[:512])
gz = gzip.compress(good, mtime=0)
put("archive", whole=b"\0" + gz, tar=b"\1" + good, lies=b"\1" + lies, cut=b"\0" + gz[: len(gz) // 2], members=b"\0" + gz[:-8] + gz,
    longname=b"\1" + b"".join([(lambda h: h[:148] + b"%06o\0 " % sum(h[:148] + b" " * 8 + h[156:]) + h[156:])(b"././@LongLink".ljust(100, b"\0") + b"0000644\0" * 3 + b"00000001000\0" + b"00000000000\0" + b" " * 8 + b"L" + bytes(100) + b"ustar  \0" + bytes(247)), b"n" * 512]) + good,
    trailing=b"\0" + gz + gzip.compress(bytes(4096), mtime=0), state=b"\2some state", none=b"\0", alien=b"\1" + tar(("../state.bin", b"x")))


# The log
def log_id(index, term=1):
    return msg((1, msg((1, term), (2, 1))), (2, index))


def rec(kind, payload):
    return bytes([kind, len(payload)]) + payload


def entry(index):
    return rec(1, msg((1, log_id(index)), (3, b"command")))


MEMBERS = msg((1, msg((1, b"\1"))), (2, msg((1, 1), (2, "a"), (3, "u"), (4, "127.0.0.1:8300"))))
put("log", entries=b"\1\0\7" + rec(0, msg((3, log_id(4)))) + entry(5) + entry(6) + entry(7), cut=b"\2\1\0" + entry(0) + entry(1) + entry(2),
    truncate=b"\1\0\0" + entry(0) + entry(1) + rec(5, msg((1, log_id(0)))) + entry(1), purge=b"\1\0\0" + entry(0) + entry(1) + rec(4, msg((1, log_id(0)))),
    far=b"\1\0\0" + rec(4, msg((1, log_id(2**64 - 1)))) + entry(0), far_cut=b"\1\0\0" + entry(0) + rec(5, msg((1, log_id(2**64 - 1)))),
    far_entry=b"\1\0\0" + entry(2**64 - 1) + entry(0), seal=b"\1\0\0" + entry(0) + rec(6, b"") + entry(1), vote=b"\1\0\0" + rec(2, msg((1, msg((1, 1), (2, 2))), (2, 1))),
    raw=b"\0\0\0" + bytes(64), torn=b"\0\0\0" + bytes(20) + b"\xa5" * 700, head=b"\3\0\0" + msg((2, log_id(20)), (4, MEMBERS), (5, "x")),
    members=b"\1\0\0" + rec(1, msg((1, log_id(0)), (4, MEMBERS))))


# Saved states
def part(data):
    return struct.pack(">H", len(data)) + data


node = msg((2, "a"), (3, "10.0.0.1"), (6, 1), (7, 2))
service = msg((1, "w"), (2, "web"), (3, "t"), (5, 80), (8, msg((1, 1), (2, 1))), (12, 3), (13, 3))
check = msg((1, "a"), (2, "c"), (4, "passing"), (6, "out"), (7, "w"), (8, "web"))
session = msg((1, "adf4238a-882b-9ddc-4a9d-5b6758e4159e"), (3, "a"), (5, "release"), (6, 10000), (7, "c"))
kv = msg((1, "k/a"), (2, b"v"), (3, 1), (5, "adf4238a-882b-9ddc-4a9d-5b6758e4159e"), (6, 4), (7, 5))
query = msg((1, "adf4238a-882b-9ddc-4a9d-5b6758e4159f"), (2, "q"), (6, msg((1, "web"))))
records = [msg((2, node)), msg((3, msg((1, "a"), (2, service)))), msg((4, check)), msg((5, kv)), msg((6, session)), msg((7, msg((1, "gone"), (2, 3)))),
           msg((8, msg((1, "table/kv"), (2, 8)))), msg((8, msg((1, "service/web"), (2, 8)))), msg((16, query)),
           msg((32, msg((1, "service-resolver"), (2, "web"), (3, msg((1, "5s")))))), msg((80, msg((1, 1)))), msg((96, msg((1, "a"), (3, msg((1, bytes(64))))))),
           msg((49, msg((1, 5)))), msg((48, msg((1, bytes(16)), (2, 3), (3, 4), (4, msg((1, 3), (2, 1)))))), msg((64, msg((1, "r"), (3, b"piece"))))]
commands = [msg((1, msg((1, node), (2, service), (3, check)))), msg((3, msg((1, 1), (2, "k"), (3, b"v")))), msg((4, session)), msg((2, msg((1, "a")))),
            msg((6, msg((1, msg((1, msg((1, "set"), (2, kv)))))))), msg((7, msg((1, 9)))), msg((48, msg((1, "r"), (3, b"x"), (4, 1))))]
whole = b"".join(map(part, records))
import binascii


def delimited(*parts):
    out = b"".join(varint(len(p)) + p for p in parts)
    return out + struct.pack("<I", binascii.crc32(out))


far_header = delimited(msg((1, msg((1, 1), (2, 2**64 - 1), (3, 2**64 - 1)))), msg((9, msg((1, 2)))))
put("state", records=b"\1" + whole, far_header=b"\0" + far_header, raw=b"\0\x04\x0a\x02\x08\x01" + b"\x05\x4a\x03\x08\x02\0" + b"\0\0\0\0", none=b"\1",
    far=b"\1" + part(msg((8, msg((1, "table/kv"), (2, 2**64 - 1))))), orphan=b"\1" + part(records[2]),
    **{f"command_{i}": b"\2" + whole + bytes(max(0, len(part(c)) - len(whole))) + part(c) for i, c in enumerate(commands)})

# Calls, by their place in the table
TABLE = open(os.path.join(HERE, "../../proto/src/method.rs")).read().split("pub const TABLE")[1].split("];")[0]
TABLE = [line.split('"')[1].split(".v1.")[1] for line in TABLE.splitlines() if 'row("' in line]


def call(method, message):
    return bytes([TABLE.index(method)]) + struct.pack(">H", len(message)) + message


reg = call("Catalog/Register", msg((1, node), (2, service), (3, check)))
put("call", register=reg + call("Health/ServiceHealth", msg((1, "web"))) + call("Catalog/Deregister", msg((1, "a"))),
    kv=call("Kv/Apply", msg((1, 1), (2, "k/a"), (3, b"v"))) + call("Kv/Get", msg((1, "k/a"))) + call("Kv/List", msg((1, "k"))) + call("Kv/Keys", msg((1, ""), (2, "/"))),
    session=reg + call("Sessions/Create", msg((1, session))) + call("Sessions/List", b"") + call("Kv/Apply", msg((1, 4), (2, "l"), (6, "00000000-0000-0001-0000-000000000000"))),
    txn=reg + call("Txn/Apply", msg((1, msg((1, msg((1, "set"), (2, kv))))), (1, msg((2, msg((1, "set"), (2, node))))), (1, msg((3, msg((1, "get"), (2, "a"), (3, service))))))),
    query=reg + call("Queries/Apply", msg((1, 1), (2, msg((2, "q"), (5, msg((1, "name_prefix_match"), (2, "^(.*)$"))), (6, msg((1, "${match(1)}"))))))) + call("Queries/Execute", msg((1, "qweb"))) + call("Queries/Explain", msg((1, "qweb"))),
    config=call("Config/Apply", msg((1, 1), (2, msg((1, "service-resolver"), (2, "web"), (3, msg((1, "5s"), (2, msg((1, "dc2"))))))))) + call("Config/List", b""),
    coordinates=reg + call("Coordinates/Update", msg((1, msg((1, "a"), (3, msg((1, bytes(64)), (4, bytes(8)))))))) + call("Coordinates/ListNodes", b""),
    autopilot=call("Operator/SetAutopilot", msg((1, msg((1, 1), (2, 10))))) + call("Operator/GetAutopilot", b"") + call("Operator/Usage", b""),
    views=reg + call("Views/Subscribe", msg((1, 1), (2, "web"))) + call("Views/Subscribe", msg((1, 2))) + call("Health/ChecksInState", msg((1, "passing"))),
    garbage=call("Catalog/Register", b"\xff" * 40), far=call("Snapshots/Restore", msg((1, "r"), (3, far_header), (4, 1))) + reg, restore=call("Snapshots/Restore", msg((1, "r"), (3, b"x"), (4, 1))) + call("Snapshots/Save", b""),
    lists=reg + call("Catalog/ListNodes", b"") + call("Catalog/ListServices", b"") + call("Catalog/NodeServices", msg((1, "a"))) + call("Catalog/Summary", b"") + call("Catalog/Inventory", b""))

# Tokens and frames
token = msg((1, "gw.example:443"), (2, b"\x09" * 32), (3, b"\7" * 32), (4, "dc3"), (5, "dc1"), (6, "consul"), (7, 1700000000))
body = token + hashlib.sha256(token).digest()[:8]
import base64
put("token", text="causeway1." + base64.urlsafe_b64encode(body).decode().rstrip("="), message=token, bare="causeway1.", other=msg((4, "DC3"), (1, "a")))
header = lambda n, v: msg((1, n), (2, v))
head = msg((1, "/a.B/C"), (3, header("causeway-dc", "dc2")), (3, header("grpc-timeout", "5S")), (3, header("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01")))
frame = lambda kind, data: bytes([kind]) + struct.pack(">I", len(data)) + data
event_ = lambda data: b"\0" + struct.pack(">I", len(data)) + data
site = lambda dc, gw, *more: msg((1, dc), (2, 5), (3, 2), (4, msg((1, gw), (2, "gw.example:443"))), (6, "dc1"), (7, gw), *more)
put("frames", call=b"\0\3" + frame(1, head) + frame(2, b"body") + frame(3, msg((3, header("grpc-status", "0")))), long=b"\0\0" + frame(1, b"") + b"\2\xff\xff\xff\xff",
    cut=b"\0\1" + frame(1, head)[:9], views=b"\1\2" + event_(msg((1, 7), (2, 1), (3, 1))) + event_(msg((1, 8), (7, b""))), compressed=b"\1\0\1\0\0\0\0",
    gossip=b"\2\0" + msg((1, "dc2"), (2, "g2"), (4, site("dc2", "g2")), (4, site("dc3", "g3", (9, 20000), (13, 1), (16, msg((1, 5), (8, 2))))), (4, site("dc1", "gw"))),
    ourselves=b"\2\0" + msg((1, "dc2"), (4, msg((1, "dc1"), (2, 2**64 - 1), (3, 2**64 - 1), (7, "gw"), (8, 1)))),
    removed=b"\3\0" + msg((1, "dc9"), (2, msg((1, "dc2"), (2, 1), (3, 5))), (2, msg((1, "dc2"), (3, 2**64 - 1))), (2, msg((1, "DC 2"), (3, 7)))), prefix=b"\4\0\1\0\x10\0")

# Configuration
put("hcl", agent='datacenter = "dc1"\nserver = true\nports { http = 8500, dns = -1 }\n', service='service { name = "web" port = 0x50 tags = ["a", "b",] }\nservice { name = "db" }\n',
    heredoc='a = <<EOT\nline\n  two\nEOT\nb = <<-E\n    x\n   E\n', labels='service "web" "x" { port = 1 }\n', comments='# a\n// b\n/* c */ d = 1.5e3 "e f" = false\n',
    escapes='a = "\\n\\t\\"\\\\\\u00e4\\x41\\101"\n', template='bind_addr = "{{ GetPrivateIP }}"\n', sockaddr='{{ GetAllInterfaces | exclude "type" "ipv6" | sort "-size" | limit 1 | attr "address" }}',
    private='{{ GetPrivateInterfaces | include "network" "10.0.0.0/8" | join "address" " " }}', interpolation='a = "${b("c\\"d")}"\n', json='{"a": [1, {"b": null}], "c": {}}',
    deep="a = " + "[" * 80, lists='a = [{ b = 1 }, { b = 2 }]\n', empty="", open='a = {', number='a = 99999999999999999999999\nb = 0777\nc = -0\n')
