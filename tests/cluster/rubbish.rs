//! Bad input over real sockets: whatever comes, the answer is the right status or silence, the process is the same one, its memory
//! stays bounded, and the next good request is answered. Codes and texts are those of Consul 1.8.7, but where a line says otherwise.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::harness::{Dir, Node, Part, http, wait};
use flate2::Compression;
use flate2::write::GzEncoder;
use hickory_proto::rr::RecordType;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

/// One server, and what it weighed before the rubbish came.
struct Target {
    node: Node,
    pid: u32,
    resident_kib: u64,
    _dir: Dir,
}

fn resident_kib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

impl Target {
    fn start(name: &str, encrypt: Option<&str>) -> Self {
        let dir = Dir::new(name);
        let mut node = Node::new("one", "dc1", Part::Server, &dir.0);
        let mut config = json!({
            "node_name": "one", "data_dir": node.dir.join("data"), "server": true, "bootstrap": true,
            "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
            "ports": {"serf_lan": node.serf, "http": node.http, "dns": node.dns, "server": node.rpc},
        });
        if let Some(key) = encrypt {
            config["encrypt"] = key.into();
        }
        node.write_config(&config);
        node.start_quietly();
        let mut target = Self { pid: node.pid(), node, resident_kib: 0, _dir: dir };
        target.answers();
        target.resident_kib = resident_kib(&target.node);
        target
    }

    /// All ports answer what is good.
    fn answers(&self) {
        wait("a write and a read", SOON, || {
            self.node.put("/v1/kv/alive", "yes").ok()?;
            let read = self.node.get("/v1/kv/alive?raw").ok()?;
            if read.body == b"yes" { Ok(()) } else { Err(read.text()) }
        });
        wait("the node by DNS", SOON, || match self.node.dig("one.node.consul.", RecordType::A)? {
            reply if reply.answers.len() == 1 => Ok(()),
            reply => Err(format!("{reply:?}")),
        });
        let members = self.node.get("/v1/agent/members").json().unwrap();
        assert_eq!(members.as_array().map(Vec::len), Some(1), "{members}");
    }

    /// The same process, not much heavier, and it answers.
    fn stands(&mut self, more_mib: u64) {
        assert!(
            matches!(self.node.child.as_mut().map(std::process::Child::try_wait), Some(Ok(None))),
            "{}",
            self.node.log()
        );
        assert_eq!(self.node.pid(), self.pid);
        self.answers();
        assert!(!self.node.log().contains("panicked"), "{}", self.node.log());
        let before = self.resident_kib;
        // Memory that was freed goes back to the system after a while.
        wait("memory is given back", SOON, || match resident_kib(&self.node) {
            // Nothing is known of it here.
            0 => Ok(()),
            now if now <= before + (more_mib << 10) => Ok(()),
            now => Err(format!("{before} KiB before, {now} KiB now")),
        });
    }

    fn tcp(&self, port: u16) -> TcpStream {
        let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream
    }
}

