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
    row("event-post", "an event is fired by PUT alone", "by POST, too", "Spring Cloud Consul posts"),
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
    general(
        "glue-once",
        "repeats a record in the additional section for each instance it belongs to",
        "each record once",
        "repetitions cost room in a small packet and say nothing",
    ),
    row(
        "error-texts",
        "some errors have an empty body (404 of an unknown path, 400 of a path with unprintable characters)",
        "the same code, and a line that says what is wrong",
        "an error should say what to do",
    ),
    row(
        "no-mesh",
        "`connect` lookups answer lists of mesh proxies",
        "404: not an endpoint",
        "there is no mesh; an empty list would pass for the answer that there are no proxies",
    ),
    row(
        "service-txt",
        "answers a TXT question for a service with A records",
        "NOERROR without records, with SOA",
        "records of a type nobody asked for are dropped or break resolvers",
    ),
    row(
        "dc-label",
        "1.8.7 does not know `<name>.service.<dc>.dc.<domain>`",
        "the same as without `.dc`",
        "later versions know it, and today's clients use it",
    ),
    row(
        "srv-host-glue",
        "resolves the target of an SRV record that is a name, in its own domain or by a recursor, and adds the addresses",
        "the SRV record alone; the client asks for its target",
        "one answer stays one lookup; resolvers ask for the target anyway",
    ),
    row(
        "recursor-tcp",
        "an answer that a recursor cut is handed on as it is (TC), where the client asked over UDP",
        "it is asked again over TCP, and the whole is given as far as the client takes it",
        "one question less for the client, and a recursor's limit need not be the client's",
    ),
    row(
        "query-allow",
        "`Allow` of a 405 about one prepared query leaves OPTIONS out",
        "OPTIONS is in it, as everywhere else",
        "it is answered",
    ),
    row(
        "cname-asked",
        "answers nothing to a CNAME question for a node whose address is a name",
        "the CNAME record",
        "it is there",
    ),
    row(
        "ptr-miss",
        "1.8.7 answers SERVFAIL when nobody has an address and there are no recursors",
        "NXDOMAIN with SOA, as later versions",
        "it is no failure (hashicorp/consul#20413)",
    ),
    row(
        "own-ttl",
        "a record found on the way (glue, the target of a CNAME) has the TTL of the service asked for",
        "each record has the TTL of its own name",
        "the same record should not live longer by the way it was found",
    ),
    row(
        "check-tags",
        "a check keeps the tags its service had when the check was registered",
        "a check shows the tags its service has",
        "who selects checks by tag (fabio) would follow tags that are gone",
    ),
    row(
        "alias-itself",
        "an alias check that belongs to no service counts among the checks it mirrors, and so stays critical for ever",
        "it mirrors the others",
        "a fault of 1.8.7",
    ),
    row(
        "partition-refused",
        "1.8.7 does not know `?partition=` and does what is asked for everybody's place",
        "400, in the words of later versions",
        "what is meant for a partition must not be written where everybody reads it",
    ),
    row(
        "txn-namespace",
        "a transaction with `?ns=` is done without a namespace",
        "400, as for a key alone",
        "the same: nothing is written silently elsewhere",
    ),
    row(
        "ui-overview",
        "1.8.7 does not know `/v1/internal/ui/catalog-overview`",
        "it is there, as in later versions",
        "today's dashboards ask for it",
    ),
    row(
        "cli-words",
        "the command line gives the words of Go for what a file, a socket or TLS could not do",
        "the words of the system, and what to do where that is known",
        "nobody can act on `dial tcp`",
    ),
    row(
        "cli-reason",
        "`kv get` of a datacenter that nobody knows says a number",
        "the number, and what the agent said",
        "it is what is wrong",
    ),
    row(
        "cli-cas-zero",
        "`kv put -cas -modify-index=0` is refused",
        "it writes if the key is not there, as the API does",
        "there is no other way to ask for that",
    ),
    row(
        "cli-base64",
        "`kv put -base64` of what is no base64 says so, writes an empty value, and ends with 0",
        "it says so, writes nothing, and ends with 1",
        "a key was emptied by a mistyped value",
    ),
    row(
        "cli-ca",
        "a CA file that cannot be read is an error where nothing is encrypted, too",
        "it is read where it is needed",
        "the environment of a machine need not fit each command",
    ),
    row(
        "cli-config-read",
        "`config read` adds empty fields of the mesh",
        "the entry as it was written",
        "there is no mesh",
    ),
    row(
        "cli-keyring",
        "`keyring` is for servers, and lists the pool of the WAN besides",
        "any agent is asked; there is no such pool",
        "gossip stays within a site",
    ),
    row(
        "cli-join-wan",
        "`join -wan` is for servers",
        "it is for nobody, and says how sites are linked",
        "sites are linked by their gateways",
    ),
    row(
        "cli-version",
        "`version` names Consul",
        "ours, and what we speak",
        "scripts that ask for the version get the one of what runs",
    ),
    row(
        "cli-gateway",
        "knows no certificates of gateways",
        "`tls cert create -gateway`",
        "gateways prove what they are",
    ),
    row(
        "wan-members",
        "an agent that is no server knows no members of the WAN",
        "it lists the servers of all sites, as a server does",
        "whoever is asked, the answer is the same",
    ),
    general(
        "agent-exit",
        "an agent that ends by SIGINT or SIGTERM without leaving exits with 1",
        "with 0",
        "it did as it was told; a supervisor takes 1 for a failure and starts it again",
    ),
    general(
        "validate-data-dir",
        "`validate` refuses files without `data_dir`",
        "takes them, and checks the rest",
        "the agent is often told by a flag",
    ),
    general(
        "kv-delete-all",
        "`kv delete -recurse` without a key removes all keys",
        "refuses",
        "a forgotten word must not empty the store",
    ),
    general(
        "txn-check-type",
        "a check that a transaction sets has no `Type` unless it says one",
        "has the one that its definition shows",
        "as where the agent sets it",
    ),
    general(
        "force-leave-self",
        "`agent/force-leave` of the agent's own name answers 200 and does nothing",
        "500, and names `leave`",
        "an answer that nothing is done behind helps nobody",
    ),
    general(
        "dns-empty",
        "an answer without data for a node has no additional records; an EDNS size below 512 is taken as it is",
        "it has the node's metadata as TXT; the size is 512 at least",
        "RFC 6891, 6.2.3",
    ),
    general(
        "acl-hash",
        "the `Hash` of a token, policy or role is Blake2b over fields as Consul orders them",
        "SHA-256 over the same fields as ours are ordered",
        "it says whether two are the same; nobody can compare those of two products",
    ),
    general(
        "acl-refused-index",
        "403 of some reads has the index of what was refused",
        "403 has no index",
        "it would tell that something changed to who may not see it",
    ),
    row(
        "acl-legacy",
        "1.8.7 still answers the ACL endpoints of Consul before 1.4 (`list`, `info`, `create`, `update`, `destroy`, `clone`, `rules/translate`)",
        "410, as from Consul 1.11 on",
        "tokens that hold rules of their own are gone since",
    ),
    row(
        "acl-words",
        "of a rule that cannot be, or a service that is not there, shows a Go structure, with 500",
        "says what it is, with the code that it has without access control",
        "nobody can act on `{\"x\" {}}`",
    ),
    row(
        "acl-event-code",
        "an event that may not be fired is refused with 500",
        "with 403, as everything else",
        "later versions do, too",
    ),
];
