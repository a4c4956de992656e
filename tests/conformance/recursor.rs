//! A name server that recursors are pointed at: `example.com`, over UDP and TCP on this machine. By the first label of the name:
//! `a` has an address, `large` more text than a datagram takes, `refused` is refused, of `silent` nothing is heard, all else does not
//! exist.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{RData, Record, RecordType};

/// Starts one on this port.
pub fn start(port: u16) {
    let udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let tcp = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut packet) {
            if let Some(answer) = answer(&packet[..length], true) {
                let _ = udp.send_to(&answer, from);
            }
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
}

fn serve(mut stream: TcpStream) -> Option<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question).ok()?;
        let answer = answer(&question, false)?;
        stream.write_all(&u16::try_from(answer.len()).ok()?.to_be_bytes()).ok()?;
        stream.write_all(&answer).ok()?;
    }
}

fn answer(question: &[u8], datagram: bool) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    let name = query.name().clone();
    let first = name.iter().next().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())?;
    match (first.as_str(), query.query_type()) {
        ("silent", _) => return None,
        ("refused", _) => reply.metadata.response_code = ResponseCode::Refused,
        ("a", RecordType::A) => {
            reply.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
        }
        ("a", _) => {}
        ("large", RecordType::TXT) if datagram => reply.metadata.truncation = true,
        ("large", RecordType::TXT) => {
            for n in 0..12 {
                let text = format!("{n:02}{}", "x".repeat(98));
                reply.answers.push(Record::from_rdata(name.clone(), 60, RData::TXT(TXT::new(vec![text]))));
            }
        }
        _ => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    reply.add_query(query);
    reply.to_vec().ok()
}
