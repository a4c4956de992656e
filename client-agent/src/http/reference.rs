//! The reference page of the HTTP API, made from the table of endpoints.

use super::gate::{Row, TABLE, Waits};

/// What goes for all.
const HEAD: &str = "# HTTP API

Made from the table of endpoints by `causeway reference http`; do not edit.

A path that ends in `/` takes a name behind it. Names of answers and their fields are Consul 1.8.7's.

* **Every request** takes `pretty` (indented JSON) and a token (`X-Consul-Token`, `Authorization: Bearer`, `?token=`). `OPTIONS` says in
  `Allow` which methods a path has.
* **dc** names the datacenter that is asked (default: the agent's own; `any`, where services are looked for: the nearest that has healthy ones).
* **Modes**, where a path has them: none said is the leader's answer; `consistent` the leader's once a majority has confirmed that it is the
  leader; `stale` any server's, with `max_stale` as its greatest age. `X-Consul-KnownLeader` and `X-Consul-LastContact` (ms) say how current
  it is. `discovery_max_stale` changes what none said means. `cached` answers from the agent's live copy (`Age`, `X-Cache`), where there is one.
* **Waits**, where a path does: with `index` of the answer before (`X-Consul-Index`) the answer comes when there is something new, or after `wait`
  (`default_query_time`, at most `max_query_time`, and up to a sixteenth more). `hash` does the same by `X-Consul-ContentHash`.
* **filter** is Consul's language (`Service.Tags contains \"a\"`, `and`, `or`, `not`, `matches`, ...).
* **ns** and **partition**, or their headers, are refused with 400 where the column says so: there is one namespace.
* **Codes** that all paths have: 200; 400 the request makes no sense; 403 the token does not allow it, or the configuration does not
  (`http_config.block_endpoints`, `allow_write_http_from`); 404 no such path; 405 not this method; 413 the body is too large; 429 too much at once
  (`limits`); 431 too long a head; 500 all else, with Consul's text. `X-Causeway-Reason` says why in one word.
";

/// The page, in Markdown.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut family = "";
    for row in TABLE {
        let of = row.pattern.split('/').nth(2).unwrap_or_default();
        if of != family || page.len() == HEAD.len() {
            family = of;
            let title = if of.is_empty() { "/".to_owned() } else { format!("/v1/{of}") };
            page.push_str(&format!(
                "\n## `{title}`\n\n| methods | path | parameters | modes | waits | ns | codes | what it does |\n|---|---|---|---|---|---|---|---|\n"
            ));
        }
        page.push_str(&line(row));
    }
    page
}

fn line(row: &Row) -> String {
    let list = |items: Vec<String>| items.join(", ");
    let methods = list(row.methods.iter().map(|(method, _)| (*method).to_owned()).collect());
    let params = list(row.params.iter().map(|name| format!("`{name}`")).collect());
    let waits = match row.waits {
        Waits::No => "",
        Waits::Index => "index",
        Waits::Hash => "hash",
    };
    let codes = list(row.codes.iter().map(u16::to_string).collect());
    let (modes, spaced) = (if row.modes { "all" } else { "" }, if row.spaced { "refused" } else { "" });
    format!("| {methods} | `{}` | {params} | {modes} | {waits} | {spaced} | {codes} | {} |\n", row.pattern, row.says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_its_line() {
        let page = page();
        for row in TABLE {
            assert!(page.contains(&format!("| `{}` |", row.pattern)), "{}", row.pattern);
            assert!(row.says.ends_with('.') && row.says.len() > 5, "{} says nothing", row.pattern);
            assert!(row.modes || !row.fails_as_read, "{}", row.pattern);
        }
        let families: std::collections::BTreeSet<_> = TABLE.iter().map(|row| row.pattern.split('/').nth(2)).collect();
        assert_eq!(page.matches("| methods |").count(), families.len(), "a table for each family");
    }
}