/// What bodies and queries are answered with.
const REQUESTS: &[(&str, &str, &str, u16, &str)] = &[
    ("PUT", "/v1/agent/service/register", "{", 400, "Request decode failed: unexpected EOF"),
    ("PUT", "/v1/agent/service/register", "[]", 400, "Request decode failed: json: cannot unmarshal array"),
    ("PUT", "/v1/agent/service/register", "7", 400, "Request decode failed: json: cannot unmarshal number"),
    ("PUT", "/v1/agent/service/register", "", 400, "Request decode failed: EOF"),
    ("PUT", "/v1/agent/service/register", r#"{"Name":7}"#, 400, "Request decode failed: json: cannot unmarshal number"),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name":"a","Port":"x"}"#,
        400,
        "Request decode failed: json: cannot unmarshal string",
    ),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name":"a","Unknown":1}"#,
        400,
        "Request decode failed: json: unknown field \"Unknown\"",
    ),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name":"a","Check":{"Interval":"-5s","TCP":"a:1"}}"#,
        400,
        "Invalid check: Interval must be > 0",
    ),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name":"a","Check":{"Interval":"zz","TCP":"a:1"}}"#,
        400,
        "Request decode failed: time: invalid duration \"zz\"",
    ),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name":"a","Check":{"TTL":"-5s"}}"#,
        400,
        "Invalid check: TTL must be > 0",
    ),
    ("PUT", "/v1/agent/check/register", r#"{"Name":"a","TTL":"-5s"}"#, 400, "Invalid check: TTL must be > 0"),
    ("PUT", "/v1/catalog/register", "{", 400, "Request decode failed: unexpected EOF"),
    ("PUT", "/v1/catalog/register", r#"{"Node":7}"#, 400, "Request decode failed: json: cannot unmarshal number"),
    ("PUT", "/v1/catalog/register", "{}", 500, "Must provide node"),
    ("PUT", "/v1/catalog/register", r#"{"Node":"a","Address":"1.1.1.1","Check":{"Status":"bogus"}}"#, 500, ""),
    ("PUT", "/v1/txn", "{}", 400, "Failed to parse body: json: cannot unmarshal object"),
    ("PUT", "/v1/txn", r#"[{"KV":7}]"#, 400, "Failed to parse body: json: cannot unmarshal number"),
    ("PUT", "/v1/txn", r#"[{"KV":{"Verb":"bogus","Key":"a"}}]"#, 409, ""),
    (
        "PUT",
        "/v1/txn",
        r#"[{"KV":{"Verb":"set","Key":"a","Value":"!!"}}]"#,
        400,
        "Failed to parse body: illegal base64 data at input byte 0",
    ),
    ("PUT", "/v1/session/create", r#"{"TTL":"-5s"}"#, 500, ""),
    ("PUT", "/v1/session/create", r#"{"LockDelay":"zz"}"#, 400, "Request decode failed: time: invalid duration \"zz\""),
    ("PUT", "/v1/session/create", r#"{"Behavior":"bogus"}"#, 500, "Invalid Behavior setting 'bogus'"),
    ("POST", "/v1/query", "[]", 400, "Request decode failed: json: cannot unmarshal array"),
    (
        "POST",
        "/v1/query",
        r#"{"Service":{"Service":"a"},"Template":{"Type":"name_prefix_match","Regexp":"("}}"#,
        500,
        "failed compiling template: Bad Regexp",
    ),
    (
        "PUT",
        "/v1/config",
        r#"{"Kind":"bogus"}"#,
        400,
        "Bad request: Request decoding failed: invalid config entry kind: bogus",
    ),
    ("PUT", "/v1/kv/%zz", "v", 400, ""),
    // Consul takes keys that are no text; ours are.
    ("PUT", "/v1/kv/%ff", "v", 400, "Invalid path"),
    ("PUT", "/v1/kv/", "v", 400, "Missing key name"),
    ("PUT", "/v1/kv/a?cas=-1", "v", 500, "strconv.ParseUint: parsing \"-1\": invalid syntax"),
    ("PUT", "/v1/kv/a?flags=99999999999999999999", "v", 500, "strconv.ParseUint: parsing"),
    ("PUT", "/v1/kv/a?acquire=nobody", "v", 500, ""),
    ("GET", "/v1/catalog/nodes?index=-1", "", 400, "Invalid index"),
    ("GET", "/v1/catalog/nodes?index=99999999999999999999", "", 400, "Invalid index"),
    ("GET", "/v1/catalog/nodes?index=1&wait=zz", "", 400, "Invalid wait time"),
    // Consul takes it for its default.
    ("GET", "/v1/catalog/nodes?index=1&wait=-5s", "", 400, "Invalid wait time"),
    ("GET", "/v1/catalog/nodes?filter=%28", "", 500, "Failed to create boolean expression evaluator"),
    (
        "GET",
        "/v1/catalog/nodes?filter=Bogus+==+a",
        "",
        500,
        "Failed to create boolean expression evaluator: Selector \"Bogus\" is not valid",
    ),
    ("GET", "/v1/catalog/nodes?filter=%ff", "", 500, "Failed to create boolean expression evaluator"),
    (
        "GET",
        "/v1/catalog/nodes?filter=Node+matches+%22%28%22",
        "",
        500,
        "Failed to create boolean expression evaluator",
    ),
    ("GET", "/v1/catalog/nodes?stale&consistent", "", 400, "Cannot specify ?stale with ?consistent"),
    ("GET", "/v1/catalog/nodes?max_stale=zz", "", 400, "Invalid max_stale value \"zz\""),
    ("GET", "/v1/catalog/nodes?dc=%ff", "", 500, "No path to datacenter"),
    ("DELETE", "/v1/catalog/nodes", "", 405, "method DELETE not allowed"),
    ("BREW", "/v1/catalog/nodes", "", 405, "method BREW not allowed"),
    ("PUT", "/v1/event/fire/x?node=%28", "", 500, "Invalid node filter"),
    ("PUT", "/v1/agent/check/update/nobody", "{", 400, "Request decode failed: unexpected EOF"),
    ("PUT", "/v1/coordinate/update", r#"{"Node":"a","Coord":{"Vec":[1]}}"#, 500, "incompatible coordinate"),
    ("PUT", "/v1/session/renew/x", "", 500, ""),
    ("PUT", "/v1/snapshot", "not an archive", 500, "failed to"),
];

#[test]
fn requests_are_refused_as_consul_refuses_them() {
    let mut target = Target::start("rubbish-requests", None);
    let check = |method: &str, path: &str, body: &[u8], code: u16, text: &str| {
        let answer = http::request(target.node.http, method, path, body);
        let shown = &path[..path.len().min(80)];
        let given = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert_eq!(answer.code, code, "{method} {shown} {given}: {}", answer.text());
        assert!(answer.text().contains(text), "{method} {shown}: {}", answer.text());
        assert!(answer.body.len() < 4096, "{method} {shown}: an error of {} bytes", answer.body.len());
    };
    for (method, path, body, code, text) in REQUESTS {
        check(method, path, body.as_bytes(), *code, text);
    }
    let long = "x".repeat(600_000);
    check("PUT", "/v1/kv/long", long.as_bytes(), 413, "too large");
    check("PUT", "/v1/event/fire/long", &long.as_bytes()[..2000], 500, "user event exceeds");
    // Consul takes it.
    check("PUT", &format!("/v1/kv/{}", &long[..5000]), b"v", 413, "Key is too large");
    check("GET", &format!("/v1/catalog/nodes?filter={}", &long[..9000]), b"", 500, "longer than");
    check("GET", &format!("/v1/catalog/nodes?filter={}", "%28".repeat(2000)), b"", 500, "nested");
    check("PUT", "/v1/agent/service/register", "[".repeat(100_000).as_bytes(), 400, "Request decode failed");
    check("PUT", "/v1/agent/service/register", b"{\"Name\":\"\xff\xfe\"}", 400, "Request decode failed");
    check("PUT", "/v1/txn", format!("[{}]", vec!["{}"; 65].join(",")).as_bytes(), 413, "too many operations");
    check("GET", &format!("/v1/kv/{}", &long[..100_000]), b"", 414, "");
    let longer = "x".repeat(1 << 20);
    let header = [("X-Long", longer.as_str())];
    assert_eq!(http::request_with(target.node.http, "GET", "/v1/status/leader", &header, b"").code, 431);
    assert_eq!(target.node.get("/v1/agent/services").text().trim(), "{}", "nothing of all this was registered");
    target.stands(64);
}

/// Reads until the other end closes; what came, and how long it took.
fn to_the_end(mut stream: TcpStream) -> (Vec<u8>, Duration) {
    let (began, mut bytes) = (Instant::now(), Vec::new());
    let _ = stream.read_to_end(&mut bytes);
    (bytes, began.elapsed())
}

#[test]
fn bodies_without_end_and_slow_heads_keep_nobody() {
    let mut target = Target::start("rubbish-slow", None);
    // A body that never ends is cut off when it is longer than any value.
    let mut endless = target.tcp(target.node.http);
    endless.write_all(b"PUT /v1/kv/endless HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"10000\r\n", vec![b'x'; 0x10000].as_slice(), b"\r\n"].concat();
    let mut sent = 0_usize;
    while sent < 256 << 20 && endless.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    let head = String::from_utf8_lossy(&to_the_end(endless).0).into_owned();
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 413"), "{head}");
    // One that says it is longer than it may be is refused before it comes.
    let mut claims = target.tcp(target.node.http);
    claims.write_all(b"PUT /v1/kv/claims HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999\r\n\r\n").unwrap();
    let mut start = [0; 12];
    claims.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    // Heads that come a byte at a time, and garbage instead of one.
    let slow: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = target.tcp(target.node.http);
            stream.write_all(b"GET /v1/status/leader HTTP/1.1\r\nX-Slow: ").unwrap();
            stream
        })
        .collect();
    target.answers();
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET  HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let mut stream = target.tcp(target.node.http);
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let (answer, _) = to_the_end(stream);
        assert!(answer.len() < 4096 && !answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    // A head has 10 s (`http::Limits::header_timeout`).
    let began = Instant::now();
    for mut stream in slow {
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        assert!(closed.is_ok() || closed.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "still open");
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    target.stands(64);
}

#[test]
fn connections_by_the_thousand_are_bounded_and_others_are_answered() {
    let mut target = Target::start("rubbish-many", None);
    let ports = [target.node.http, target.node.dns, target.node.serf, target.node.rpc];
    let mut rng = SmallRng::seed_from_u64(5);
    let mut held = Vec::new();
    for n in 0..2000_usize {
        let Ok(mut stream) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], ports[n % ports.len()]))) else {
            continue;
        };
        let mut bytes = vec![0; rng.random_range(0..64)];
        rng.fill_bytes(&mut bytes);
        let _ = stream.write_all(&bytes);
        held.push(stream);
    }
    assert!(held.len() > 1000, "{}", held.len());
    // An agent has 200 connections of one address at a time (`limits.http_max_conns_per_client`); the others are told so.
    let refused = target.node.get("/v1/status/leader");
    assert!([0, 200, 429].contains(&refused.code), "{}", refused.code);
    assert_eq!(target.node.dig("one.node.consul.", RecordType::A).unwrap().answers.len(), 1, "DNS goes on");
    drop(held);
    target.stands(96);
}

#[test]
fn packets_of_anything_are_answered_or_not_and_harm_nobody() {
    let mut target = Target::start("rubbish-packets", Some("pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(SOON)).unwrap();
    let dns = SocketAddr::from(([127, 0, 0, 1], target.node.dns));
    let mut buffer = vec![0; 65_535];
    let mut ask = |bytes: &[u8]| {
        udp.send_to(bytes, dns).unwrap();
        udp.recv(&mut buffer).map(|len| buffer[..len].to_vec())
    };
    let head = |counts: [u8; 8]| [&[0x12, 0x34, 1, 0][..], &counts].concat();
    let one = [0, 1, 0, 0, 0, 0, 0, 0];
    // A pointer at itself, one at the other, one beyond the end; a name that is too long; a count that lies; no question.
    let long = [&[63_u8][..], &[b'a'; 63]].concat().repeat(5);
    for (what, packet) in [
        ("a loop", [head(one), b"\xc0\x0c\0\x01\0\x01".to_vec()].concat()),
        ("two that point at each other", [head(one), b"\xc0\x0e\xc0\x0c\0\x01\0\x01".to_vec()].concat()),
        ("beyond the end", [head(one), b"\xff\xff\0\x01\0\x01".to_vec()].concat()),
        ("a long name", [head(one), long, b"\0\0\x01\0\x01".to_vec()].concat()),
        ("a count that lies", [head([0xff; 8]), b"\x01a\0\0\x01\0\x01".to_vec()].concat()),
        ("no question", head([0; 8])),
        ("cut short", [head(one), b"\x07con".to_vec()].concat()),
    ] {
        let answer = ask(&packet).unwrap_or_else(|e| panic!("{what}: {e}"));
        // FORMERR, and nothing but the header; Consul says nothing, or the same.
        assert_eq!(
            (answer.len(), answer[..2].to_vec(), answer[3] & 15),
            (12, vec![0x12, 0x34], 1),
            "{what}: {answer:?}"
        );
    }
    // An answer is not answered, or two servers talk for ever; nor is what has no header. The next question is.
    udp.send_to(&[0x12, 0x34, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0], dns).unwrap();
    udp.send_to(&[1, 2, 3], dns).unwrap();
    let answer =
        ask(&[&[0x77, 0x77, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03one\x04node\x06consul\0\0\x01\0\x01"].concat())
            .unwrap();
    assert_eq!(answer[..2], [0x77, 0x77], "the first answer is to the good question");
    // Anything at all, to DNS and gossip, by UDP and TCP.
    let mut rng = SmallRng::seed_from_u64(11);
    let serf = SocketAddr::from(([127, 0, 0, 1], target.node.serf));
    for n in 0..4000_usize {
        let mut bytes = vec![0; rng.random_range(0..1400)];
        rng.fill_bytes(&mut bytes);
        if let (true, Some(first)) = (n % 2 == 0, bytes.first_mut()) {
            // An envelope, plain or sealed.
            *first = 0xC0 | u8::from(rng.random::<bool>());
        }
        let _ = udp.send_to(&bytes, if n % 4 < 2 { serf } else { dns });
        if n % 40 == 0 {
            let port = if n % 80 == 0 { target.node.serf } else { target.node.dns };
            let mut stream = target.tcp(port);
            let _ = stream.write_all(&bytes);
        }
    }
    // A frame of gossip that says it is 4 GiB long.
    let mut lies = target.tcp(target.node.serf);
    let _ = lies.write_all(&[&[0xff; 8][..], &[0; 4096]].concat());
    let (answer, _) = to_the_end(lies);
    assert!(answer.len() < 1024, "{} bytes", answer.len());
    target.stands(64);
}

/// A gzipped tar of one file that says it has so many bytes, with as many zeros as there are.
fn bomb(name: &str, says: u64, holds: u64) -> Vec<u8> {
    bomb_of(tar::EntryType::Regular, name, says, holds)
}

fn bomb_of(kind: tar::EntryType, name: &str, says: u64, holds: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_path(name).unwrap();
    header.set_size(says);
    header.set_cksum();
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..holds >> 20 {
        out.write_all(&zeros).unwrap();
    }
    out.finish().unwrap()
}

#[test]
fn archives_that_lie_about_their_sizes_take_no_memory() {
    let mut target = Target::start("rubbish-archives", None);
    let mib = 1 << 20;
    let (stop, peak) = (std::sync::atomic::AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        let node = &target.node;
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                peak.fetch_max(resident_kib(node), std::sync::atomic::Ordering::Relaxed);
                crate::harness::pause();
            }
        });
        for (what, archive) in [
            ("says 8 EiB", bomb("state.bin", 0o777_777_777_777, mib)),
            ("says nothing of 128 MiB", bomb("meta.json", 0, 128 * mib)),
            ("128 MiB for a list of sums", bomb("SHA256SUMS", 128 * mib, 128 * mib)),
            ("a file's name of 128 MiB", bomb_of(tar::EntryType::GNULongName, "././@LongLink", 128 * mib, 128 * mib)),
            ("128 MiB about a file", bomb_of(tar::EntryType::XHeader, "PaxHeaders.0/state.bin", 128 * mib, 128 * mib)),
            ("128 MiB of state and no word on it", bomb("state.bin", 128 * mib, 128 * mib)),
        ] {
            assert!(archive.len() < 2 << 20, "{what}: {} bytes", archive.len());
            let answer = http::request(node.http, "PUT", "/v1/snapshot", &archive);
            assert_eq!(answer.code, 500, "{what}: {}", answer.text());
            assert!(answer.text().contains("snapshot"), "{what}: {}", answer.text());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let grown = peak.into_inner().saturating_sub(target.resident_kib) >> 10;
    assert!(grown < 64, "{grown} MiB while archives of 128 MiB were looked at");
    // Whole as it is, what was saved is put back.
    let saved = target.node.get("/v1/snapshot").ok().unwrap();
    assert_eq!(http::request(target.node.http, "PUT", "/v1/snapshot", &saved.body).code, 200);
    target.stands(64);
}
