//! The filter language (`?filter=Node.Meta.env == "prod" and "web" in Service.Tags`): parsing, checking of selectors against what
//! is listed, and evaluation on rendered JSON. Texts are go-bexpr's as far as a user meets them.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::failure::Failure;
use super::shape::Shape;
use super::shape::Shape::{Bool, Fields, Int, List, Map, Text};

/// Longest expression, in bytes.
const MAX_LENGTH: usize = 8 * 1024;
/// Deepest nesting of `not` and parentheses.
const MAX_DEPTH: u32 = 64;

/// Why an expression is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("Failed to create boolean expression evaluator: 1:{} ({offset}): no match found, expected: {expected}", offset + 1)]
    Syntax { offset: usize, expected: &'static str },
    #[error("Failed to create boolean expression evaluator: Selector {0:?} is not valid")]
    Selector(String),
    #[error(
        "Failed to create boolean expression evaluator: Invalid match operator {operator:?} for selector {selector:?}"
    )]
    Operator { operator: &'static str, selector: String },
    #[error("Failed to create boolean expression evaluator: Failed to compile regular expression {text:?}: {why}")]
    Regex { text: String, why: String },
    #[error("Failed to create boolean expression evaluator: {text:?} is no {wanted} for selector {selector:?}")]
    Coerce { text: String, wanted: &'static str, selector: String },
    #[error("Failed to create boolean expression evaluator: the expression is longer than {MAX_LENGTH} bytes")]
    TooLong,
    #[error("Failed to create boolean expression evaluator: the expression is nested more than {MAX_DEPTH} deep")]
    TooDeep,
}

impl From<FilterError> for Failure {
    fn from(error: FilterError) -> Self {
        Self::internal(error.to_string())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    In,
    NotIn,
    Empty,
    NotEmpty,
    Matches,
    NotMatches,
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Self::Equal => "Equal",
            Self::NotEqual => "Not Equal",
            Self::In => "In",
            Self::NotIn => "Not In",
            Self::Empty => "Is Empty",
            Self::NotEmpty => "Is Not Empty",
            Self::Matches => "Matches",
            Self::NotMatches => "Not Matches",
        }
    }

    fn negative(self) -> bool {
        matches!(self, Self::NotEqual | Self::NotIn | Self::NotEmpty | Self::NotMatches)
    }
}

#[derive(Debug, Clone)]
struct Match {
    path: Vec<String>,
    op: Op,
    value: String,
    regex: Option<Regex>,
}

#[derive(Debug, Clone)]
enum Expr {
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Match(Match),
}

/// A parsed expression.
#[derive(Debug, Clone)]
pub(crate) struct Filter(Expr);

impl Filter {
    /// Reads an expression.
    pub(crate) fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > MAX_LENGTH {
            return Err(FilterError::TooLong);
        }
        let mut parser = Parser { text, at: 0 };
        parser.space();
        let expr = parser.or(0)?;
        parser.space();
        if parser.at < text.len() {
            return Err(parser.wrong("\"and\", \"or\", [ \\t\\r\\n] or EOF"));
        }
        Ok(Self(expr))
    }

    /// Whether every selector can point at something of this shape, with an operator that fits.
    pub(crate) fn check(&self, shape: &Shape) -> Result<(), FilterError> {
        self.0.check(shape)
    }

    /// Whether a rendered entry passes.
    pub(crate) fn matches(&self, entry: &Value) -> bool {
        self.0.matches(entry)
    }
}

impl Expr {
    fn check(&self, shape: &Shape) -> Result<(), FilterError> {
        match self {
            Self::And(all) | Self::Or(all) => all.iter().try_for_each(|e| e.check(shape)),
            Self::Not(expr) => expr.check(shape),
            Self::Match(m) => m.check(shape),
        }
    }

    fn matches(&self, entry: &Value) -> bool {
        match self {
            Self::And(all) => all.iter().all(|e| e.matches(entry)),
            Self::Or(any) => any.iter().any(|e| e.matches(entry)),
            Self::Not(expr) => !expr.matches(entry),
            Self::Match(m) => m.at(Some(entry), &m.path),
        }
    }
}

