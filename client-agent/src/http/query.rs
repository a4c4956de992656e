//! What a URL's query says: parameters, and the options that all reads share.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_proto::meta::{Consistency, MAX_WAIT, Meta};
use causeway_proto::name;
use http::{HeaderMap, HeaderName, StatusCode, header};

use super::duration;
use super::failure::Failure;
use super::filter::Filter;
use super::ports::Reads;

/// Decodes `%41` (and, in queries, `+`); `None` where an escape is damaged or the result is no UTF-8.
pub(crate) fn unescape(text: &str, plus: bool) -> Option<String> {
    String::from_utf8(unescaped(text, plus)?).ok()
}

fn unescaped(text: &str, plus: bool) -> Option<Vec<u8>> {
    if !(text.contains('%') || plus && text.contains('+')) {
        return Some(text.as_bytes().to_vec());
    }
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => (digit(bytes.next()?)? << 4) | digit(bytes.next()?)?,
            b'+' if plus => b' ',
            b => b,
        });
    }
    Some(out)
}

/// Query parameters, in order. Like Go, a pair with a damaged escape is left out. One that is no UTF-8 stays, with U+FFFD for what is
/// wrong: a filter or a datacenter that nobody understands is refused, and not taken for none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn parse(query: &str) -> Self {
        Self(
            query
                .split('&')
                .filter(|pair| !pair.is_empty())
                .filter_map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    let text = |part| Some(String::from_utf8_lossy(&unescaped(part, true)?).into_owned());
                    Some((text(name)?, text(value)?))
                })
                .collect(),
        )
    }

    /// Whether it is there, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// The first value; empty where it has none or is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str())
    }

    /// Every value.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A yes or no that must be one where it has a value; present without a value is yes.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Failure> {
        if !self.has(name) {
            return Ok(false);
        }
        match self.get(name) {
            "" => Ok(true),
            value => parse_bool(value).ok_or_else(|| Failure::bad(format!("Invalid value for ?{name}"))),
        }
    }

    /// An unsigned number; `None` where it is absent. The words of a refusal are Go's.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        if !self.has(name) {
            return Ok(None);
        }
        let text = self.get(name);
        match text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>()) {
            Some(Ok(n)) => Ok(Some(n)),
            Some(Err(_)) if !text.is_empty() => {
                Err(Failure::internal(format!("strconv.ParseUint: parsing {text:?}: value out of range")))
            }
            _ => Err(Failure::internal(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))),
        }
    }

    /// `node-meta=key:value`, repeatable.
    pub(crate) fn node_meta(&self) -> BTreeMap<String, String> {
        self.all("node-meta")
            .map(|pair| pair.split_once(':').unwrap_or((pair, "")))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// The token of a request: `X-Consul-Token`, `Authorization: Bearer`, `?token=`, as Consul ranks them (the query first). One that
/// cannot travel in a header is refused, so that it never turns into the anonymous one.
pub(crate) fn token(params: &Params, headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let denied = || Failure::new(StatusCode::FORBIDDEN, "ACL not found");
    let text = |name| headers.get(name).map(|v: &http::HeaderValue| v.to_str().map_err(|_| denied())).transpose();
    let query = Some(params.get("token")).filter(|t| !t.is_empty());
    let header = text(TOKEN)?.filter(|t| !t.is_empty());
    let bearer = text(header::AUTHORIZATION)?
        .and_then(|v| v.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|t| !t.is_empty());
    match query.or(header).or(bearer) {
        Some(token) if token.bytes().all(|b| (0x21..0x7f).contains(&b)) && token.len() <= 1024 => {
            Ok(Some(token.to_owned()))
        }
        Some(_) => Err(denied()),
        None => Ok(None),
    }
}

/// The options of a read.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// What travels with the call.
    pub(crate) meta: Meta,
    /// A stale answer that is older is asked again of the leader.
    pub(crate) max_stale: Option<Duration>,
    /// Whether a view may answer.
    pub(crate) cached: bool,
    /// `?filter=`.
    pub(crate) filter: Option<Filter>,
}

impl Options {
    /// Whether another datacenter is asked.
    pub(crate) fn remote(&self) -> bool {
        self.meta.datacenter.is_some()
    }
}

/// The datacenter that is asked; `None`: the own one.
pub(crate) fn datacenter(name: &str, own: &str) -> Result<Option<String>, Failure> {
    if name.is_empty() || name.eq_ignore_ascii_case(own) {
        return Ok(None);
    }
    name::datacenter(name).map(Some).map_err(|_| Failure::no_path())
}

