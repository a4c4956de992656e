//! The doors of `fuzz/` to HTTP: bodies and queries of requests, filters, archives.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use serde::Serialize;
use serde_json::{Value, json};

use super::archive::{self, Meta};
use super::decode::{self, Fields};
use super::failure::Failure;
use super::filter::{Filter, FilterError};
use super::ports::Reads;
use super::query::{self, Params};
use super::{autopilot, catalog, config, coordinate, duration, prepared, query as url, session, shape, txn, watch};

/// A refusal is one of the client's faults or Consul's 500 for some of them, and says no more than the input is long.
fn refused(failure: &Failure, given: usize) {
    assert!(failure.code.is_client_error() || failure.code == http::StatusCode::INTERNAL_SERVER_ERROR);
    short(&failure.text, given);
}

fn short(text: &str, given: usize) {
    // A byte may be shown as `\u{10ffff}`, and twice.
    assert!(text.len() <= 500 + 24 * given, "{} bytes of error for {given} bytes", text.len());
}

fn text_of(shown: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(shown).expect("what was read can be shown")
}

/// A request's body, or its query; the first byte says of which endpoint.
pub fn body(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let given = rest.len();
    if kind % 12 == 0 {
        return url_query(&String::from_utf8_lossy(rest));
    }
    let value = match decode::parse(rest) {
        Ok(value) => value,
        Err(error) => return short(&error.0, given),
    };
    let failed = match kind % 12 {
        1 => txn::decoded(rest, 512 << 10).map(|(request, _)| assert!(request.ops.len() <= 64)).err(),
        2 => session::decoded(rest, "node").err(),
        3 => match prepared::decoded(rest) {
            Ok(query) => {
                let again =
                    prepared::decoded(&text_of(&prepared::shown(&query))).expect("a query that is shown can be sent");
                assert_eq!(text_of(&prepared::shown(&again)), text_of(&prepared::shown(&query)));
                None
            }
            Err(error) => Some(Failure::bad(error.0)),
        },
        4 => match config::decoded(&value) {
            Ok(entry) => {
                let shown = serde_json::to_value(config::shown(&entry)).expect("an entry can be shown");
                assert_eq!(config::decoded(&shown), Ok(entry), "an entry that is shown can be sent: {shown}");
                None
            }
            Err(error) => Some(Failure::bad(error.0)),
        },
        5 => autopilot::decoded(rest).map_err(|e| Failure::bad(e.0)).err(),
        kind => objects(kind, &value).err().map(|e| Failure::bad(e.0)),
    };
    if let Some(failure) = failed {
        refused(&failure, given);
    }
}

fn objects(kind: u8, value: &Value) -> Result<(), decode::DecodeError> {
    match kind {
        6 => drop(decode::service(value)?),
        7 => drop(decode::check(value, decode::BAD_CHECK_STATUS)?),
        8 => {
            let request = catalog::registration(&Fields::of(value, false)?)?;
            assert!(request.node.is_some() && request.checks.iter().all(|c| !c.status.is_empty()));
        }
        9 => drop(coordinate::decoded(&Fields::of(value, false)?)?),
        10 => {
            if let Value::Object(object) = value
                && let Ok(plan) = watch::Plan::parse(object)
            {
                let path = plan.watch.path(7, std::time::Duration::from_secs(1));
                assert!(http::Uri::try_from(path.as_str()).is_ok(), "{path}");
            }
        }
        _ => drop(Fields::of(value, true)?.duration("Interval")?),
    }
    Ok(())
}

fn url_query(text: &str) {
    let params = Params::parse(text);
    if let Err(failure) = url::options(&params, &HeaderMap::new(), "dc1", &Reads::default(), true) {
        refused(&failure, text.len());
    }
    for (name, value) in ["cas", "flags", "acquire"].map(|name| (name, params.number(name))) {
        if let Err(failure) = value {
            refused(&failure, text.len());
        }
        if let Err(failure) = params.flag(name) {
            refused(&failure, text.len());
        }
    }
    // A duration that was read is the same once written.
    if let Ok(duration) = duration::parse(params.get("wait")) {
        assert_eq!(duration::parse(&duration::format(duration)), Ok(duration));
    }
    if let Ok((_, Some(wait))) = query::blocking(&params, &Reads::default()) {
        assert!(wait <= causeway_proto::meta::MAX_WAIT);
    }
}

