//! Names, checked once where they enter.

/// Why a name is refused; the text names the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty.
    #[error("{what} must not be empty")]
    Empty {
        /// What was to be named.
        what: &'static str,
    },
    /// A character that is not allowed.
    #[error("{what} {name:?} is not allowed: {rule}")]
    Character {
        /// What was to be named.
        what: &'static str,
        /// The name.
        name: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// A word that has a meaning.
    #[error("datacenter {name:?} is not allowed: the word asks for the nearest datacenter; choose another name")]
    Reserved {
        /// The name.
        name: String,
    },
    /// Too long.
    #[error("{what} is {len} bytes long; {max} are allowed")]
    Long {
        /// What was to be named.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
}

/// Stands for the nearest datacenter that has what is asked for; no datacenter may be called so.
pub const ANY: &str = "any";

/// A name for a datacenter of our own: as [`datacenter`], and not [`ANY`].
pub fn own_datacenter(name: &str) -> Result<String, NameError> {
    match datacenter(name)? {
        name if name == ANY => Err(NameError::Reserved { name }),
        name => Ok(name),
    }
}

/// A datacenter's name: lower case letters, digits, `-` and `_`, up to 64 bytes; upper case is lowered, as Consul does.
pub fn datacenter(name: &str) -> Result<String, NameError> {
    check("datacenter", name, 64, "only a-z, 0-9, - and _", |c| c.is_ascii_alphanumeric() || c == '-' || c == '_')?;
    Ok(name.to_ascii_lowercase())
}

/// A node's name: anything printable without `/`, up to 128 bytes, with no space but between words. Names that are no DNS labels are allowed, as in
/// Consul, and cannot be found by DNS.
pub fn node(name: &str) -> Result<(), NameError> {
    let (what, rule) = ("node name", "no space but between words, no control characters and no /");
    check(what, name, 128, rule, |c| (c == ' ' || !c.is_whitespace()) && !c.is_control() && c != '/')?;
    if name.trim() == name { Ok(()) } else { Err(NameError::Character { what, name: name.to_owned(), rule }) }
}

/// Whether a name can be one or more DNS labels (letters, digits, `-`, `_`, dots between labels).
pub fn is_dns(name: &str) -> bool {
    !name.is_empty()
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn check(
    what: &'static str,
    name: &str,
    max: usize,
    rule: &'static str,
    allowed: impl Fn(char) -> bool,
) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > max {
        return Err(NameError::Long { what, len: name.len(), max });
    }
    if !name.chars().all(allowed) {
        return Err(NameError::Character { what, name: name.to_owned(), rule });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datacenters() {
        assert_eq!(datacenter("DC-1_a").as_deref(), Ok("dc-1_a"));
        for bad in ["", "dc.1", "dc 1", "dc/1", "dé"] {
            assert!(datacenter(bad).is_err(), "{bad:?}");
        }
        assert!(datacenter(&"a".repeat(65)).is_err());
        assert_eq!(own_datacenter("DC2").as_deref(), Ok("dc2"));
        assert!(datacenter("any").is_ok() && own_datacenter("Any").is_err());
    }

    #[test]
    fn dns_names() {
        assert!(is_dns("web") && is_dns("a.b-c"));
        assert!(!is_dns("") && !is_dns("a..b") && !is_dns("a b") && !is_dns(&"a".repeat(64)));
    }
}
