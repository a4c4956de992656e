//! The doors of `fuzz/` to gateways: join tokens, and what other sites send over a link.
#![allow(clippy::disallowed_methods, reason = "a test's clock")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_proto::federation::GossipFrame;
use prost::Message as _;

use crate::carrier::tcp;
use crate::directory::Directory;
use crate::forward::frame::{self, Decoder, FrameError, Item, MAX_HEAD};
use crate::join::token::Token;
use crate::membership::Membership;
use crate::views::wire::{Splitter, WireError, saying};

/// A token as text, and what a token says as it is inside one.
pub fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(token) = Token::parse(&text) {
        assert_eq!(Token::parse(&token.render()), Ok(token));
    }
    // One whose checksum fits.
    let Ok(token) = Token::decode(data) else { return };
    if let Ok(read) = Token::parse(&token.render()) {
        assert_eq!(read, token);
        assert!(causeway_proto::name::own_datacenter(&token.datacenter).is_ok());
    }
}

/// The frames of a call (0), events of views (1), gossip (2), the file of removed sites (3), prefixes on TCP (4).
pub fn frames(data: &[u8]) {
    let Some(([kind, cut], rest)) = data.split_first_chunk::<2>() else { return };
    let cut = usize::from(*cut) + 1;
    match kind % 5 {
        0 => {
            let whole = call([rest].into_iter());
            assert_eq!(call(rest.chunks(cut)), whole, "cut into pieces of {cut} it says the same");
        }
        1 => assert_eq!(
            events(rest.chunks(cut)),
            events([rest].into_iter()),
            "cut into pieces of {cut} it says the same"
        ),
        2 => gossip(rest),
        3 => removed(rest),
        _ => {
            if let Some((prefix, _)) = rest.split_first_chunk()
                && let Some((channel, length)) = tcp::parse(*prefix)
            {
                assert!(length <= tcp::LONGEST);
                assert_eq!(tcp::prefix(channel, length), *prefix);
            }
        }
    }
}

/// What a call was: its head, its body, its trailers, and how it ended.
#[derive(Debug, Default, PartialEq)]
struct Call {
    head: Option<(String, u16, http::HeaderMap)>,
    body: Vec<u8>,
    trailers: Option<http::HeaderMap>,
    end: Option<FrameError>,
}

fn call<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Call {
    let (mut decoder, mut call) = (Decoder::default(), Call::default());
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Item::Head { path, status, headers })) => {
                    let again =
                        frame::request_head(&path, &headers).expect("what came within the bounds goes on within them");
                    assert!(again.len() <= MAX_HEAD + 5);
                    if let Ok(request) = frame::request(path.clone(), headers.clone()) {
                        assert!(request.uri().authority().is_none());
                        let _ = causeway_proto::meta::Meta::read(request.headers());
                    }
                    assert!(call.head.replace((path, status, headers)).is_none(), "one head");
                }
                Ok(Some(Item::Data(bytes))) => call.body.extend_from_slice(&bytes),
                Ok(Some(Item::Trailers(headers))) => assert!(call.trailers.replace(headers).is_none(), "trailers once"),
                Err(error) => {
                    call.end = Some(error);
                    return call;
                }
            }
        }
    }
    call.end = decoder.end().err();
    call
}

type Events = (Vec<((bool, bool, bool), Bytes)>, Option<WireError>);

fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Events {
    let (mut splitter, mut all) = (Splitter::default(), Vec::new());
    for piece in pieces {
        splitter.push(piece);
        loop {
            match splitter.take() {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let (mark, mut again) = (event.mark, Splitter::default());
                    again.push(&saying(&event.bytes, !mark.complete));
                    let other = again.take().map(|e| e.map(|e| e.mark));
                    let wanted = crate::views::wire::Mark { complete: !mark.complete, ..mark };
                    assert_eq!(other, Ok(Some(wanted)), "only what is changed is changed");
                    all.push(((mark.reset, mark.complete, mark.heartbeat), event.bytes));
                }
                Err(error) => return (all, Some(error)),
            }
        }
    }
    (all, None)
}

fn gossip(data: &[u8]) {
    let Ok(frame) = GossipFrame::decode(data) else { return };
    let now = Instant::now();
    let mut directory = Directory::new("dc1", "gw", 1 << 40, vec!["gw:443".to_owned()]);
    let merged = directory.merge(now, frame.sites.clone());
    assert!(merged.news.len() <= frame.sites.len());
    let own = directory.own();
    assert_eq!((own.datacenter.as_str(), own.gateway.as_str(), own.left), ("dc1", "gw", false), "nobody speaks for us");
    // What was heard once is no news.
    let digest = directory.digest();
    let again = directory.merge(now, merged.news.clone());
    assert!(again.news.is_empty() && !again.own && directory.digest() == digest);
    // Another that hears it from us knows the same.
    let mut other = Directory::new("dc2", "other", 1 << 40, Vec::new());
    other.merge(now, directory.sites());
    let heard: Vec<_> = directory.sites();
    assert!(other.merge(now, heard).news.is_empty());
    for (datacenter, _) in directory.datacenters() {
        assert!(causeway_proto::name::datacenter(datacenter).is_ok(), "{datacenter:?}");
    }
    let _ = (directory.graph(), directory.neighbours(), directory.dialable().count());
    directory.expire(now + Duration::from_secs(365 * 86_400));
    assert_eq!(directory.sites().len(), 1);
}

fn removed(data: &[u8]) {
    let Ok(told) = Membership::decode(data) else { return };
    let mut known = Membership::default();
    for notice in &told.notices {
        assert!(!known.take(notice, |_| false), "what is not believed is not taken up");
        known.take(notice, |_| true);
        assert!(!known.take(notice, |_| true), "twice the same is no news");
    }
    assert_eq!(Membership::decode(known.encode_to_vec().as_slice()), Ok(known));
}

#[cfg(test)]
#[test]
fn corpus_of_tokens() {
    crate::corpus::run("token", 3, token);
}

#[cfg(test)]
#[test]
fn corpus_of_frames() {
    crate::corpus::run("frames", 5, frames);
}
