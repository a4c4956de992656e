//! Texts of Docker's API that checks inside containers need.

use serde_json::{Value, json};

/// Start, with a terminal.
pub(crate) const START: &str = r#"{"Detach":false,"Tty":true}"#;

/// Create: a program with a terminal, so that its output comes as it is and not in frames.
pub(crate) fn create(command: &[String]) -> String {
    json!({"AttachStdin": false, "AttachStdout": true, "AttachStderr": true, "Tty": true, "Cmd": command}).to_string()
}

fn read(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("Docker's answer is not JSON: {e}"))
}

/// The id that was given to what was created.
pub(crate) fn id(text: &str) -> Result<String, String> {
    let id = read(text)?.get("Id").and_then(Value::as_str).map(str::to_owned);
    id.ok_or_else(|| "create exec gave no id".to_owned())
}

/// The exit code of what has run.
pub(crate) fn exit_code(text: &str) -> Result<i64, String> {
    read(text)?.get("ExitCode").and_then(Value::as_i64).ok_or_else(|| "inspect exec gave no exit code".to_owned())
}
