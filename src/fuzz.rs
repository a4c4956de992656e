//! The door of `fuzz/` to configuration files: HCL and address templates.

use serde_json::{Map, Value};

use crate::options::hcl;
use crate::options::sockaddr::{self, Interface};

/// A file: what is read, written as HCL again, is read as the same.
pub fn hcl(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = sockaddr::expand(&text, &interfaces());
    match hcl::parse(&text) {
        // JSON knows null, and texts with half an interpolation; HCL does not.
        Ok(Value::Object(_)) if text.trim_start().starts_with('{') || text.contains("${") => {}
        Ok(Value::Object(object)) => {
            let again = members(&object);
            assert_eq!(hcl::parse(&again), Ok(Value::Object(object)), "{again}");
        }
        // One that begins with a brace is JSON, and serde_json makes sure that it is an object.
        Ok(other) => panic!("a file is an object, not {other}"),
        Err(error) => {
            assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1, "line {}", error.line);
            assert!(error.to_string().len() <= 300 + 12 * text.len(), "{} bytes of error", error.to_string().len());
        }
    }
}

fn members(object: &Map<String, Value>) -> String {
    object.iter().map(|(key, value)| format!("{} = {}\n", Value::from(key.as_str()), written(value))).collect()
}

fn written(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("[{}]", list.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Object(object) => format!("{{\n{}}}", members(object)),
        plain => plain.to_string(),
    }
}

fn interfaces() -> [Interface; 3] {
    let of = |name: &str, ip: [u8; 4], bits, default| Interface {
        name: name.into(),
        ip: ip.into(),
        bits,
        up: true,
        default,
    };
    [
        of("lo", [127, 0, 0, 1], 8, false),
        of("eth0", [10, 1, 2, 3], 16, true),
        Interface { ip: "fe80::1".parse().unwrap_or([0; 4].into()), ..of("eth1", [0; 4], 64, false) },
    ]
}

#[cfg(test)]
#[test]
fn corpus() {
    crate::corpus::run("hcl", 10, hcl);
}
