//! Who may use a UNIX socket: `unix_sockets`.

use std::io::{Error, Result};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use crate::options::plan::UnixPlan;

/// Gives the socket to the user and group, with the mode.
pub fn admit(path: &Path, wanted: &UnixPlan) -> Result<()> {
    let (user, group) = (id(&wanted.user, "/etc/passwd", "user")?, id(&wanted.group, "/etc/group", "group")?);
    if user.is_some() || group.is_some() {
        chown(path, user, group)?;
    }
    // After the owner: a change of owner takes the bits of set-user-id away.
    if let Some(mode) = wanted.mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// A number, or what the system's file says of a name.
fn id(name: &str, file: &str, what: &str) -> Result<Option<u32>> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(id) = name.parse() {
        return Ok(Some(id));
    }
    let found = find(&std::fs::read_to_string(file)?, name);
    found.map(Some).ok_or_else(|| Error::other(format!("{file} has no {what} {name:?}; give its number")))
}

/// The third field of the line whose first is the name.
fn find(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() == Some(name) { fields.nth(1)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let text = "root:x:0:0:root:/root:/bin/sh\nconsul:x:112:118::/:/bin/false\nodd\n";
        assert_eq!(
            (find(text, "consul"), find(text, "root"), find(text, "con"), find(text, "odd")),
            (Some(112), Some(0), None, None)
        );
        assert_eq!(id("", "/nowhere", "user").unwrap(), None);
        assert_eq!(id("1000", "/nowhere", "user").unwrap(), Some(1000));
        assert!(
            id("nobody-of-this-name", "/etc/passwd", "user").unwrap_err().to_string().contains("nobody-of-this-name")
        );
    }

    #[test]
    fn a_socket_has_the_mode() {
        let path = std::env::temp_dir().join(format!("causeway-unix-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        admit(&path, &UnixPlan { mode: Some(0o702), ..UnixPlan::default() }).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o702);
        drop(listener);
        std::fs::remove_file(&path).unwrap();
    }
}
