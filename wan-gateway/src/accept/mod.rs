//! A call comes in from another datacenter.

pub(crate) mod driver;

use causeway_proto::meta::{FROM, HOPS, Meta};
use causeway_proto::rejection::Reason;
use http::{HeaderMap, HeaderValue};
use tonic::Status;

use crate::admission::{self, Class};

/// Whether a call that came over a link is one for us; counts the hop in its headers and notes there who asks. `from` is the
/// datacenter of the certificate at the other end: servers decide by it what they answer. Names that the other end put there stay
/// before it, as calls on behalf of others; they can only take rights away.
pub fn check(own: &str, from: &str, path: &str, headers: &mut HeaderMap) -> Result<Class, Status> {
    let class = admission::class(path)?;
    let meta = Meta::read(headers);
    match meta.datacenter.as_deref() {
        Some(target) if target == own => {}
        target => {
            let target = target.unwrap_or("no datacenter");
            return Err(Reason::NoPath.status(format!("a call for {target} reached a gateway of {own}")));
        }
    }
    admission::hops(&meta)?;
    headers.insert(HOPS, HeaderValue::from(meta.hops.saturating_add(1)));
    let chain = match &meta.from {
        Some(before) => format!("{before},{from}"),
        None => from.to_owned(),
    };
    let chain =
        HeaderValue::try_from(chain).map_err(|_| Reason::Invalid.status("a datacenter that asks has no name"))?;
    headers.insert(FROM, chain);
    Ok(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_calls_for_us_come_in_and_hops_are_counted() {
        let path = "/causeway.kv.v1.Kv/Get";
        let mut ours = headers(&[("causeway-dc", "b"), ("causeway-hops", "2")]);
        assert!(check("b", "a", path, &mut ours).is_ok());
        assert_eq!(Meta::read(&ours).hops, 3);
        assert_eq!(Meta::read(&ours).from.as_deref(), Some("a"));
        // A name that the other end claims does not replace what its certificate says.
        let mut claimed = headers(&[("causeway-dc", "b"), ("causeway-from", "b")]);
        assert!(check("b", "a", path, &mut claimed).is_ok());
        assert_eq!(Meta::read(&claimed).from.as_deref(), Some("b,a"));
        for bad in [headers(&[("causeway-dc", "c")]), headers(&[])] {
            assert_eq!(check("b", "a", path, &mut bad.clone()).err().map(|s| Reason::of(&s)), Some(Reason::NoPath));
        }
        assert!(check("b", "a", path, &mut headers(&[("causeway-dc", "b"), ("causeway-hops", "8")])).is_err());
        assert!(check("b", "a", "/causeway.raft.v1.Raft/Vote", &mut ours).is_err());
    }
}