/// Reads what travels with any call: datacenter and token.
pub(crate) fn meta(params: &Params, headers: &HeaderMap, own_datacenter: &str) -> Result<Meta, Failure> {
    Ok(Meta {
        datacenter: datacenter(params.get("dc"), own_datacenter)?,
        token: token(params, headers)?,
        ..Meta::default()
    })
}

/// Reads what a blocking read says: the index it knows, and how long it waits for another. `rules`: what the configuration says
/// of that.
pub(crate) fn blocking(params: &Params, rules: &Reads) -> Result<(u64, Option<Duration>), Failure> {
    let (mut index, mut wait) = (0, None);
    if !params.get("wait").is_empty() {
        let asked = duration::parse(params.get("wait")).map_err(|_| Failure::bad("Invalid wait time"))?;
        wait = Some(asked).filter(|wait| !wait.is_zero());
    }
    if wait.is_some() || params.has("index") || params.has("hash") {
        wait = Some(wait.unwrap_or(rules.default_query_time).min(rules.max_query_time).min(MAX_WAIT));
    }
    if !params.get("index").is_empty() {
        index = params.get("index").parse().map_err(|_| Failure::bad("Invalid index"))?;
    }
    Ok((index, wait))
}

/// What Consul cannot read of this header it refuses on every read.
fn cache_control(headers: &HeaderMap) -> Result<(), Failure> {
    let control = headers.get(http::header::CACHE_CONTROL).map_or(Ok(""), |v| v.to_str());
    let right = |part: &str| match part.trim().split_once('=') {
        Some(("max-age" | "stale-if-error", seconds)) => seconds.parse::<i64>().is_ok(),
        _ => true,
    };
    match control {
        Ok(control) if control.split(',').all(right) => Ok(()),
        _ => Err(Failure::bad("Invalid Cache-Control header.")),
    }
}

