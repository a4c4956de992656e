//! The reference page of DNS, made from the tables that questions and replies go by.

use super::question::FORMS;
use super::reply::ede;

/// Response codes and when they come.
const CODES: &[(&str, &str)] = &[
    ("NOERROR", "There is such a name; without records where it has none of the type asked for, with the SOA."),
    (
        "NXDOMAIN",
        "There is no such service (or none that is healthy), node or query; with the SOA, whose minimum is the time to remember it.",
    ),
    (
        "SERVFAIL",
        "It cannot be known now; the extended error says why. A name of another zone that no recursor answered, and too many questions at once, too.",
    ),
    ("REFUSED", "A name of another zone, and there are no recursors; a class other than IN."),
    ("FORMERR", "The question cannot be read."),
    ("NOTIMP", "An operation other than a query."),
    ("BADVERS", "An EDNS version other than 0."),
];

/// The page without its options, in Markdown.
pub fn page() -> String {
    let mut page = String::from(
        "# DNS

Made from the code's tables by `causeway reference dns`; do not edit.

Over UDP and TCP, IPv4 and IPv6. Names are answered in the letters they were asked in. Answers over UDP are cut to what the client takes
(512 bytes, or what its EDNS says) and to `udp_answer_limit` without EDNS; `enable_truncate` sets TC then. A client subnet (EDNS) is
given back. Other zones are asked of `recursors`, over TCP where an answer was cut.

## Names

| form | example | records | what is answered |
|---|---|---|---|
",
    );
    for form in FORMS {
        let types: Vec<String> = form.types.iter().map(ToString::to_string).collect();
        page.push_str(&format!("| `{}` | `{}` | {} | {} |\n", form.form, form.example, types.join(", "), form.says));
    }
    page.push_str("\nANY gives all that there is of a name.\n\n## Response codes\n\n| code | when |\n|---|---|\n");
    for (code, when) in CODES {
        page.push_str(&format!("| {code} | {when} |\n"));
    }
    page.push_str("\n## Extended errors (RFC 8914)\n\n| code | name | with | when |\n|---|---|---|---|\n");
    for (code, name, with, when) in ede::ALL {
        page.push_str(&format!("| {code} | {name} | {with} | {when} |\n"));
    }
    page
}
