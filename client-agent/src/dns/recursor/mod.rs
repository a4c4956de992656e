//! Names outside our zones: handed to the configured recursors, one after the other.

mod driver;

pub use driver::ask;

use std::net::SocketAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use rand::Rng;
use rand::seq::SliceRandom;

use super::config::{Config, RecursorStrategy};

/// Answers with more records than this, from a recursor, are added to an answer of ours only up to it (as in Consul).
pub const MOST_CHAIN: usize = 5;

/// In which order to ask.
pub fn order(config: &Config, rng: &mut impl Rng) -> Vec<SocketAddr> {
    let mut recursors = config.recursors.clone();
    if config.recursor_strategy == RecursorStrategy::Random {
        recursors.shuffle(rng);
    }
    recursors
}

/// The question to a recursor, under an id of our own.
pub fn question(id: u16, query: &Query, payload: Option<u16>) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

/// What to do with what came back.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// This is the answer.
    Take(Box<Message>),
    /// Ask again over TCP.
    Tcp,
    /// Ask the next recursor.
    Next,
    /// It is no answer to our question; go on waiting.
    Ignore,
}

/// Judges what came back from the address that was asked.
pub fn judge(bytes: &[u8], asked: &Message, tcp: bool) -> Verdict {
    let Ok(message) = Message::from_vec(bytes) else { return Verdict::Ignore };
    if message.metadata.id != asked.metadata.id || message.metadata.message_type != MessageType::Response {
        return Verdict::Ignore;
    }
    // An error may come without the question.
    let code = message.metadata.response_code;
    let bare = message.queries.is_empty() && code != ResponseCode::NoError;
    if !bare && message.queries != asked.queries {
        return Verdict::Ignore;
    }
    match code {
        ResponseCode::ServFail | ResponseCode::Refused => Verdict::Next,
        _ if message.metadata.truncation && !tcp => Verdict::Tcp,
        _ => Verdict::Take(Box::new(message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::{Name, RecordType};

    #[test]
    fn judged() {
        let query = Query::query(Name::from_ascii("example.com.").unwrap(), RecordType::A);
        let asked = question(7, &query, Some(1232));
        let mut answer = asked.clone();
        answer.metadata.message_type = MessageType::Response;
        let verdict = |m: &Message, tcp| judge(&m.to_vec().unwrap(), &asked, tcp);
        assert!(matches!(verdict(&answer, false), Verdict::Take(_)));
        let with = |change: &dyn Fn(&mut Message)| {
            let mut m = answer.clone();
            change(&mut m);
            m
        };
        assert_eq!(verdict(&with(&|m| m.metadata.truncation = true), false), Verdict::Tcp);
        assert!(matches!(verdict(&with(&|m| m.metadata.truncation = true), true), Verdict::Take(_)));
        assert_eq!(verdict(&with(&|m| m.metadata.response_code = ResponseCode::ServFail), false), Verdict::Next);
        assert_eq!(verdict(&with(&|m| m.metadata.response_code = ResponseCode::Refused), false), Verdict::Next);
        assert_eq!(verdict(&with(&|m| m.metadata.id = 8), false), Verdict::Ignore);
        assert_eq!(verdict(&with(&|m| m.queries.clear()), false), Verdict::Ignore);
        assert_eq!(verdict(&asked.clone(), false), Verdict::Ignore);
        assert_eq!(judge(b"junk", &asked, false), Verdict::Ignore);
    }
}