/// Reads the options of a read. Texts are Consul's. `discovery`: whether it is a read of the catalog or of health.
pub(crate) fn options(
    params: &Params,
    headers: &HeaderMap,
    own_datacenter: &str,
    rules: &Reads,
    discovery: bool,
) -> Result<Options, Failure> {
    cache_control(headers)?;
    let mut meta = meta(params, headers, own_datacenter)?;
    (meta.min_index, meta.wait) = blocking(params, rules)?;
    let cached = rules.use_cache && params.has("cached");
    let mut stale = params.has("stale");
    let consistent = params.has("consistent");
    let mut max_stale = match params.get("max_stale") {
        "" => None,
        text => Some(
            duration::parse(text)
                .map_err(|_| Failure::bad(format!("Invalid max_stale value {text:?}")))
                .map(|d| d.min(Duration::from_secs(10 * 365 * 86_400)))?,
        ),
    };
    if max_stale.is_some_and(|d| !d.is_zero()) && !consistent {
        stale = true;
    }
    if stale && consistent {
        return Err(Failure::bad("Cannot specify ?stale with ?consistent, conflicting semantics."));
    }
    if cached && consistent {
        return Err(Failure::bad("Cannot specify ?cached with ?consistent, conflicting semantics."));
    }
    // Who did not say how current it must be gets what the operator says will do.
    let unsaid = !stale && !consistent && !cached && max_stale.is_none() && !params.has("leader");
    if discovery && unsaid && !rules.discovery_max_stale.is_zero() {
        (stale, max_stale) = (true, Some(rules.discovery_max_stale));
    }
    meta.consistency = match (stale, consistent) {
        (true, _) => Consistency::Stale,
        (_, true) => Consistency::Consistent,
        _ => Consistency::Default,
    };
    let filter = match params.get("filter") {
        "" => None,
        text => Some(Filter::parse(text).map_err(Failure::from)?),
    };
    Ok(Options { meta, max_stale, cached, filter })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_cache_nobody_asks_it() {
        let read = |text: &str, use_cache| {
            let rules = Reads { use_cache, ..Reads::default() };
            options(&Params::parse(text), &HeaderMap::new(), "dc1", &rules, false)
        };
        assert!(read("cached", true).unwrap().cached && !read("cached", false).unwrap().cached);
        assert!(read("cached&consistent", true).is_err() && read("cached&consistent", false).is_ok());
    }

    fn read(query: &str) -> Result<Options, Failure> {
        options(&Params::parse(query), &HeaderMap::new(), "dc1", &Reads::default(), false)
    }

    #[test]
    fn the_operator_says_how_long_and_how_old() {
        let rules = Reads {
            default_query_time: Duration::from_secs(20),
            max_query_time: Duration::from_secs(60),
            discovery_max_stale: Duration::from_secs(5),
            ..Reads::default()
        };
        let of = |query: &str, discovery| {
            let o = options(&Params::parse(query), &HeaderMap::new(), "dc1", &rules, discovery).unwrap();
            (o.meta.wait.map(|w| w.as_secs()), o.meta.consistency, o.max_stale.map(|d| d.as_secs()))
        };
        assert_eq!(of("index=1", false), (Some(20), Consistency::Default, None));
        assert_eq!(of("index=1&wait=0s", false).0, Some(20));
        assert_eq!(of("index=1&wait=5m", false).0, Some(60));
        assert_eq!(of("", true), (None, Consistency::Stale, Some(5)));
        assert_eq!(of("consistent", true), (None, Consistency::Consistent, None));
        assert_eq!(of("leader", true).1, Consistency::Default);
        assert_eq!(of("max_stale=9s", true), (None, Consistency::Stale, Some(9)));
    }

    #[test]
    fn what_is_no_text_is_refused_and_not_passed_over() {
        assert_eq!(read("filter=%ff").unwrap_err().code, 500);
        assert_eq!(read("dc=%ff").unwrap_err().text, "No path to datacenter");
        assert_eq!(read("token=%ff").unwrap_err().code, 403);
        assert!(read("filter=%zz").is_ok(), "as Go has it");
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape("a%2Fb+c", true).as_deref(), Some("a/b c"));
        assert_eq!(unescape("a+b", false).as_deref(), Some("a+b"));
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(unescape(bad, false), None, "{bad}");
        }
    }

    #[test]
    fn reads() {
        let o = read("dc=DC2&index=7&wait=8s&stale&tag=a&tag=b&pretty").unwrap();
        assert_eq!(o.meta.datacenter.as_deref(), Some("dc2"));
        assert_eq!((o.meta.min_index, o.meta.wait), (7, Some(Duration::from_secs(8))));
        assert_eq!(o.meta.consistency, Consistency::Stale);
        assert_eq!(read("dc=dc1").unwrap().meta.datacenter, None);
        assert_eq!(read("wait=99h").unwrap().meta.wait, Some(MAX_WAIT));
        assert_eq!(read("max_stale=5s").unwrap().meta.consistency, Consistency::Stale);
    }

    #[test]
    fn refusals() {
        for (query, code, text) in [
            ("index=x", 400, "Invalid index"),
            ("index=-1", 400, "Invalid index"),
            ("wait=x", 400, "Invalid wait time"),
            ("wait=-5s", 400, "Invalid wait time"),
            ("stale&consistent", 400, "Cannot specify ?stale with ?consistent, conflicting semantics."),
            ("cached&consistent", 400, "Cannot specify ?cached with ?consistent, conflicting semantics."),
            ("max_stale=x", 400, "Invalid max_stale value \"x\""),
            ("dc=a%0ab", 500, "No path to datacenter"),
        ] {
            let failure = read(query).unwrap_err();
            assert_eq!((failure.code.as_u16(), failure.text.as_str()), (code, text), "{query}");
        }
    }

    #[test]
    fn numbers() {
        let number = |q: &str| Params::parse(q).number("cas").map_err(|f| f.text);
        assert_eq!(number("cas=5"), Ok(Some(5)));
        assert_eq!(number("x=5"), Ok(None));
        assert_eq!(number("cas=-1"), Err("strconv.ParseUint: parsing \"-1\": invalid syntax".into()));
        assert_eq!(number("cas="), Err("strconv.ParseUint: parsing \"\": invalid syntax".into()));
        assert_eq!(
            number("cas=18446744073709551616"),
            Err("strconv.ParseUint: parsing \"18446744073709551616\": value out of range".into())
        );
    }

    #[test]
    fn tokens() {
        let mut headers = HeaderMap::new();
        let none = Params::default();
        assert_eq!(token(&none, &headers), Ok(None));
        headers.insert(header::AUTHORIZATION, http::HeaderValue::from_static("bearer  abc"));
        assert_eq!(token(&none, &headers), Ok(Some("abc".into())));
        headers.insert("x-consul-token", http::HeaderValue::from_static("def"));
        assert_eq!(token(&none, &headers), Ok(Some("def".into())));
        assert_eq!(token(&Params::parse("token=ghi"), &headers), Ok(Some("ghi".into())));
        for bad in ["token=a%0Ab", "token=%C3%A9", "token=a%20b"] {
            assert_eq!(token(&Params::parse(bad), &headers).unwrap_err().code, StatusCode::FORBIDDEN);
        }
    }
}