impl Match {
    fn selector(&self) -> String {
        self.path.join(".")
    }

    fn check(&self, shape: &Shape) -> Result<(), FilterError> {
        let mut shape = *shape;
        for name in &self.path {
            while let List(inner @ Fields(_)) = shape {
                shape = *inner;
            }
            shape = match shape {
                Fields(fields) => match fields.iter().find(|(n, _)| n == name) {
                    Some((_, inner)) => *inner,
                    None => return Err(FilterError::Selector(self.selector())),
                },
                Map(inner) => *inner,
                _ => return Err(FilterError::Selector(self.selector())),
            };
        }
        let fits = match shape {
            Text => !matches!(self.op, Op::Empty | Op::NotEmpty),
            Int | Bool => matches!(self.op, Op::Equal | Op::NotEqual),
            Map(_) | List(Text) => matches!(self.op, Op::In | Op::NotIn | Op::Empty | Op::NotEmpty),
            List(_) => matches!(self.op, Op::Empty | Op::NotEmpty),
            Fields(_) => false,
        };
        if !fits {
            return Err(FilterError::Operator { operator: self.op.name(), selector: self.selector() });
        }
        let coerce = |wanted| FilterError::Coerce { text: self.value.clone(), wanted, selector: self.selector() };
        match shape {
            Int if self.value.parse::<i64>().is_err() => Err(coerce("number")),
            Bool if super::query::parse_bool(&self.value).is_none() => Err(coerce("boolean")),
            _ => Ok(()),
        }
    }

    /// Follows the path; a list of entries passes where one of them does, a key that is not there counts as not equal and empty.
    fn at(&self, value: Option<&Value>, path: &[String]) -> bool {
        match (value, path.split_first()) {
            (Some(Value::Array(entries)), Some(_)) => entries.iter().any(|e| self.at(Some(e), path)),
            (Some(Value::Object(fields)), Some((name, rest))) => self.at(fields.get(name), rest),
            (Some(_) | None, Some(_)) => self.absent(),
            (None, None) => self.absent(),
            (Some(value), None) => self.test(value),
        }
    }

    fn absent(&self) -> bool {
        matches!(self.op, Op::NotEqual | Op::NotIn | Op::Empty | Op::NotMatches)
    }

