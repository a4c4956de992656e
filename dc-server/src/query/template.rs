//! Templates: `${name.full}`, `${name.prefix}`, `${name.suffix}` and `${match(N)}` in any text of a query's service.

use causeway_proto::query::{PreparedQuery, ServiceQuery};
use regex::{Regex, RegexBuilder};

use crate::store::query::is_template;

/// Bytes that a compiled expression may take.
const REGEX_SIZE: usize = 1 << 20;
/// Bytes of a text after it is filled in.
const MOST_FILLED: usize = 64 << 10;

/// Why a template makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bad {
    /// No such type.
    #[error("Bad Template.Type '{0}'")]
    Type(String),
    /// The expression cannot be read.
    #[error("Bad Regexp: error parsing regexp: {0}")]
    Regexp(String),
    /// A `${` without its `}`.
    #[error("Bad format '{text}' in {place}: parse error: syntax error")]
    Format {
        /// The whole text.
        text: String,
        /// Which field.
        place: String,
    },
    /// Something else than the variables.
    #[error("Bad evaluation for '{text}' in {place}: {why}")]
    Evaluation {
        /// The whole text.
        text: String,
        /// Which field.
        place: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What the variables stand for.
struct Values<'a> {
    full: &'a str,
    prefix: &'a str,
    suffix: &'a str,
    matches: Vec<&'a str>,
}

fn compile(pattern: &str) -> Result<Option<Regex>, Bad> {
    if pattern.is_empty() {
        return Ok(None);
    }
    let built = RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build();
    // The last line says what is wrong; those before it draw it.
    let why = |e: regex::Error| e.to_string().lines().last().unwrap_or_default().trim().to_owned();
    built.map(Some).map_err(|e| Bad::Regexp(format!("{}: `{pattern}`", why(e).trim_start_matches("error: "))))
}

/// Checks a query's template, where it has one.
pub(crate) fn check(query: &PreparedQuery) -> Result<(), Bad> {
    let Some(template) = &query.template else { return Ok(()) };
    match template.r#type.as_str() {
        "" => return Ok(()),
        "name_prefix_match" => {}
        other => return Err(Bad::Type(other.to_owned())),
    }
    render(query, &query.name).map(|_| ())
}

/// The query as it is for a name. One that is no template stays as it is.
pub(crate) fn render(query: &PreparedQuery, name: &str) -> Result<PreparedQuery, Bad> {
    let mut query = query.clone();
    if !is_template(&query) {
        return Ok(query);
    }
    let template = query.template.clone().unwrap_or_default();
    let regex = compile(&template.regexp)?;
    let matches = regex
        .as_ref()
        .and_then(|regex| regex.captures(name))
        .map_or_else(Vec::new, |found| found.iter().map(|group| group.map_or("", |group| group.as_str())).collect());
    let prefix = query.name.clone();
    let suffix = name.strip_prefix(prefix.as_str()).unwrap_or(name);
    let values = Values { full: name, prefix: &prefix, suffix, matches };
    if let Some(service) = &mut query.service {
        fill_service(service, &values)?;
        if let Some(tags) = service.tags.as_mut().filter(|_| template.remove_empty_tags) {
            tags.values.retain(|tag| !tag.is_empty());
        }
    }
    Ok(query)
}

fn fill_service(service: &mut ServiceQuery, values: &Values<'_>) -> Result<(), Bad> {
    let put = |text: &mut String, place: &str| -> Result<(), Bad> {
        // Most texts hold no variable.
        if text.contains("${") {
            *text = fill(text, place, values)?;
        }
        Ok(())
    };
    put(&mut service.service, "Service.Service")?;
    put(&mut service.near, "Service.Near")?;
    if let Some(failover) = &mut service.failover {
        for (at, dc) in failover.datacenters.iter_mut().flat_map(|list| &mut list.values).enumerate() {
            put(dc, &format!("Service.Failover.Datacenters[{at}]"))?;
        }
        for (at, target) in failover.targets.iter_mut().enumerate() {
            put(&mut target.datacenter, &format!("Service.Failover.Targets[{at}].Datacenter"))?;
        }
    }
    for (name, list) in [("IgnoreCheckIDs", &mut service.ignore_check_ids), ("Tags", &mut service.tags)] {
        for (at, text) in list.iter_mut().flat_map(|list| &mut list.values).enumerate() {
            put(text, &format!("Service.{name}[{at}]"))?;
        }
    }
    for (name, map) in [("NodeMeta", &mut service.node_meta), ("ServiceMeta", &mut service.service_meta)] {
        for (key, text) in map.iter_mut().flat_map(|map| &mut map.values) {
            put(text, &format!("Service.{name}[{key}]"))?;
        }
    }
    Ok(())
}

fn fill(text: &str, place: &str, values: &Values<'_>) -> Result<String, Bad> {
    let bad = |why: String| Bad::Evaluation { text: text.to_owned(), place: place.to_owned(), why };
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("${") {
        // `$${` is a `${` that is meant.
        if let Some(plain) = before.strip_suffix('$') {
            out.push_str(plain);
            out.push_str("${");
            rest = behind;
            continue;
        }
        out.push_str(before);
        let unfinished = || Bad::Format { text: text.to_owned(), place: place.to_owned() };
        let (inner, tail) = behind.split_once('}').ok_or_else(unfinished)?;
        let column = text.len() - behind.len() + 1;
        let name = inner.trim();
        match name {
            "name.full" => out.push_str(values.full),
            "name.prefix" => out.push_str(values.prefix),
            "name.suffix" => out.push_str(values.suffix),
            // Segments are not ours: the agent is in the default one, whose name is empty.
            "agent.segment" => {}
            "" => return Err(unfinished()),
            call => match call.strip_prefix("match(").and_then(|number| number.strip_suffix(')')) {
                Some(number) => {
                    let number = number.trim().parse::<usize>();
                    let number = number.map_err(|_| bad(format!("1:{column}: match takes one number from 0 on")))?;
                    out.push_str(values.matches.get(number).copied().unwrap_or_default());
                }
                None => return Err(bad(format!("1:{column}: unknown variable accessed: {call}"))),
            },
        }
        if out.len() > MOST_FILLED {
            return Err(bad(format!("it is longer than {MOST_FILLED} bytes once filled in")));
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}
