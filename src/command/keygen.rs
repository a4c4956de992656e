//! `keygen`: a gossip key.

use std::process::ExitCode;

use base64::Engine;
use ring::rand::{SecureRandom, SystemRandom};

use super::{Command, Input, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "keygen",
    operands: "",
    about: "Generates a new gossip encryption key",
    more: "",
    flags: &[],
    http: false,
    run: |_: &Input| match key() {
        Ok(key) => {
            print_out(&format!("{key}\n"));
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("Error reading random data: {e}");
            ExitCode::FAILURE
        }
    },
};

/// 32 random bytes in base64.
pub fn key() -> Result<String, String> {
    let mut bytes = [0u8; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gave no random bytes".to_owned())?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}
