//! Consul's commands for what this product does not have: each is known and says so in one line, instead of being unknown.

use std::process::ExitCode;

use super::{Command, Input, api};

macro_rules! refused {
    ($($name:ident = $command:literal, $about:literal, $why:expr;)*) => {$(
        /// See the row.
        pub static $name: Command = Command {
            name: $command, operands: "[ARGS...]", about: $about, more: "", flags: &[], http: true, run: $why,
        };
    )*};
}

refused! {
    AUTH_METHOD = "acl auth-method", "Logins by other authorities: not built yet", |input| ask(input, &acl("auth method", input), "GET", "/v1/acl/auth-methods");
    BINDING_RULE = "acl binding-rule", "What such a login gives: not built yet", |input| ask(input, &acl("binding rule", input), "GET", "/v1/acl/binding-rules");
    CONNECT = "connect", "The mesh of Consul: not in this product", mesh;
    INTENTION = "intention", "Permissions of the mesh of Consul: not in this product", mesh;
    LOGIN = "login", "A token by an auth method: not built yet", |input| ask(input, "Error logging in", "POST", "/v1/acl/login");
    LOGOUT = "logout", "Destroys such a token: not built yet", |input| ask(input, "Error destroying token", "POST", "/v1/acl/logout");
}

fn mesh(_: &Input) -> ExitCode {
    eprintln!(
        "The service mesh (connect, intentions) is not in this product: services are found, not proxied. See README, \"Differences\"."
    );
    ExitCode::FAILURE
}

/// Consul's words before those of the agent.
fn acl(what: &str, input: &Input) -> String {
    match input.operands.first().map(String::as_str) {
        Some("list") => format!("Failed to retrieve the {what} list"),
        _ => format!("Failed: acl {}", what.replace(' ', "-")),
    }
}

/// The agent's own words.
fn ask(input: &Input, words: &str, method: &str, path: &str) -> ExitCode {
    api::run(input, words, |api| {
        api.request(method, path, "{}")?.ok()?;
        eprintln!("{words}: this command is not built yet");
        Ok(ExitCode::FAILURE)
    })
}