    fn test(&self, value: &Value) -> bool {
        let holds = match self.op {
            Op::Equal | Op::NotEqual => match value {
                Value::String(s) => *s == self.value,
                Value::Number(n) => self.value.parse::<i64>().ok() == n.as_i64(),
                Value::Bool(b) => super::query::parse_bool(&self.value) == Some(*b),
                _ => false,
            },
            Op::In | Op::NotIn => match value {
                Value::String(s) => s.contains(&self.value),
                Value::Array(entries) => entries.iter().any(|e| e.as_str() == Some(&self.value)),
                Value::Object(fields) => fields.contains_key(&self.value),
                _ => false,
            },
            Op::Empty | Op::NotEmpty => match value {
                Value::Array(entries) => entries.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::String(s) => s.is_empty(),
                _ => true,
            },
            Op::Matches | Op::NotMatches => {
                value.as_str().is_some_and(|s| self.regex.as_ref().is_some_and(|r| r.is_match(s)))
            }
        };
        holds != self.op.negative()
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong(&self, expected: &'static str) -> FilterError {
        FilterError::Syntax { offset: self.at, expected }
    }

    /// Skips white space; whether there was any.
    fn space(&mut self) -> bool {
        let rest = self.rest();
        let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.at += rest.len() - trimmed.len();
        trimmed.len() < rest.len()
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Takes a word that ends at white space, with white space before it; restores the place where it is not there.
    fn words(&mut self, words: &[&str]) -> bool {
        let start = self.at;
        for word in words {
            let spaced = self.space();
            let ends = self
                .rest()
                .strip_prefix(word)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n', '(', ')']));
            if !spaced || !ends {
                self.at = start;
                return false;
            }
            self.at += word.len();
        }
        true
    }

    fn or(&mut self, depth: u32) -> Result<Expr, FilterError> {
        let mut any = vec![self.and(depth)?];
        while self.words(&["or"]) {
            self.need_space()?;
            any.push(self.and(depth)?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Expr::Or(any) })
    }

    fn and(&mut self, depth: u32) -> Result<Expr, FilterError> {
        let mut all = vec![self.not(depth)?];
        while self.words(&["and"]) {
            self.need_space()?;
            all.push(self.not(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expr::And(all) })
    }

    fn need_space(&mut self) -> Result<(), FilterError> {
        if self.space() || self.rest().starts_with('(') { Ok(()) } else { Err(self.wrong("[ \\t\\r\\n]")) }
    }

    fn not(&mut self, depth: u32) -> Result<Expr, FilterError> {
        if depth >= MAX_DEPTH {
            return Err(FilterError::TooDeep);
        }
        if self.rest().strip_prefix("not").is_some_and(|r| r.starts_with([' ', '\t', '\r', '\n', '('])) {
            self.at += 3;
            self.space();
            return Ok(Expr::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.take("(") {
            self.space();
            let expr = self.or(depth + 1)?;
            self.space();
            return if self.take(")") { Ok(expr) } else { Err(self.wrong("\")\", \"and\", \"or\" or [ \\t\\r\\n]")) };
        }
        self.comparison().map(Expr::Match)
    }

    fn comparison(&mut self) -> Result<Match, FilterError> {
        let start = self.at;
        if let Some(path) = self.selector()? {
            if let Some(op) = self.infix() {
                self.space();
                let value = self.value()?;
                return build(path, op, value);
            }
            if self.words(&["is", "empty"]) {
                return build(path, Op::Empty, String::new());
            }
            if self.words(&["is", "not", "empty"]) {
                return build(path, Op::NotEmpty, String::new());
            }
            self.at = start;
        }
        let value = self.value()?;
        let op = if self.words(&["in"]) {
            Op::In
        } else if self.words(&["not", "in"]) {
            Op::NotIn
        } else {
            return Err(self.wrong("\"!=\", \".\", \"==\", \"[\", [ \\t\\r\\n] or [a-zA-Z0-9_]"));
        };
        self.space();
        match self.selector()? {
            Some(path) => build(path, op, value),
            None => Err(self.wrong("[a-zA-Z]")),
        }
    }

    /// An operator with a value behind it.
    fn infix(&mut self) -> Option<Op> {
        let start = self.at;
        self.space();
        for (token, op) in [("==", Op::Equal), ("!=", Op::NotEqual)] {
            if self.take(token) {
                return Some(op);
            }
        }
        self.at = start;
        [
            (&["contains"] as &[&str], Op::In),
            (&["not", "contains"], Op::NotIn),
            (&["matches"], Op::Matches),
            (&["not", "matches"], Op::NotMatches),
        ]
        .into_iter()
        .find_map(|(words, op)| self.words(words).then_some(op))
    }

    fn identifier(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let name = rest.get(..len)?;
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        self.at += len;
        Some(name)
    }

    /// `Name.Name["any text"]`; `None` where none begins here.
    fn selector(&mut self) -> Result<Option<Vec<String>>, FilterError> {
        let Some(first) = self.identifier() else { return Ok(None) };
        let mut path = vec![first.to_owned()];
        loop {
            if self.take(".") {
                match self.identifier() {
                    Some(name) => path.push(name.to_owned()),
                    None => return Err(self.wrong("[a-zA-Z]")),
                }
            } else if self.take("[") {
                self.space();
                match self.quoted()? {
                    Some(text) => path.push(text),
                    None => return Err(self.wrong("\"\\\"\", \"`\" or [ \\t\\r\\n]")),
                }
                self.space();
                if !self.take("]") {
                    return Err(self.wrong("\"]\" or [ \\t\\r\\n]"));
                }
            } else {
                return Ok(Some(path));
            }
        }
    }

    /// A text in quotes or backquotes; `None` where none begins here.
    fn quoted(&mut self) -> Result<Option<String>, FilterError> {
        let rest = self.rest();
        if let Some(inner) = rest.strip_prefix('`') {
            let Some(len) = inner.find('`') else { return Err(self.wrong("\"`\"")) };
            self.at += len + 2;
            return Ok(inner.get(..len).map(str::to_owned));
        }
        let Some(inner) = rest.strip_prefix('"') else { return Ok(None) };
        let mut out = String::new();
        let mut chars = inner.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 2;
                    return Ok(Some(out));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, 'r')) => out.push('\r'),
                    Some((_, c @ ('"' | '\\'))) => out.push(c),
                    // Regular expressions are full of these; Go would refuse them, to nobody's use.
                    Some((_, c)) => out.extend(['\\', c]),
                    None => break,
                },
                c => out.push(c),
            }
        }
        Err(self.wrong("\"\\\"\""))
    }

