//! DNS over TCP on a real process: whoever opens connections and asks nothing keeps nobody else from being answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::{Dir, Node, Part, wait};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);

fn open(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], node.dns))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn question(id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("one.node.consul.").unwrap(), RecordType::A));
    let bytes = message.to_vec().unwrap();
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
}

/// The id of the next answer, which has a record.
fn answer(stream: &mut TcpStream) -> Result<u16, String> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).map_err(|e| e.to_string())?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    let message = Message::from_vec(&bytes).map_err(|e| e.to_string())?;
    if message.answers.len() == 1 { Ok(message.metadata.id) } else { Err(format!("{message:?}")) }
}

fn closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    !matches!(read, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}

fn write(node: &Node, dns: &Value) {
    node.write_config(&json!({
        "node_name": node.name, "data_dir": node.dir.join("data"), "server": true, "bootstrap": true,
        "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "dns_config": dns,
        "telemetry": {"prometheus_retention_time": "60s"},
        "ports": {"serf_lan": node.serf, "http": node.http, "dns": node.dns, "server": node.rpc},
    }));
}

#[test]
fn idle_connections_keep_nobody_from_being_answered() {
    let dir = Dir::new("dns-tcp");
    let mut node = Node::new("one", "dc1", Part::Server, &dir.0);
    write(&node, &json!({"tcp_max_connections_per_client": 40, "tcp_idle_timeout": "600s"}));
    node.start();
    wait("an answer over UDP", SOON, || match node.dig("one.node.consul.", RecordType::A)? {
        reply if reply.answers.len() == 1 => Ok(()),
        reply => Err(format!("{reply:?}")),
    });

    // One asks from time to time; many more than there are places ask nothing, or half a question.
    let mut asks = open(&node);
    let mut idle: Vec<TcpStream> = Vec::new();
    for n in 0..400_u16 {
        let mut stream = open(&node);
        if n % 2 == 0 {
            // It may have lost its place already.
            let _ = stream.write_all(&question(n)[..9]);
        }
        idle.push(stream);
        if n % 10 == 0 {
            asks.write_all(&question(n)).unwrap();
            assert_eq!(answer(&mut asks), Ok(n), "who asks is not the one that is idle for longest");
            let mut new = open(&node);
            new.write_all(&question(n)).unwrap();
            assert_eq!(answer(&mut new), Ok(n), "a new one finds a place");
            assert_eq!(node.dig("one.node.consul.", RecordType::A).unwrap().answers.len(), 1, "UDP");
        }
    }
    wait("the oldest to be closed", SOON, || {
        let open = idle.iter_mut().filter_map(|s| (!closed(s)).then_some(())).count();
        if open < 40 { Ok(()) } else { Err(format!("{open} are open")) }
    });
    assert!(!closed(&mut idle[399]), "the youngest stays");
    let metrics = node.get("/v1/agent/metrics?format=prometheus").text();
    assert!(metrics.contains("causeway_dns_tcp_closed_for_others_total"), "{metrics}");
    // Who began a question does not end it in time; who began none has its 600 s.
    wait("those with half a question to be closed", SOON, || {
        if closed(&mut idle[398]) { Ok(()) } else { Err("open".into()) }
    });
    assert!(!closed(&mut idle[399]));
    // After all that time it asks, in two pieces.
    let asked = question(399);
    idle[399].write_all(&asked[..9]).unwrap();
    crate::harness::pause();
    idle[399].write_all(&asked[9..]).unwrap();
    assert_eq!(answer(&mut idle[399]), Ok(399));
    drop(idle);

    // Several questions at once, byte by byte, on one connection that is closed for writing then.
    let mut stream = open(&node);
    let all: Vec<u8> = (1..=40).flat_map(question).collect();
    for piece in all.chunks(7) {
        stream.write_all(piece).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut ids: Vec<u16> = (1..=40).map(|_| answer(&mut stream).unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=40).collect::<Vec<_>>());
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "and then it ends");

    // What is no question ends it: an answer, and what is longer than any.
    let mut reply = question(7);
    reply[4] |= 0x80;
    for bad in [reply, vec![0xff; 64]] {
        let mut stream = open(&node);
        stream.write_all(&bad).unwrap();
        let read = stream.read(&mut [0]);
        assert!(matches!(read, Ok(0)) || read.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    }

    // A shorter time, by a reload, for those that come from then on.
    write(&node, &json!({"tcp_idle_timeout": "1s"}));
    node.put("/v1/agent/reload", "").ok().unwrap();
    let (mut stream, began) = (open(&node), Instant::now());
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert!(began.elapsed() >= Duration::from_millis(900) && began.elapsed() < Duration::from_secs(8));
}
