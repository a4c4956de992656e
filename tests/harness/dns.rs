//! DNS over UDP with hickory's codec.

use std::net::UdpSocket;
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

#[derive(Debug, Clone)]
pub struct Reply {
    pub code: ResponseCode,
    pub answers: Vec<RData>,
    /// Of the first answer, seconds.
    pub ttl: Option<u32>,
}

impl Reply {
    /// Ports of the SRV answers, sorted.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self
            .answers
            .iter()
            .filter_map(|r| match r {
                RData::SRV(srv) => Some(srv.port),
                _ => None,
            })
            .collect();
        ports.sort_unstable();
        ports
    }
}

/// Asks once; an error after 5 s of silence.
pub fn query(port: u16, name: &str, kind: RecordType) -> Result<Reply, String> {
    query_within(port, name, kind, Duration::from_secs(5))
}

/// The same, with so much patience.
pub fn query_within(port: u16, name: &str, kind: RecordType, patience: Duration) -> Result<Reply, String> {
    let fail = |e: &dyn std::fmt::Display| e.to_string();
    let id = std::process::id() as u16 ^ port;
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).map_err(|e| fail(&e))?, kind));
    let socket = UdpSocket::bind(("127.0.0.1", 0)).map_err(|e| fail(&e))?;
    socket.set_read_timeout(Some(patience)).map_err(|e| fail(&e))?;
    socket.connect(("127.0.0.1", port)).map_err(|e| fail(&e))?;
    socket.send(&message.to_vec().map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
    let mut buffer = [0u8; 65_535];
    let n = socket.recv(&mut buffer).map_err(|e| fail(&e))?;
    let reply = Message::from_vec(&buffer[..n]).map_err(|e| fail(&e))?;
    if reply.metadata.id != id {
        return Err("an answer to another question".into());
    }
    let ttl = reply.answers.first().map(|record| record.ttl);
    let answers = reply.answers.iter().map(|r| r.data.clone()).collect();
    Ok(Reply { code: reply.metadata.response_code, answers, ttl })
}
