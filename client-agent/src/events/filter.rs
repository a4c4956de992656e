//! The filters of an event: regular expressions on the node's name, and on ids and tags of its services. Pure.

use regex::{Regex, RegexBuilder};

use super::Event;

/// Bytes that a compiled expression may take: it comes from another machine.
const MAX_COMPILED: usize = 1 << 20;

/// Why filters make no sense; Consul's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Tags are those of a service.
    #[error("Cannot provide tag filter without service filter")]
    TagWithoutService,
    /// Not an expression.
    #[error("Invalid {which} filter: error parsing regexp: {why}")]
    Invalid {
        /// `node`, `service` or `tag`.
        which: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// The filters of one event, ready for use.
#[derive(Debug)]
pub struct Filters {
    node: Option<Regex>,
    service: Option<Regex>,
    tag: Option<Regex>,
}

/// What is wrong with an expression, in Go's words for the common mistakes.
fn explain(pattern: &str, error: &regex::Error) -> String {
    if let regex::Error::CompiledTooBig(_) = error {
        return format!("expression too large: `{pattern}`");
    }
    let text = error.to_string();
    let why = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
    let from = |wanted: &[char]| pattern.find(wanted).and_then(|at| pattern.get(at..)).unwrap_or(pattern);
    match why {
        "unclosed group" => format!("missing closing ): `{pattern}`"),
        "unopened group" => format!("unexpected ): `{pattern}`"),
        "unclosed character class" => format!("missing closing ]: `{}`", from(&['['])),
        "repetition operator missing expression" => {
            let operator: String = from(&['*', '+', '?', '{']).chars().take(1).collect();
            format!("missing argument to repetition operator: `{operator}`")
        }
        other => format!("{other}: `{pattern}`"),
    }
}

fn compile(which: &'static str, pattern: &str) -> Result<Option<Regex>, FilterError> {
    if pattern.is_empty() {
        return Ok(None);
    }
    let built = RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build();
    built.map(Some).map_err(|error| FilterError::Invalid { which, why: explain(pattern, &error) })
}

impl Filters {
    /// Those of an event.
    pub fn of(event: &Event) -> Result<Self, FilterError> {
        if !event.tag_filter.is_empty() && event.service_filter.is_empty() {
            return Err(FilterError::TagWithoutService);
        }
        Ok(Self {
            node: compile("node", &event.node_filter)?,
            service: compile("service", &event.service_filter)?,
            tag: compile("tag", &event.tag_filter)?,
        })
    }

    /// Whether the event is for the node of this name, with these services: id and tags of each.
    pub fn take<'a>(&self, node: &str, services: impl IntoIterator<Item = (&'a str, &'a [String])>) -> bool {
        if self.node.as_ref().is_some_and(|node_filter| !node_filter.is_match(node)) {
            return false;
        }
        let Some(service) = &self.service else { return true };
        services.into_iter().filter(|(id, _)| service.is_match(id)).any(|(_, tags)| match &self.tag {
            Some(tag) => tags.iter().any(|t| tag.is_match(t)),
            None => true,
        })
    }
}
