//! Values of options: from a file's tree or a flag's text, checked against the option's type.

use std::time::Duration;

use serde_json::Value;

use super::Kind;

/// Checks a value from a file against a type; gives it in one form (durations as nanoseconds, lists as arrays).
pub fn check(kind: Kind, value: &Value) -> Result<Value, String> {
    match (kind, value) {
        (Kind::Raw, v) => Ok(v.clone()),
        (Kind::Text, Value::String(_)) | (Kind::Flag, Value::Bool(_)) => Ok(value.clone()),
        (Kind::Text, Value::Number(n)) => Ok(Value::String(n.to_string())),
        (Kind::Flag, Value::String(s)) => from_text(Kind::Flag, s),
        (Kind::Number, Value::Number(n)) => {
            n.as_i64().map(Value::from).ok_or_else(|| format!("{n} is not a whole number"))
        }
        (Kind::Number, Value::String(s)) => from_text(Kind::Number, s),
        (Kind::Duration, Value::Number(n)) => n
            .as_u64()
            .map(Value::from)
            .ok_or_else(|| format!("{n} is not a number of nanoseconds; write a duration such as \"10s\"")),
        (Kind::Duration, Value::String(s)) => from_text(Kind::Duration, s),
        (Kind::List, Value::String(_)) => Ok(Value::Array(vec![value.clone()])),
        (Kind::List, Value::Array(items)) if items.iter().all(Value::is_string) => Ok(value.clone()),
        (Kind::Map, Value::Object(map)) => {
            let mut out = serde_json::Map::new();
            for (k, v) in map {
                let text = match v {
                    Value::String(s) => s.clone(),
                    Value::Number(n) => n.to_string(),
                    Value::Bool(b) => b.to_string(),
                    _ => return Err(format!("the value of {k:?} must be text")),
                };
                out.insert(k.clone(), Value::String(text));
            }
            Ok(Value::Object(out))
        }
        // HCL writes an object as a block, and a block alone as a list of one.
        (Kind::Map, Value::Array(items)) if items.len() == 1 => check(Kind::Map, &items[0]),
        (kind, v) => Err(format!("must be {}, not {}", kind.as_str(), describe(v))),
    }
}

fn describe(v: &Value) -> String {
    let mut text = v.to_string();
    if text.len() > 40 {
        text.truncate(text.char_indices().take(40).last().map_or(0, |(i, _)| i));
        text.push('…');
    }
    text
}

/// Reads a flag's or default's text.
pub fn from_text(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Text => Ok(Value::String(text.to_owned())),
        Kind::Flag => match text {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(format!("must be true or false, not {text:?}")),
        },
        Kind::Number => {
            text.trim().parse::<i64>().map(Value::from).map_err(|_| format!("must be a whole number, not {text:?}"))
        }
        Kind::Duration => duration(text).map(|d| Value::from(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))),
        Kind::List => Ok(Value::Array(vec![Value::String(text.to_owned())])),
        Kind::Map => match text.split_once(':') {
            Some((k, v)) => Ok(serde_json::json!({ k: v })),
            None => Err(format!("must be key:value, not {text:?}")),
        },
        Kind::Raw => Err("cannot be given as a flag".to_owned()),
    }
}

/// Go's durations: `"300ms"`, `"1.5h"`, `"2h45m"`; `"0"`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write it as \"10s\", \"500ms\" or \"1h30m\"");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos = 0f64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(wrong()),
        };
        nanos += number * unit;
        rest = &rest[unit_len..];
    }
    if nanos > 9.2e18 {
        return Err(format!("{text:?} is longer than 292 years"));
    }
    Ok(Duration::from_nanos(nanos as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in
            [("10s", 10_000), ("500ms", 500), ("1h30m", 5_400_000), ("1.5s", 1500), ("0", 0), ("+2m", 120_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "10", "s", "10x", "-1s", "1s2", "9999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn types() {
        assert_eq!(check(Kind::List, &Value::from("a")), Ok(serde_json::json!(["a"])));
        assert_eq!(check(Kind::Map, &serde_json::json!([{"a": 1}])), Ok(serde_json::json!({"a": "1"})));
        assert!(check(Kind::Number, &Value::from("x")).is_err());
        assert!(check(Kind::Number, &serde_json::json!(1.5)).is_err());
        assert!(check(Kind::Flag, &Value::from(3)).is_err());
        assert!(check(Kind::Text, &serde_json::json!(["a"])).is_err());
        assert_eq!(check(Kind::Duration, &Value::from(1_000_000_000u64)), Ok(Value::from(1_000_000_000u64)));
    }
}
