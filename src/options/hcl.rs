//! HCL 1, the language of Consul's `.hcl` files, into the values that JSON gives. HCL 2 is another language: it refuses quoted keys,
//! two members on one line and blocks in a list, which files written for Consul have.
//!
//! Where a key is said twice: objects become a list, lists append, anything else is what was said last.

use serde_json::{Map, Number, Value};

/// How deep objects and lists may be in each other; Consul's own files need six.
const DEEPEST: usize = 64;

/// Why a text is not HCL, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct HclError {
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
    /// What is wrong there.
    pub what: String,
}

/// Reads a file's text. One that begins with `{` is JSON, as for Consul.
pub fn parse(text: &str) -> Result<Value, HclError> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|e| {
            let what = e.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            HclError {
                line: e.line(),
                column: e.column(),
                what: format!("not JSON, which the first {{ says it is: {what}"),
            }
        });
    }
    let mut parser = Parser { lexer: Lexer { text, at: 0 }, ahead: None };
    let object = parser.members(None, 0)?;
    Ok(Value::Object(object))
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Literal(Value),
    Assign,
    Comma,
    OpenObject,
    CloseObject,
    OpenList,
    CloseList,
    End,
}

impl Token {
    fn describe(&self) -> String {
        match self {
            Self::Word(word) => format!("the word {word}"),
            Self::Text(text) => format!("the text {text:?}"),
            Self::Literal(value) => value.to_string(),
            Self::Assign => "=".to_owned(),
            Self::Comma => "a comma".to_owned(),
            Self::OpenObject => "{".to_owned(),
            Self::CloseObject => "}".to_owned(),
            Self::OpenList => "[".to_owned(),
            Self::CloseList => "]".to_owned(),
            Self::End => "the end of the file".to_owned(),
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    /// Byte that is read next; always at the beginning of a character.
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Takes characters while they fit.
    fn run(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !fits(c)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn error(&self, at: usize, what: impl Into<String>) -> HclError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        HclError { line, column, what: what.into() }
    }

    fn skip_blank(&mut self) -> Result<(), HclError> {
        loop {
            self.run(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
            let rest = self.rest();
            if rest.starts_with('#') || rest.starts_with("//") {
                self.run(|c| c != '\n');
            } else if rest.starts_with("/*") {
                let length = rest.find("*/").ok_or_else(|| self.error(self.at, "this comment is not ended with */"))?;
                self.at += length + 2;
            } else {
                return Ok(());
            }
        }
    }

    /// The next token and where it begins.
    fn next(&mut self) -> Result<(Token, usize), HclError> {
        self.skip_blank()?;
        let start = self.at;
        let Some(c) = self.peek() else { return Ok((Token::End, start)) };
        let simple = match c {
            '=' => Some(Token::Assign),
            ',' => Some(Token::Comma),
            '{' => Some(Token::OpenObject),
            '}' => Some(Token::CloseObject),
            '[' => Some(Token::OpenList),
            ']' => Some(Token::CloseList),
            _ => None,
        };
        if let Some(token) = simple {
            self.take();
            return Ok((token, start));
        }
        let token = match c {
            '"' => Token::Text(self.string()?),
            '<' => Token::Text(self.heredoc()?),
            '0'..='9' | '-' | '.' => Token::Literal(self.number()?),
            c if c == '_' || c.is_alphabetic() => {
                let word = self.run(|c| matches!(c, '_' | '-' | '.') || c.is_alphanumeric());
                match word {
                    "true" => Token::Literal(Value::Bool(true)),
                    "false" => Token::Literal(Value::Bool(false)),
                    word => Token::Word(word.to_owned()),
                }
            }
            ':' => return Err(self.error(start, "a key and its value are joined by =, not by a colon")),
            '\u{feff}' => return Err(self.error(start, "the file begins with a byte order mark: save it without")),
            c => return Err(self.error(start, format!("{c:?} means nothing here; text is written in double quotes"))),
        };
        Ok((token, start))
    }

    fn number(&mut self) -> Result<Value, HclError> {
        let start = self.at;
        let mut last = ' ';
        let mut sign_fits = true;
        let rest = self.rest();
        let length = rest
            .find(|c: char| {
                let hex =
                    rest.trim_start_matches('-').starts_with("0x") || rest.trim_start_matches('-').starts_with("0X");
                let fits = c.is_ascii_alphanumeric()
                    || matches!(c, '.' | '_')
                    || (matches!(c, '-' | '+') && (sign_fits || (!hex && matches!(last, 'e' | 'E'))));
                sign_fits = false;
                last = c;
                !fits
            })
            .unwrap_or(rest.len());
        self.at += length;
        let text = rest.get(..length).unwrap_or_default();
        let wrong = || self.error(start, format!("{text} is not a number; text is written in double quotes"));
        let (minus, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let radix = match digits.as_bytes() {
            [b'0', b'x' | b'X', ..] => Some((16, digits.get(2..).unwrap_or_default())),
            [b'0', rest @ ..] if !rest.is_empty() && rest.iter().all(u8::is_ascii_digit) => {
                Some((8, digits.get(1..).unwrap_or_default()))
            }
            [_, ..] if digits.bytes().all(|b| b.is_ascii_digit()) => Some((10, digits)),
            _ => None,
        };
        if let Some((radix, digits)) = radix {
            // With its sign, so that the smallest number can be said; a second sign is refused.
            let signed = if minus { format!("-{digits}") } else { digits.to_owned() };
            let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
            let n = i64::from_str_radix(&signed, radix).ok().filter(|_| plain);
            return n.map(Value::from).ok_or_else(wrong);
        }
        let plain = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
        let n: f64 = text.parse().ok().filter(|n: &f64| plain && n.is_finite()).ok_or_else(wrong)?;
        // Whole ones can stand where a whole number is wanted; beyond 2^53 a float does not say which one it is.
        if n.fract() == 0.0 && n.abs() < 9e15 {
            return Ok(Value::from(n as i64));
        }
        Number::from_f64(n).map(Value::Number).ok_or_else(wrong)
    }

    fn string(&mut self) -> Result<String, HclError> {
        let start = self.at;
        self.take();
        // Bytes: `\x` and octal escapes say single ones.
        let mut out: Vec<u8> = Vec::new();
        let push = |c: char, out: &mut Vec<u8>| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        // Inside `${ }` everything stands for itself, quotes and line ends too.
        let mut braces = 0usize;
        loop {
            let at = self.at;
            let Some(c) = self.take() else {
                return Err(self.error(start, "this text is not ended with a double quote"));
            };
            if braces > 0 {
                match c {
                    '{' => braces += 1,
                    '}' => braces -= 1,
                    _ => {}
                }
                push(c, &mut out);
                continue;
            }
            match c {
                '"' => break,
                '\n' => return Err(self.error(start, "this text is not ended with a double quote on its line")),
                '$' if self.peek() == Some('{') => {
                    self.take();
                    braces = 1;
                    out.extend_from_slice(b"${");
                }
                '\\' => self.escape(at, &mut out)?,
                c => push(c, &mut out),
            }
        }
        String::from_utf8(out).map_err(|_| self.error(start, "the escapes in this text make no UTF-8"))
    }

    fn escape(&mut self, at: usize, out: &mut Vec<u8>) -> Result<(), HclError> {
        let wrong = |lexer: &Self| lexer.error(at, "an escape is \\n, \\t, \\\", \\\\, \\xHH, \\uHHHH or of that kind");
        let c = self.take().ok_or_else(|| wrong(self))?;
        let simple = match c {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '"' => Some(c as u8),
            _ => None,
        };
        if let Some(byte) = simple {
            out.push(byte);
            return Ok(());
        }
        let (radix, digits) = match c {
            '0'..='7' => {
                self.at -= 1;
                (8, 3)
            }
            'x' => (16, 2),
            'u' => (16, 4),
            'U' => (16, 8),
            _ => return Err(wrong(self)),
        };
        let mut n = 0u32;
        for _ in 0..digits {
            let digit = self.peek().and_then(|c| c.to_digit(radix)).ok_or_else(|| wrong(self))?;
            self.take();
            n = n.checked_mul(radix).and_then(|n| n.checked_add(digit)).ok_or_else(|| wrong(self))?;
        }
        if digits <= 3 {
            out.push(u8::try_from(n).map_err(|_| wrong(self))?);
        } else {
            let c = char::from_u32(n).ok_or_else(|| wrong(self))?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }

    /// `<<NAME`, lines, a line with the name alone. With `<<-` what stands before the name there is taken off each line, if all have it.
    fn heredoc(&mut self) -> Result<String, HclError> {
        let start = self.at;
        let Some(rest) = self.rest().strip_prefix("<<") else {
            return Err(self.error(start, "'<' means nothing here; text of many lines begins with <<NAME"));
        };
        let (first, body) = rest.split_once('\n').unwrap_or((rest, ""));
        let (indented, name) = first.strip_prefix('-').map_or((false, first), |name| (true, name));
        let name = name.trim_end_matches('\r');
        if name.is_empty() || !name.chars().all(|c| c == '_' || c.is_alphanumeric()) {
            return Err(self.error(start, "<< is followed by a name and the end of the line"));
        }
        let mut length = 0;
        for line in body.split_inclusive('\n') {
            let bare = line.trim_end_matches(['\n', '\r']);
            let prefix = bare.strip_suffix(name).filter(|prefix| prefix.chars().all(char::is_whitespace));
            let Some(prefix) = prefix else {
                length += line.len();
                continue;
            };
            let text = body.get(..length).unwrap_or_default();
            let whole = body.get(..length + prefix.len()).unwrap_or_default();
            self.at += 2 + first.len() + 1 + length + bare.len();
            if indented && text.split_inclusive('\n').all(|line| line.starts_with(prefix)) {
                return Ok(text.split_inclusive('\n').filter_map(|line| line.strip_prefix(prefix)).collect());
            }
            // As Consul does, with what stands before the name.
            return Ok(if indented { text } else { whole }.to_owned());
        }
        Err(self.error(start, format!("this text is not ended with a line that says {name}")))
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    ahead: Option<(Token, usize)>,
}

impl Parser<'_> {
    fn next(&mut self) -> Result<(Token, usize), HclError> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.lexer.next(),
        }
    }

    fn deeper(&self, depth: usize, at: usize) -> Result<usize, HclError> {
        if depth >= DEEPEST {
            return Err(self.lexer.error(at, format!("more than {DEEPEST} objects and lists in each other")));
        }
        Ok(depth + 1)
    }

    /// Members up to the closing brace of the one that opened (`None`: the end of the file).
    fn members(&mut self, opened: Option<usize>, depth: usize) -> Result<Map<String, Value>, HclError> {
        let mut object = Map::new();
        loop {
            let (token, at) = self.next()?;
            match (token, opened) {
                (Token::End, None) | (Token::CloseObject, Some(_)) => return Ok(object),
                (Token::End, Some(opened)) => return Err(self.lexer.error(opened, "this { has no }")),
                (Token::Word(key) | Token::Text(key), _) => {
                    let value = self.member(depth)?;
                    put(&mut object, key, value);
                    let next = self.next()?;
                    if next.0 != Token::Comma {
                        self.ahead = Some(next);
                    }
                }
                (token, _) => {
                    return Err(self.lexer.error(at, format!("a key is expected here, not {}", token.describe())));
                }
            }
        }
    }

    /// What follows a key: `= value`, `{ ... }`, or further keys and `{ ... }`.
    fn member(&mut self, depth: usize) -> Result<Value, HclError> {
        let mut more = Vec::new();
        loop {
            let (token, at) = self.next()?;
            let object = match token {
                Token::Assign if more.is_empty() => return self.value(depth),
                Token::OpenObject => self.members(Some(at), self.deeper(depth, at)?)?,
                Token::Word(key) | Token::Text(key) => {
                    self.deeper(depth + more.len(), at)?;
                    more.push(key);
                    continue;
                }
                token => {
                    return Err(self
                        .lexer
                        .error(at, format!("= or {{ is expected after a key, not {}", token.describe())));
                }
            };
            let wrap = |inner, key| Value::Object(Map::from_iter([(key, inner)]));
            return Ok(more.into_iter().rev().fold(Value::Object(object), wrap));
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, HclError> {
        let (token, at) = self.next()?;
        self.value_of(token, at, depth)
    }

    fn value_of(&mut self, token: Token, at: usize, depth: usize) -> Result<Value, HclError> {
        match token {
            Token::Text(text) => Ok(Value::String(text)),
            Token::Literal(value) => Ok(value),
            Token::OpenObject => Ok(Value::Object(self.members(Some(at), self.deeper(depth, at)?)?)),
            Token::OpenList => self.list(at, self.deeper(depth, at)?),
            Token::Word(word) => {
                Err(self.lexer.error(at, format!("{word} is no value; text is written in double quotes")))
            }
            token => Err(self.lexer.error(at, format!("a value is expected here, not {}", token.describe()))),
        }
    }

    fn list(&mut self, opened: usize, depth: usize) -> Result<Value, HclError> {
        let mut items = Vec::new();
        let mut comma_needed = false;
        loop {
            let (token, at) = self.next()?;
            match token {
                Token::CloseList => return Ok(Value::Array(items)),
                Token::Comma => comma_needed = false,
                Token::End => return Err(self.lexer.error(opened, "this [ has no ]")),
                Token::Text(_) | Token::Literal(_) if comma_needed => {
                    return Err(self
                        .lexer
                        .error(at, format!("a comma or ] is expected here, not {}", token.describe())));
                }
                token => {
                    items.push(self.value_of(token, at, depth)?);
                    comma_needed = true;
                }
            }
        }
    }
}

fn put(object: &mut Map<String, Value>, key: String, value: Value) {
    let merged = match (object.remove(&key), value) {
        (Some(Value::Array(mut have)), Value::Array(more)) => {
            have.extend(more);
            Value::Array(have)
        }
        (Some(Value::Array(mut have)), more @ Value::Object(_)) => {
            have.push(more);
            Value::Array(have)
        }
        (Some(have @ Value::Object(_)), more @ Value::Object(_)) => Value::Array(vec![have, more]),
        (_, value) => value,
    };
    object.insert(key, merged);
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, RngCore, SeedableRng};
    use serde_json::json;

    use super::*;

    #[test]
    fn files_of_the_field() {
        let escapes = json!({"a": "\u{7}\u{8}\u{c}\n\r\t\u{b}\\\" AA\u{e9}\u{1f600}"});
        for (text, wanted) in [
            ("", json!({})),
            ("# only a comment", json!({})),
            ("{\"a\": [1, {\"b\": null}]}", json!({"a": [1, {"b": null}]})),
            ("a = 1 b = 2", json!({"a": 1, "b": 2})),
            ("a = 1, b = true,", json!({"a": 1, "b": true})),
            ("\"datacenter\" = \"x\"", json!({"datacenter": "x"})),
            ("service = { name = \"a\" port = 80 }", json!({"service": {"name": "a", "port": 80}})),
            ("acl { tokens { agent = \"x\" } }", json!({"acl": {"tokens": {"agent": "x"}}})),
            ("node_meta { \"a\" = \"b\", \"c\" = \"d\" }", json!({"node_meta": {"a": "b", "c": "d"}})),
            (
                "checks = [{ id=\"a\" name=\"b\" } { id=\"c\" },]",
                json!({"checks": [{"id": "a", "name": "b"}, {"id": "c"}]}),
            ),
            (
                "services { name = \"a\" }\nservices { name = \"b\" }",
                json!({"services": [{"name": "a"}, {"name": "b"}]}),
            ),
            ("services = [{ n = 1 }]\nservices { n = 2 }", json!({"services": [{"n": 1}, {"n": 2}]})),
            ("a = [\"1\"] a = [\"2\"]", json!({"a": ["1", "2"]})),
            ("a = \"1\" a = \"2\"", json!({"a": "2"})),
            ("a \"b\" c { d = 1 }", json!({"a": {"b": {"c": {"d": 1}}}})),
            ("a = [] b = {} c {}", json!({"a": [], "b": {}, "c": {}})),
            ("a = [[1, 2], [\"x\",],]", json!({"a": [[1, 2], ["x"]]})),
            (
                "a = 0x1F b = 017 c = 1e3 d = -5 e = -0x10 f = 0",
                json!({"a": 31, "b": 15, "c": 1000, "d": -5, "e": -16, "f": 0}),
            ),
            ("a = 1.5 b = .5 c = 1E-1 d = 2.5e+1", json!({"a": 1.5, "b": 0.5, "c": 0.1, "d": 25})),
            ("a = -9223372036854775808", json!({"a": i64::MIN})),
            ("/* x */ a = 1 // y\n# z\nb = 2 /* over\nlines */ c = 3", json!({"a": 1, "b": 2, "c": 3})),
            ("a = <<EOF\nx\n  y\nEOF\nb = 1", json!({"a": "x\n  y\n", "b": 1})),
            ("a { b = <<-E\n    x\n      y\n    E\n c = 1 }", json!({"a": {"b": "x\n  y\n", "c": 1}})),
            ("a = <<-E\n x\ny\n  E\n", json!({"a": " x\ny\n"})),
            ("a = <<E\n  x\n  E\n", json!({"a": "  x\n  "})),
            ("a = [<<E\nx\nE\n, \"y\"]", json!({"a": ["x\n", "y"]})),
            ("a = <<E\nE", json!({"a": ""})),
            ("a = 1\r\nb {\r\n  c = \"d\"\r\n}\r\n", json!({"a": 1, "b": {"c": "d"}})),
            ("a-b_c.d = \"${x \"y\" {}}\"", json!({"a-b_c.d": "${x \"y\" {}}"})),
            ("a = \"\\a\\b\\f\\n\\r\\t\\v\\\\\\\" \\x41\\101\\u00e9\\U0001F600\"", escapes),
            ("größe = \"ü\"", json!({"größe": "ü"})),
        ] {
            assert_eq!(parse(text).map_err(|e| e.to_string()), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn errors_say_where() {
        for (text, wanted) in [
            ("a = = b", "line 1, column 5: a value is expected here, not ="),
            ("a = 1\nb = foo", "line 2, column 5: foo is no value; text is written in double quotes"),
            ("a = null", "line 1, column 5: null is no value; text is written in double quotes"),
            ("a: 1", "line 1, column 2: a key and its value are joined by =, not by a colon"),
            ("a 1", "line 1, column 3: = or { is expected after a key, not 1"),
            ("a b = 1", "line 1, column 5: = or { is expected after a key, not ="),
            ("a =", "line 1, column 4: a value is expected here, not the end of the file"),
            ("a {\n  b = 1\n", "line 1, column 3: this { has no }"),
            ("a = [1", "line 1, column 5: this [ has no ]"),
            ("a = [1 2]", "line 1, column 8: a comma or ] is expected here, not 2"),
            ("}", "line 1, column 1: a key is expected here, not }"),
            ("a = \"x\ny\"", "line 1, column 5: this text is not ended with a double quote on its line"),
            ("ü = \"x", "line 1, column 5: this text is not ended with a double quote"),
            ("a = \"\\q\"", "line 1, column 6: an escape is \\n, \\t, \\\", \\\\, \\xHH, \\uHHHH or of that kind"),
            ("a = \"\\xff\"", "line 1, column 5: the escapes in this text make no UTF-8"),
            ("a = 'x'", "line 1, column 5: '\\'' means nothing here; text is written in double quotes"),
            ("a = 08", "line 1, column 5: 08 is not a number; text is written in double quotes"),
            ("a = 10s", "line 1, column 5: 10s is not a number; text is written in double quotes"),
            (
                "a = 99999999999999999999",
                "line 1, column 5: 99999999999999999999 is not a number; text is written in double quotes",
            ),
            ("a = <<E\nx\n", "line 1, column 5: this text is not ended with a line that says E"),
            ("a = << E\nx\nE\n", "line 1, column 5: << is followed by a name and the end of the line"),
            ("a = <E", "line 1, column 5: '<' means nothing here; text of many lines begins with <<NAME"),
            ("/* x", "line 1, column 1: this comment is not ended with */"),
            ("{\n\"a\" = 1}", "line 2, column 5: not JSON, which the first { says it is: expected `:`"),
        ] {
            assert_eq!(parse(text).map_err(|e| e.to_string()), Err(wanted.to_owned()), "{text}");
        }
        let deep = |n: usize| format!("a = {}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(&deep(60)).is_ok());
        for deep in [deep(100_000), "a {".repeat(100_000), "a ".repeat(100_000)] {
            assert!(parse(&deep).unwrap_err().to_string().contains("64 objects and lists"));
        }
    }

    /// Writes a value as HCL, by chance in one of the ways there are.
    fn write(value: &Value, rng: &mut SmallRng) -> String {
        match value {
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(|v| write(v, rng)).collect();
                format!("[{}{}]", items.join(", "), if rng.random() { "," } else { "" })
            }
            Value::Object(map) => format!("{{ {} }}", members(map, rng)),
            plain => plain.to_string(),
        }
    }

    fn members(map: &Map<String, Value>, rng: &mut SmallRng) -> String {
        let mut out = String::new();
        for (key, value) in map {
            let key = if rng.random() { format!("{key:?}") } else { key.clone() };
            let join = if value.is_object() && rng.random() { "" } else { "=" };
            let end = ["\n", " ", ", ", " # x\n", " /* y */ "][rng.random_range(0..5)];
            out.push_str(&format!("{key} {join} {}{end}", write(value, rng)));
        }
        out
    }

    fn any(depth: usize, rng: &mut SmallRng) -> Value {
        match rng.random_range(0..if depth == 0 { 4 } else { 6 }) {
            0 => Value::from(rng.random::<i32>()),
            1 => Value::from(rng.random::<bool>()),
            2 => Value::from(f64::from(rng.random::<i16>()) + 0.25),
            3 => Value::from(["", "x", "a b", "\"", "\\", "\n", "ä", "{", "#"][rng.random_range(0..9)]),
            4 => (0..rng.random_range(0..4)).map(|_| any(depth - 1, rng)).collect(),
            _ => {
                let keys = ["a", "b-c", "d_e", "ports", "x9"];
                let some = keys.iter().filter(|_| rng.random());
                let some: Vec<_> = some.map(|k| (*k).to_owned()).collect();
                Value::Object(some.into_iter().map(|k| (k, any(depth - 1, rng))).collect())
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let seed = 19;
        let mut rng = SmallRng::seed_from_u64(seed);
        for _ in 0..2000 {
            let Value::Object(map) = json!({"top": any(4, &mut rng), "other": any(3, &mut rng)}) else { continue };
            let text = members(&map, &mut rng);
            assert_eq!(parse(&text), Ok(Value::Object(map)), "seed {seed}: {text}");
        }
    }

    #[test]
    fn nothing_makes_it_panic() {
        let seed = 23;
        let mut rng = SmallRng::seed_from_u64(seed);
        let pieces = [
            "a", "\"", "=", "{", "}", "[", "]", ",", "<<E\n", "<<-E\n", "\nE\n", "\n", " ", "0x", "1", "-", ".", "e",
            "\\", "${", "#", "//", "/*", "*/", "true", "\\u12", "\\777", "ü", "\u{feff}", "\0", "\r", "_",
        ];
        for _ in 0..20_000 {
            let length = rng.random_range(0..40);
            let text: String = if rng.random() {
                (0..length).map(|_| pieces[rng.random_range(0..pieces.len())]).collect()
            } else {
                let mut bytes = vec![0; length];
                rng.fill_bytes(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            };
            // Lines and columns are within the text, whatever it is.
            if let Err(error) = parse(&text) {
                assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1, "seed {seed}: {text:?}");
            }
        }
    }
}
