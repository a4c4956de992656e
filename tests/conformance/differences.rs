//! Where we differ from Consul 1.8.7 on purpose. Each row is used by a step of a script, which holds both answers, unless it says
//! that it is general: then `client.rs` evens it out everywhere.

/// One difference.
pub struct Difference {
    /// As the scripts name it.
    pub id: &'static str,
    /// Whether it concerns so many answers that they are compared without it.
    pub general: bool,
    /// What Consul does.
    pub consul: &'static str,
    /// What we do.
    pub ours: &'static str,
    /// Why.
    pub why: &'static str,
}

const fn row(id: &'static str, consul: &'static str, ours: &'static str, why: &'static str) -> Difference {
    Difference { id, general: false, consul, ours, why }
}

const fn general(id: &'static str, consul: &'static str, ours: &'static str, why: &'static str) -> Difference {
    Difference { id, general: true, consul, ours, why }
}

/// All of them.
pub const DIFFERENCES: &[Difference] = &[
    general(
        "rpc-prefix",
        "error texts begin with `rpc error making call: ` once for each server that handed the call on",
        "the bare text, whoever was asked",
        "clients look at how the text begins (Patroni: `Invalid Session TTL`), which on Consul fails as soon as a client agent is asked",
    ),
    general(
        "json-reason",
        "a body that is no JSON is refused with the words of Go's decoder",
        "the same beginning, then our decoder's words",
        "nobody can act on the words of a decoder; they tell a person where to look",
    ),
    row(
        "no-redirect",
        "paths with `//` or `..` are redirected (301) to a cleaned path, so such keys cannot be written; `/v1/kv` is redirected",
        "the path is taken as it is; such keys are keys; `/v1/kv` is not an endpoint",
        "a redirected PUT loses its body in many clients: better to store what was asked for",
    ),
    row(
        "raw-characters",
        "accepts `<`, `>` and `\"` bare in a request line",
        "400: they must be percent-encoded",
        "RFC 3986; no client library sends them bare",
    ),
    row(
        "txn-newer-verbs",
        "1.8.7 knows neither `get-or-empty` nor session operations in a transaction",
        "both are there, as in later versions",
        "today's clients use them",
    ),
];
