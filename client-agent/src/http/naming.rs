//! How metrics are named for others, and which of them are shown (`telemetry.metrics_prefix`, `prefix_filter`, `filter_default`).

/// Consul's beginning of names, where no other is configured.
const CONSUL: &str = "consul";

/// What is shown by which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// Instead of `consul` (`telemetry.metrics_prefix`).
    pub prefix: String,
    /// The host in the names of gauges; empty: none (`telemetry.disable_hostname`).
    pub host: String,
    /// Whether what no rule names is shown (`telemetry.filter_default`).
    pub default: bool,
    /// Beginnings of names and whether such are shown (`telemetry.prefix_filter`); the longest one holds.
    pub rules: Vec<(String, bool)>,
}

impl Default for Naming {
    fn default() -> Self {
        Self { prefix: CONSUL.into(), host: String::new(), default: true, rules: Vec::new() }
    }
}

impl Naming {
    /// Reads one entry of `telemetry.prefix_filter`: `+consul.http` or `-consul.raft`.
    pub fn rule(text: &str) -> Option<(String, bool)> {
        let (rest, shown) = match text.strip_prefix('+') {
            Some(rest) => (rest, true),
            None => (text.strip_prefix('-')?, false),
        };
        Some((rest.to_owned(), shown))
    }

    /// The name for others, without a host.
    pub(super) fn plain(&self, dotted: &str) -> String {
        match dotted.strip_prefix(CONSUL) {
            Some(rest) if rest.starts_with('.') && self.prefix != CONSUL => format!("{}{rest}", self.prefix),
            _ => dotted.to_owned(),
        }
    }

    /// The name of a gauge, which has the host's name in it.
    pub(super) fn gauge(&self, dotted: &str) -> String {
        match dotted.strip_prefix("consul.") {
            Some(rest) if !self.host.is_empty() => format!("{}.{}.{rest}", self.prefix, self.host),
            _ => self.plain(dotted),
        }
    }

    /// Whether this one is shown, by its name for others: with the host in it (as Consul compares) or without.
    pub(super) fn shows(&self, dotted: &str, gauge: bool) -> bool {
        if self.rules.is_empty() {
            return self.default;
        }
        let verdict = |name: &str| {
            let fitting = self.rules.iter().filter(|(prefix, _)| name.starts_with(prefix.as_str()));
            fitting.max_by_key(|(prefix, _)| prefix.len()).map(|(_, shown)| *shown)
        };
        let with_host = if gauge { verdict(&self.gauge(dotted)) } else { None };
        with_host.or_else(|| verdict(&self.plain(dotted))).unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_filters() {
        let naming = Naming {
            prefix: "dc".into(),
            host: "h".into(),
            default: false,
            rules: ["+dc.http", "-dc.http.GET", "+dc.h.raft", "+dc.serf"]
                .iter()
                .filter_map(|r| Naming::rule(r))
                .collect(),
        };
        assert_eq!(naming.plain("consul.raft.apply"), "dc.raft.apply");
        assert_eq!(naming.gauge("consul.raft.apply"), "dc.h.raft.apply");
        assert_eq!(naming.gauge("causeway_x"), "causeway_x");
        for (name, gauge, shown) in [
            ("consul.http.PUT.v1", false, true),
            ("consul.http.GET.v1", false, false),
            ("consul.raft.last_index", true, true),
            ("consul.raft.apply", false, false),
            ("consul.serf.x", true, true),
            ("causeway_x", true, false),
        ] {
            assert_eq!(naming.shows(name, gauge), shown, "{name}");
        }
        assert!(Naming::default().shows("consul.x", true));
        assert_eq!(Naming::rule("consul.x"), None);
    }
}
