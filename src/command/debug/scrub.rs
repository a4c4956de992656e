//! Leaves secrets out of what is written. Agents hide theirs by themselves; this holds whatever agent answers. Pure.

use serde_json::Value;

/// What stands in a secret's place; Consul's.
const HIDDEN: &str = "hidden";

/// Knows the secrets that we were started with.
pub struct Scrub(Vec<String>);

impl Scrub {
    /// Texts shorter than four bytes would be found everywhere.
    pub fn new(secrets: Vec<String>) -> Self {
        Self(secrets.into_iter().filter(|s| s.len() >= 4).collect())
    }

    /// Of a document: values under names that speak of secrets, and ours wherever they are.
    pub fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|v| self.value(v)),
            Value::Object(map) => {
                for (name, v) in map.iter_mut() {
                    match v {
                        Value::String(text) if secret(name) && !text.is_empty() => HIDDEN.clone_into(text),
                        v => self.value(v),
                    }
                }
            }
            _ => {}
        }
    }

    /// Of text: ours.
    pub fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN))
    }
}

/// Whether a name is that of a secret: its last word is one of these (`ACLMasterToken`, `EncryptKey`, `auth_key`, but not `KeyFile`).
fn secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["token", "secret", "secretid", "password", "encryptkey", "encrypt", "privatekey", "_key", "apikey", "authkey"]
        .iter()
        .any(|word| name.ends_with(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let scrub = Scrub::new(vec!["s3cret".into(), "a".into()]);
        let mut value = json!({
            "ACLMasterToken": "root", "EncryptKey": "k", "KeyFile": "/etc/key.pem", "ACLTokenReplication": false,
            "Empty": {"Token": ""}, "list": [{"Password": "p"}, "the s3cret is a s3cret"],
        });
        scrub.value(&mut value);
        assert_eq!(
            value,
            json!({
                "ACLMasterToken": "hidden", "EncryptKey": "hidden", "KeyFile": "/etc/key.pem", "ACLTokenReplication": false,
                "Empty": {"Token": ""}, "list": [{"Password": "hidden"}, "the hidden is a hidden"],
            })
        );
    }
}