/// A filter expression over some entries: what it says, its opposite says the opposite of.
pub fn filter(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let filter = match Filter::parse(&text) {
        Ok(filter) => filter,
        Err(error) => return short(&error.to_string(), text.len()),
    };
    for shape in [&shape::NODE, &shape::SERVICE, &shape::CHECK, &shape::SERVICE_HEALTH, &shape::SERVICE_NODE] {
        if let Err(error) = filter.check(shape) {
            short(&error.to_string(), text.len());
        }
    }
    let variants = [
        format!("not ({text})"),
        format!("({text})"),
        format!("({text}) and ({text})"),
        format!("({text}) or ({text})"),
    ];
    for (i, variant) in variants.iter().enumerate() {
        let other = match Filter::parse(variant) {
            Ok(other) => other,
            Err(FilterError::TooLong | FilterError::TooDeep) => continue,
            Err(error) => panic!("{variant:?}: {error}"),
        };
        for entry in entries() {
            assert_eq!(other.matches(&entry), filter.matches(&entry) != (i == 0), "{variant:?} of {entry}");
        }
    }
}

fn entries() -> [Value; 4] {
    [
        json!({}),
        json!({"Node": "a", "Meta": {"env": "prod", "a b": ""}, "TaggedAddresses": {"lan": "10.0.0.1"}}),
        json!({"Service": {"ID": "web", "Tags": ["v1", ""], "Port": 80, "EnableTagOverride": true}, "Checks": [{"Status": "passing"}]}),
        json!({"Service": "web", "Tags": [], "Meta": null, "Checks": [], "Port": -1}),
    ]
}

/// An archive: as it is (0), a tar that is yet to be compressed (1), or a state to be packed and then touched at a place (2).
pub fn archive(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => unpacked(rest, rest),
        1 => unpacked(&gzipped(rest), rest),
        _ => {
            let meta = Meta::new(7, 2, rest.len() as u64);
            let mut packed = archive::pack(&meta, rest).expect("anything can be packed");
            assert_eq!(archive::unpack_ours(packed.as_slice()), Ok((meta.clone(), rest.to_vec())));
            let at = rest.iter().fold(0_usize, |sum, b| sum.wrapping_mul(31) + usize::from(*b)) % packed.len();
            packed[at] ^= 1 << (at % 8);
            if let Ok(found) = archive::unpack_ours(packed.as_slice()) {
                assert_eq!(found, (meta, rest.to_vec()), "byte {at} changed what it says");
            }
        }
    }
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).and_then(|()| out.finish()).unwrap_or_default()
}

fn unpacked(archive: &[u8], given: &[u8]) {
    match archive::unpack(archive) {
        Ok((meta, state)) => {
            let again = archive::pack(&meta, &state).expect("what was unpacked can be packed");
            assert_eq!(archive::unpack(again.as_slice()), Ok((meta, state)));
        }
        Err(error) => short(&error.to_string(), given.len() + 512),
    }
    // Read in small pieces it is the same.
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let len = out.len().min(7);
            self.0.read(&mut out[..len])
        }
    }
    assert_eq!(archive::unpack(Slow(archive)).is_ok(), archive::unpack(archive).is_ok());
}

#[cfg(test)]
#[test]
fn corpus_of_bodies() {
    crate::corpus::run("body", 10, body);
}

#[cfg(test)]
#[test]
fn corpus_of_filters() {
    crate::corpus::run("filter", 10, filter);
}

#[cfg(test)]
#[test]
fn corpus_of_archives() {
    crate::corpus::run("archive", 5, archive);
}
