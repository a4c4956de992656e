//! A call comes in from another datacenter.

pub(crate) mod driver;

use causeway_proto::meta::{HOPS, Meta};
use causeway_proto::rejection::Reason;
use http::{HeaderMap, HeaderValue};
use tonic::Status;

use crate::admission::{self, Class};

/// Whether a call that came over a link is one for us; counts the hop in its headers.
pub fn check(own: &str, path: &str, headers: &mut HeaderMap) -> Result<Class, Status> {
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
        assert!(check("b", path, &mut ours).is_ok());
        assert_eq!(Meta::read(&ours).hops, 3);
        for bad in [headers(&[("causeway-dc", "c")]), headers(&[])] {
            assert_eq!(check("b", path, &mut bad.clone()).err().map(|s| Reason::of(&s)), Some(Reason::NoPath));
        }
        assert!(check("b", path, &mut headers(&[("causeway-dc", "b"), ("causeway-hops", "8")])).is_err());
        assert!(check("b", "/causeway.raft.v1.Raft/Vote", &mut ours).is_err());
    }
}