    /// A word, a number or a quoted text.
    fn value(&mut self) -> Result<String, FilterError> {
        if let Some(text) = self.quoted()? {
            return Ok(text);
        }
        if let Some(path) = self.selector()? {
            return Ok(path.join("."));
        }
        let rest = self.rest();
        let len = rest.find(|c: char| !(c.is_ascii_digit() || c == '-' || c == '.')).unwrap_or(rest.len());
        let number = rest.get(..len).unwrap_or_default();
        if number.parse::<f64>().is_err() {
            return Err(self.wrong("\"-\", \"0\", \"\\\"\", \"`\", [ \\t\\r\\n], [1-9] or [a-zA-Z]"));
        }
        self.at += len;
        Ok(number.to_owned())
    }
}

fn build(path: Vec<String>, op: Op, value: String) -> Result<Match, FilterError> {
    let regex = match op {
        // Bounded, so that no expression costs more than a megabyte.
        Op::Matches | Op::NotMatches => Some(RegexBuilder::new(&value).size_limit(1 << 20).build().map_err(|e| {
            FilterError::Regex { text: value.clone(), why: e.to_string().lines().last().unwrap_or_default().to_owned() }
        })?),
        _ => None,
    };
    Ok(Match { path, op, value, regex })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::shape::{NODE, SERVICE, SERVICE_HEALTH};
    use super::*;

    fn entry() -> Value {
        json!({
            "Node": {"ID": "7f", "Node": "s1", "Address": "127.0.0.1", "Datacenter": "dc1",
                     "TaggedAddresses": {"lan": "127.0.0.1"}, "Meta": {"env": "prod", "a b": "1"}},
            "Service": {"ID": "w", "Service": "web", "Tags": ["v1", "blue"], "Port": 80, "Meta": null,
                        "EnableTagOverride": true, "TaggedAddresses": {"wan": {"Address": "1.2.3.4", "Port": 9}}},
            "Checks": [{"CheckID": "a", "Status": "passing"}, {"CheckID": "b", "Status": "critical"}],
        })
    }

    #[test]
    fn expressions() {
        for (text, holds) in [
            ("Node.Node == s1", true),
            ("Node.Node==s1", true),
            ("Node.Node != s1", false),
            ("Node.Node==`s1`", true),
            (" Node.Node == \"s1\" ", true),
            ("not Node.Node == s1", false),
            ("not not Node.Node == s1", true),
            ("(Node.Node==s1)", true),
            ("not (Node.Node==s1 and Service.Port==81)", true),
            ("Node.Meta.env == prod", true),
            ("Node.Meta[\"a b\"] == \"1\"", true),
            ("Node.Meta.none == x", false),
            ("Node.Meta.none != x", true),
            ("Node.Meta contains env", true),
            ("env in Node.Meta", true),
            ("\"x y\" not in Node.Meta", true),
            ("Service.Meta is empty", true),
            ("Service.Tags is not empty", true),
            ("v1 in Service.Tags", true),
            ("\"v\" in Service.Tags", false),
            ("Service.Tags not contains green", true),
            ("Service.Port == 80", true),
            ("Service.Port != 80", false),
            ("Service.EnableTagOverride == true", true),
            ("Service.TaggedAddresses.wan.Port == 9", true),
            ("Node.Node contains s", true),
            ("1 in Node.Node", true),
            ("Node.ID matches \"^[0-9a-f-]+$\"", true),
            ("Node.ID not matches `^x\\d`", true),
            ("Checks.Status == critical", true),
            ("Checks.Status == warning", false),
            ("Checks is not empty", true),
            ("Node.Node == s2 or Service.Service == web and Service.Port == 80", true),
            ("(Node.Node == s1 or Service.Service == web) and Service.Port == 81", false),
            ("Node.Address == \"127.0.0.1\"", true),
        ] {
            let filter = Filter::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            filter.check(&SERVICE_HEALTH).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(filter.matches(&entry()), holds, "{text}");
        }
    }

    #[test]
    fn refusals() {
        let refuse = |text: &str| {
            Filter::parse(text).and_then(|f| f.check(&NODE)).map(|()| format!("{text} passed")).unwrap_err().to_string()
        };
        for (text, why) in [
            (
                "Node==",
                "1:7 (6): no match found, expected: \"-\", \"0\", \"\\\"\", \"`\", [ \\t\\r\\n], [1-9] or [a-zA-Z]",
            ),
            ("Node", "1:5 (4): no match found, expected: \"!=\", \".\", \"==\", \"[\", [ \\t\\r\\n] or [a-zA-Z0-9_]"),
            ("Meta.a==b and", "1:14 (13): no match found, expected: [ \\t\\r\\n]"),
            ("Node == \"a\" b", "1:13 (12): no match found, expected: \"and\", \"or\", [ \\t\\r\\n] or EOF"),
            ("Foo==a", "Selector \"Foo\" is not valid"),
            ("Meta.x.y == 2", "Selector \"Meta.x.y\" is not valid"),
            ("node == s1", "Selector \"node\" is not valid"),
            ("Node in s1", "Selector \"s1\" is not valid"),
            ("Node is empty", "Invalid match operator \"Is Empty\" for selector \"Node\""),
            ("Node matches \"[\"", "Failed to compile regular expression \"[\""),
            ("!Node==s1", "1:1 (0)"),
            ("(Node==s1", "expected: \")\""),
            ("", "1:1 (0)"),
            ("Meta[x] == 1", "1:6 (5)"),
        ] {
            let text = refuse(text);
            assert!(
                text.starts_with("Failed to create boolean expression evaluator: ") && text.contains(why),
                "{text}"
            );
        }
        let port = Filter::parse("Port == abc").unwrap().check(&SERVICE).unwrap_err();
        assert!(matches!(port, FilterError::Coerce { .. }));
    }

    #[test]
    fn depth_and_length_are_bounded() {
        assert_eq!(Filter::parse(&"(".repeat(7_000)).unwrap_err(), FilterError::TooDeep);
        assert_eq!(Filter::parse(&"not ".repeat(1_000)).unwrap_err(), FilterError::TooDeep);
        assert_eq!(Filter::parse(&"x".repeat(10_000)).unwrap_err(), FilterError::TooLong);
        let long = vec!["Node == s1"; 500].join(" or ");
        assert!(Filter::parse(&long).is_ok());
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a seeded source")]
    fn garbage_never_panics() {
        use rand::{Rng, SeedableRng};
        let words = [
            "Node", "==", "!=", " ", "(", ")", "not", "and", "or", "\"", "`", "in", "is", "empty", "é", "[", "]", ".",
            "5", "matches",
        ];
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        for _ in 0..50_000 {
            let text: String = (0..rng.random_range(0..12)).map(|_| words[rng.random_range(0..words.len())]).collect();
            if let Ok(filter) = Filter::parse(&text) {
                let _ = filter.check(&NODE);
                filter.matches(&entry());
            }
        }
    }
}
