//! Consul's rule language, in HCL and in JSON, and several policies added up.

use std::collections::BTreeMap;

/// What a rule grants. The order is that of precedence between policies: the greater one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Look.
    Read,
    /// Look, and list what is below (keys only).
    List,
    /// Look and change.
    Write,
    /// Nothing.
    Deny,
}

impl Access {
    fn parse(text: &str, list: bool) -> Option<Self> {
        match text {
            "read" => Some(Self::Read),
            "list" if list => Some(Self::List),
            "write" => Some(Self::Write),
            "deny" => Some(Self::Deny),
            _ => None,
        }
    }

    /// Whether it grants what is needed.
    pub fn grants(self, needed: Self) -> bool {
        match self {
            Self::Write => needed != Self::Deny,
            Self::List => matches!(needed, Self::List | Self::Read),
            Self::Read => needed == Self::Read,
            Self::Deny => false,
        }
    }
}

/// What rules are about that have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The agent on a node.
    Agent,
    /// User events.
    Event,
    /// Keys.
    Key,
    /// Nodes.
    Node,
    /// Prepared queries.
    Query,
    /// Services.
    Service,
    /// Sessions, by node.
    Session,
    /// Who may connect to a service; kept, as nothing here is decided by it.
    Intention,
}

impl Kind {
    /// Block names of the language.
    const BLOCKS: [(&'static str, Self, bool); 14] = [
        ("agent", Self::Agent, false),
        ("agent_prefix", Self::Agent, true),
        ("event", Self::Event, false),
        ("event_prefix", Self::Event, true),
        ("key", Self::Key, false),
        ("key_prefix", Self::Key, true),
        ("node", Self::Node, false),
        ("node_prefix", Self::Node, true),
        ("query", Self::Query, false),
        ("query_prefix", Self::Query, true),
        ("service", Self::Service, false),
        ("service_prefix", Self::Service, true),
        ("session", Self::Session, false),
        ("session_prefix", Self::Session, true),
    ];
}

/// Why a policy's text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// It is neither HCL nor JSON.
    #[error("Failed to parse ACL rules: line {line}: {what}")]
    Syntax {
        /// From 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A block without its name, or with more than a name.
    #[error("Failed to parse ACL rules: {0}: write it as {0} \"name\" {{ policy = \"read\" }}")]
    Shape(String),
    /// A word that is no access.
    #[error("Invalid {block} policy: {value:?} of {name:?}; it must be \"read\", {}\"write\" or \"deny\"", if *.list { "\"list\", " } else { "" })]
    Access {
        /// The block.
        block: String,
        /// The name it is about.
        name: String,
        /// The word.
        value: String,
        /// Whether `list` would do.
        list: bool,
    },
    /// Too long, or too deep.
    #[error("Failed to parse ACL rules: more than {0}")]
    TooLarge(&'static str),
}

/// Longest text of one policy.
const MAX_TEXT: usize = 512 << 10;
/// Deepest nesting; rules need three.
const MAX_DEPTH: usize = 8;

/// Rules by what they are about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// The access control itself.
    pub acl: Option<Access>,
    /// Keys of gossip.
    pub keyring: Option<Access>,
    /// The servers.
    pub operator: Option<Access>,
    /// Rules for exactly one name.
    pub(super) exact: BTreeMap<Kind, BTreeMap<String, Access>>,
    /// Rules for all names that begin so.
    pub(super) prefix: BTreeMap<Kind, BTreeMap<String, Access>>,
}

/// The later of two rules for the same name where they differ: the one that takes precedence.
fn add(slot: &mut Option<Access>, access: Access) {
    *slot = Some(slot.map_or(access, |old| old.max(access)));
}

impl Ruleset {
    /// Reads a policy's text.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        if text.len() > MAX_TEXT {
            return Err(RuleError::TooLarge("512 KiB of text"));
        }
        let mut reader = Reader { text: text.as_bytes(), at: 0 };
        let items = reader.document()?;
        let mut rules = Self::default();
        for item in &items {
            rules.item(item)?;
        }
        Ok(rules)
    }

    /// Adds the rules of another policy of the same token.
    pub fn merge(&mut self, other: &Self) {
        for (slot, access) in
            [(&mut self.acl, other.acl), (&mut self.keyring, other.keyring), (&mut self.operator, other.operator)]
        {
            if let Some(access) = access {
                add(slot, access);
            }
        }
        for (own, others) in [(&mut self.exact, &other.exact), (&mut self.prefix, &other.prefix)] {
            for (kind, rules) in others {
                let own = own.entry(*kind).or_default();
                for (name, access) in rules {
                    let slot = own.entry(name.clone()).or_insert(*access);
                    *slot = (*slot).max(*access);
                }
            }
        }
    }

    /// Adds one rule.
    pub fn put(&mut self, kind: Kind, prefix: bool, name: &str, access: Access) {
        let table = if prefix { &mut self.prefix } else { &mut self.exact };
        let slot = table.entry(kind).or_default().entry(name.to_owned()).or_insert(access);
        *slot = (*slot).max(access);
    }

    /// What it grants on every name of a kind, where there is no other rule for any of them.
    pub(super) fn everything(&self, kind: Kind) -> Option<Access> {
        let exact = self.exact.get(&kind).is_none_or(BTreeMap::is_empty);
        let prefix = self.prefix.get(&kind).filter(|rules| exact && rules.len() == 1)?;
        prefix.get("").copied()
    }

    fn item(&mut self, item: &Item) -> Result<(), RuleError> {
        let Some(block) = item.keys.first() else { return Ok(()) };
        let single = match block.as_str() {
            "acl" => &mut self.acl,
            "keyring" => &mut self.keyring,
            "operator" => &mut self.operator,
            _ => {
                // Words of other versions are passed over, as Consul does.
                let found = Kind::BLOCKS.iter().find(|(name, ..)| *name == block.as_str());
                let Some((_, kind, prefix)) = found else { return Ok(()) };
                return self.named(block, *kind, *prefix, &item.keys[1..], &item.value);
            }
        };
        let Value::Text(text) = &item.value else { return Err(RuleError::Shape(block.clone())) };
        // Empty: as if it were not there.
        if text.is_empty() {
            return Ok(());
        }
        let access = Access::parse(text, false).ok_or_else(|| RuleError::Access {
            block: block.clone(),
            name: String::new(),
            value: text.clone(),
            list: false,
        })?;
        add(single, access);
        Ok(())
    }

    /// A block with a name: `key "a" { policy = "read" }`, `key = { a = { ... } }`, `"key": { "a": { ... } }`, `"key": [ ... ]`.
    fn named(
        &mut self,
        block: &str,
        kind: Kind,
        prefix: bool,
        keys: &[String],
        value: &Value,
    ) -> Result<(), RuleError> {
        let shape = || RuleError::Shape(block.to_owned());
        match (keys, value) {
            ([], Value::Object(items)) => {
                for item in items {
                    self.named(block, kind, prefix, &item.keys, &item.value)?;
                }
                Ok(())
            }
            (_, Value::List(values)) if keys.len() < 2 => {
                values.iter().try_for_each(|value| self.named(block, kind, prefix, keys, value))
            }
            ([name], Value::Object(items)) => {
                let text = |wanted: &str| match items.iter().rev().find(|i| i.keys == [wanted]).map(|i| &i.value) {
                    Some(Value::Text(text)) => Ok(text.as_str()),
                    Some(_) => Err(shape()),
                    None => Ok(""),
                };
                let list = kind == Kind::Key;
                let read = |text: &str| {
                    Access::parse(text, list).ok_or_else(|| RuleError::Access {
                        block: block.to_owned(),
                        name: name.clone(),
                        value: text.to_owned(),
                        list,
                    })
                };
                let access = read(text("policy")?)?;
                self.put(kind, prefix, name, access);
                if kind == Kind::Service && !text("intentions")?.is_empty() {
                    self.put(Kind::Intention, prefix, name, read(text("intentions")?)?);
                }
                Ok(())
            }
            _ => Err(shape()),
        }
    }
}

