//! The paths below `/v1/acl/`: what each asks for, and with which methods. Pure.
//!
//! They are one row of the table of endpoints, and so one in metrics and on the reference page; which methods a path has is told here.

use causeway_proto::acl::Kind;

use super::super::gate::{GET, Methods, POST, PUT};
use super::super::query;

/// Consul's order.
const ONE: Methods = super::super::gate::KV;

/// What a path below `/v1/acl/` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    Bootstrap,
    Replication,
    Own,
    Clone(&'a str),
    /// A new item.
    New(Kind),
    All(Kind),
    One(Kind, &'a str),
    Named(Kind, &'a str),
    /// Auth methods and binding rules: there are none.
    Methods(bool),
    Login,
    Logout,
    /// Of Consul before 1.4.
    Gone,
}

fn kind(word: &str) -> Option<(Kind, bool)> {
    Some(match word {
        "token" => (Kind::Token, false),
        "tokens" => (Kind::Token, true),
        "policy" => (Kind::Policy, false),
        "policies" => (Kind::Policy, true),
        "role" => (Kind::Role, false),
        "roles" => (Kind::Role, true),
        _ => return None,
    })
}

/// What is asked, and with which methods it may be; what is no path of these is not there at all.
pub(super) fn find(rest: &str) -> Option<(Asked<'_>, Methods)> {
    let (first, tail) = rest.split_once('/').map_or((rest, None), |(first, tail)| (first, Some(tail)));
    Some(match (first, tail) {
        ("bootstrap", None) => (Asked::Bootstrap, PUT),
        ("login", None) => (Asked::Login, POST),
        ("logout", None) => (Asked::Logout, POST),
        ("replication", None) => (Asked::Replication, GET),
        ("auth-methods" | "binding-rules", None) => (Asked::Methods(true), GET),
        ("auth-method" | "binding-rule", None) => (Asked::Methods(false), PUT),
        ("auth-method" | "binding-rule", Some(_)) => (Asked::Methods(false), ONE),
        ("create" | "update", None) | ("destroy" | "clone", Some(_)) => (Asked::Gone, PUT),
        ("list", None) | ("info", Some(_)) => (Asked::Gone, GET),
        ("rules", Some("translate")) => (Asked::Gone, POST),
        ("rules", Some(tail)) if tail.starts_with("translate/") => (Asked::Gone, GET),
        ("token", Some("self")) => (Asked::Own, GET),
        ("token", Some(tail)) if tail.ends_with("/clone") => (Asked::Clone(tail.strip_suffix("/clone")?), ONE),
        (word, tail) => match (kind(word)?, tail) {
            ((kind, true), None) => (Asked::All(kind), GET),
            ((kind, false), None) => (Asked::New(kind), PUT),
            ((kind @ (Kind::Policy | Kind::Role), false), Some(tail)) if tail.starts_with("name/") => {
                (Asked::Named(kind, tail.strip_prefix("name/")?), GET)
            }
            ((kind, false), Some(id)) => (Asked::One(kind, id), ONE),
            _ => return None,
        },
    })
}

/// The methods of a path, which is still escaped; `None`: there is none such.
pub(in super::super) fn methods(rest: &str) -> Option<Methods> {
    find(&query::unescape(rest, false)?).map(|(_, methods)| methods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, wanted) in [
            ("bootstrap", Asked::Bootstrap),
            ("token/self", Asked::Own),
            ("token/x/clone", Asked::Clone("x")),
            ("token/x", Asked::One(Kind::Token, "x")),
            ("token", Asked::New(Kind::Token)),
            ("tokens", Asked::All(Kind::Token)),
            ("policy/name/a", Asked::Named(Kind::Policy, "a")),
            ("policy/x", Asked::One(Kind::Policy, "x")),
            ("role/name/a", Asked::Named(Kind::Role, "a")),
            ("roles", Asked::All(Kind::Role)),
            ("create", Asked::Gone),
            ("rules/translate/x", Asked::Gone),
            ("login", Asked::Login),
        ] {
            assert_eq!(find(path).map(|(asked, _)| asked), Some(wanted), "{path}");
        }
        for path in ["", "nope", "tokens/x", "bootstrap/x", "self", "policies/x"] {
            assert_eq!(find(path), None, "{path}");
        }
    }
    /// As Consul 1.8.7 answers each method of each path.
    #[test]
    fn methods_are_those_of_consul() {
        for (wanted, paths) in [
            (
                "PUT",
                &[
                    "bootstrap",
                    "auth-method",
                    "binding-rule",
                    "create",
                    "update",
                    "destroy/x",
                    "clone/x",
                    "token",
                    "policy",
                    "role",
                ][..],
            ),
            ("POST", &["login", "logout", "rules/translate"][..]),
            (
                "GET",
                &[
                    "replication",
                    "auth-methods",
                    "binding-rules",
                    "list",
                    "info/x",
                    "rules/translate/x",
                    "token/self",
                    "tokens",
                    "policy/name/x",
                    "policies",
                    "role/name/x",
                    "roles",
                ][..],
            ),
            (
                "GET,PUT,DELETE",
                &[
                    "auth-method/",
                    "auth-method/x",
                    "binding-rule/x",
                    "token/",
                    "token/x",
                    "token/x/clone",
                    "policy/",
                    "policy/x",
                    "role/",
                    "role/x",
                    "token/self/x",
                ][..],
            ),
        ] {
            for path in paths {
                let found: Vec<_> = methods(path).unwrap().iter().map(|(method, _)| *method).collect();
                assert_eq!(found.join(","), wanted, "{path}");
            }
        }
        // What is meant counts, not how it is written.
        assert_eq!(methods("token/se%6cf"), methods("token/self"));
        assert_eq!(methods("nope"), None);
    }
}