/// Consul's built-in policy.
pub const GLOBAL_MANAGEMENT: &str = r#"
acl = "write"
agent_prefix "" {
	policy = "write"
}
event_prefix "" {
	policy = "write"
}
key_prefix "" {
	policy = "write"
}
keyring = "write"
node_prefix "" {
	policy = "write"
}
operator = "write"
query_prefix "" {
	policy = "write"
}
service_prefix "" {
	policy = "write"
	intentions = "write"
}
session_prefix "" {
	policy = "write"
}"#;

/// A value of the language; what rules have no use for is read and dropped.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Object(Vec<Item>),
    List(Vec<Value>),
    Other,
}

#[derive(Debug, Clone, PartialEq)]
struct Item {
    keys: Vec<String>,
    value: Value,
}

/// Reads HCL's first version, of which JSON is nearly a part: keys may be quoted, `:` stands for `=`, commas may stand between items.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn error<T>(&self, what: &'static str) -> Result<T, RuleError> {
        let read = self.text.get(..self.at).unwrap_or(self.text);
        Err(RuleError::Syntax { line: 1 + read.iter().filter(|b| **b == b'\n').count(), what })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Passes over blanks and comments.
    fn skip(&mut self) -> Result<(), RuleError> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(0xEF) if self.at == 0 && self.rest().starts_with(b"\xEF\xBB\xBF") => self.at += 3,
                Some(b'#') => self.line(),
                Some(b'/') if self.rest().starts_with(b"//") => self.line(),
                Some(b'/') if self.rest().starts_with(b"/*") => {
                    let end = self.rest().windows(2).skip(2).position(|w| w == b"*/");
                    let Some(end) = end else { return self.error("a comment is not closed") };
                    self.at += end + 4;
                }
                _ => return Ok(()),
            }
        }
    }

    fn line(&mut self) {
        while self.peek().is_some_and(|b| b != b'\n') {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn document(&mut self) -> Result<Vec<Item>, RuleError> {
        self.skip()?;
        let json = self.take(b'{');
        let items = self.items(0, json)?;
        self.skip()?;
        if self.peek().is_some() {
            return self.error("there is more behind the end");
        }
        Ok(items)
    }

    /// Items up to the closing brace, which is taken, or to the end.
    fn items(&mut self, depth: usize, closed: bool) -> Result<Vec<Item>, RuleError> {
        if depth > MAX_DEPTH {
            return Err(RuleError::TooLarge("8 levels"));
        }
        let mut items = Vec::new();
        loop {
            self.skip()?;
            match self.peek() {
                None if !closed => return Ok(items),
                None => return self.error("a block is not closed"),
                Some(b'}') if closed => {
                    self.at += 1;
                    return Ok(items);
                }
                Some(_) => {}
            }
            items.push(self.item(depth)?);
            self.skip()?;
            let _ = self.take(b',');
        }
    }

    fn item(&mut self, depth: usize) -> Result<Item, RuleError> {
        let mut keys = Vec::new();
        loop {
            self.skip()?;
            match self.peek() {
                Some(b'"') => keys.push(self.quoted()?),
                Some(b'=' | b':') if !keys.is_empty() => {
                    self.at += 1;
                    let value = self.value(depth)?;
                    return Ok(Item { keys, value });
                }
                Some(b'{') if !keys.is_empty() => {
                    self.at += 1;
                    let value = Value::Object(self.items(depth + 1, true)?);
                    return Ok(Item { keys, value });
                }
                Some(b) if is_word(b) => keys.push(self.word()),
                _ => return self.error("a name, = or { is expected here"),
            }
            if keys.len() > 4 {
                return self.error("too many names before a block");
            }
        }
    }

    fn word(&mut self) -> String {
        let begin = self.at;
        while self.peek().is_some_and(is_word) {
            self.at += 1;
        }
        String::from_utf8_lossy(self.text.get(begin..self.at).unwrap_or_default()).into_owned()
    }

    fn value(&mut self, depth: usize) -> Result<Value, RuleError> {
        if depth > MAX_DEPTH {
            return Err(RuleError::TooLarge("8 levels"));
        }
        self.skip()?;
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.quoted()?)),
            Some(b'{') => {
                self.at += 1;
                Ok(Value::Object(self.items(depth + 1, true)?))
            }
            Some(b'[') => {
                self.at += 1;
                let mut values = Vec::new();
                loop {
                    self.skip()?;
                    if self.take(b']') {
                        return Ok(Value::List(values));
                    }
                    values.push(self.value(depth + 1)?);
                    self.skip()?;
                    if !self.take(b',') && self.peek() != Some(b']') {
                        return self.error("a list wants commas between its values, and ] at its end");
                    }
                }
            }
            Some(b'<') if self.rest().starts_with(b"<<") => self.heredoc(),
            // Numbers, true, false, null.
            Some(b) if is_word(b) || b == b'+' => {
                self.at += 1;
                let _ = self.word();
                Ok(Value::Other)
            }
            _ => self.error("a value is expected here"),
        }
    }

    /// `<<EOF` and the lines up to that word.
    fn heredoc(&mut self) -> Result<Value, RuleError> {
        self.at += 2;
        let _ = self.take(b'-');
        let mark = self.word();
        self.line();
        self.at += 1;
        let begin = self.at;
        while !mark.is_empty() && self.at < self.text.len() {
            let line = self.at;
            self.line();
            let text = self.text.get(line..self.at).unwrap_or_default();
            if text.trim_ascii() == mark.as_bytes() {
                let text = self.text.get(begin..line).unwrap_or_default();
                return Ok(Value::Text(String::from_utf8_lossy(text).into_owned()));
            }
            self.at += 1;
        }
        self.error("a text (<<) is not closed")
    }

    /// A text in quotes; line ends are not part of one.
    fn quoted(&mut self) -> Result<String, RuleError> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let Some(b) = self.peek() else { return self.error("a text is not closed") };
            self.at += 1;
            match b {
                b'"' => match String::from_utf8(out) {
                    Ok(text) => return Ok(text),
                    Err(_) => return self.error("a text is not UTF-8"),
                },
                b'\n' => return self.error("a text is not closed on its line"),
                b'\\' => {
                    let Some(b) = self.peek() else { return self.error("a text is not closed") };
                    self.at += 1;
                    match b {
                        b'n' => out.push(b'\n'),
                        b't' => out.push(b'\t'),
                        b'r' => out.push(b'\r'),
                        b'b' => out.push(8),
                        b'f' => out.push(12),
                        b'"' | b'\\' | b'/' => out.push(b),
                        b'u' => {
                            let c = self.escape()?;
                            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                        }
                        _ => return self.error("an unknown escape in a text"),
                    }
                }
                b => out.push(b),
            }
        }
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    /// What follows `\u`, surrogate pairs too.
    fn escape(&mut self) -> Result<char, RuleError> {
        let Some(first) = self.hex4() else { return self.error("\\u wants four hexadecimal digits") };
        let code = match first {
            0xD800..=0xDBFF if self.rest().starts_with(b"\\u") => {
                self.at += 2;
                match self.hex4() {
                    Some(second @ 0xDC00..=0xDFFF) => 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00),
                    _ => return self.error("half a character"),
                }
            }
            code => code,
        };
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.error("half a character"),
        }
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(rules: &Ruleset, kind: Kind, name: &str) -> Option<Access> {
        rules.exact.get(&kind).and_then(|t| t.get(name)).copied()
    }

    fn prefix(rules: &Ruleset, kind: Kind, name: &str) -> Option<Access> {
        rules.prefix.get(&kind).and_then(|t| t.get(name)).copied()
    }

    /// The same rules in each way that they may be written.
    #[test]
    fn hcl_and_json_say_the_same() {
        let texts = [
            "# comment\nkey \"a/b\" { policy = \"read\" } // more\nkey_prefix \"\" { policy = \"list\" }\n/* long\n */ operator = \"write\"",
            "key = { \"a/b\" = { policy = \"read\" } }\nkey_prefix = { \"\" { policy = \"list\" } } operator=\"write\"",
            r#"{"key": {"a/b": {"policy": "read"}}, "key_prefix": {"": {"policy": "list"}}, "operator": "write"}"#,
            r#"{"key": [{"a/b": [{"policy": "read"}]}], "key_prefix": {"": {"policy": "list"}}, "operator": "write",}"#,
            "key \"a/b\" {\n  policy = \"read\"\n}\nkey_prefix \"\" {\n  policy = \"list\"\n}\noperator = \"write\"\nmesh = \"read\"\n",
        ];
        for text in texts {
            let rules = Ruleset::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(exact(&rules, Kind::Key, "a/b"), Some(Access::Read), "{text}");
            assert_eq!(prefix(&rules, Kind::Key, ""), Some(Access::List), "{text}");
            assert_eq!(rules.operator, Some(Access::Write), "{text}");
            assert_eq!(rules.acl, None, "{text}");
        }
    }

    #[test]
    fn every_word_of_the_language() {
        for (block, kind, is_prefix) in Kind::BLOCKS {
            let rules = Ruleset::parse(&format!("{block} \"x\" {{ policy = \"deny\" }}")).unwrap();
            let found = if is_prefix { prefix(&rules, kind, "x") } else { exact(&rules, kind, "x") };
            assert_eq!(found, Some(Access::Deny), "{block}");
        }
        let rules = Ruleset::parse("acl = \"read\" keyring = \"write\" operator = \"deny\"").unwrap();
        assert_eq!(
            (rules.acl, rules.keyring, rules.operator),
            (Some(Access::Read), Some(Access::Write), Some(Access::Deny))
        );
        let rules = Ruleset::parse("service \"web\" { policy = \"read\" intentions = \"write\" }").unwrap();
        assert_eq!(exact(&rules, Kind::Intention, "web"), Some(Access::Write));
        assert_eq!(Ruleset::parse(""), Ok(Ruleset::default()));
        assert_eq!(Ruleset::parse("{}"), Ok(Ruleset::default()));
        assert_eq!(Ruleset::parse(GLOBAL_MANAGEMENT).unwrap().everything(Kind::Key), Some(Access::Write));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "key \"a\" { policy = \"reed\" }",
            "key \"a\" { }",
            "key \"a\" { policy = 7 }",
            "service \"a\" { policy = \"list\" }",
            "service \"a\" { policy = \"read\" intentions = \"no\" }",
            "operator = \"list\"",
            "operator { policy = \"read\" }",
            "key { policy = \"read\" }",
            "key \"a\" \"b\" { policy = \"read\" }",
            "key \"a\" { policy = \"read\"",
            "key \"a { policy = \"read\" }",
            "key \"a\" { policy = \"read\" } }",
            "= \"read\"",
            "{\"key\": }",
            "{\"key\": [1",
            "/* open",
            "a = <<EOF\nx",
            "key \"\\ud800\" { policy = \"read\" }",
            "key \"\\x\" { policy = \"read\" }",
        ] {
            assert!(Ruleset::parse(text).is_err(), "{text}");
        }
        let deep = "a = ".to_owned() + &"[".repeat(100_000);
        assert!(matches!(Ruleset::parse(&deep), Err(RuleError::TooLarge(_))));
        let deep = "a { ".repeat(100_000);
        assert!(matches!(Ruleset::parse(&deep), Err(RuleError::TooLarge(_))));
    }

    #[test]
    fn escapes_are_characters() {
        let rules = Ruleset::parse(r#"key "\u00e9\ud83d\ude00\"\\\n" { policy = "read" }"#).unwrap();
        assert_eq!(exact(&rules, Kind::Key, "\u{e9}\u{1f600}\"\\\n"), Some(Access::Read));
    }

    #[test]
    fn for_the_same_name_deny_goes_before_write_before_list_before_read() {
        let order = [Access::Read, Access::List, Access::Write, Access::Deny];
        for (at, low) in order.into_iter().enumerate() {
            for high in &order[at..] {
                for (first, second) in [(low, *high), (*high, low)] {
                    let mut rules = Ruleset::default();
                    rules.put(Kind::Key, true, "a", first);
                    let mut other = Ruleset::default();
                    other.put(Kind::Key, true, "a", second);
                    rules.merge(&other);
                    assert_eq!(prefix(&rules, Kind::Key, "a"), Some(*high));
                }
            }
        }
        let (mut one, other) = (Ruleset::parse("acl = \"write\"").unwrap(), Ruleset::parse("acl = \"deny\"").unwrap());
        one.merge(&other);
        one.merge(&Ruleset::parse("acl = \"write\"").unwrap());
        assert_eq!(one.acl, Some(Access::Deny));
    }
}
