#![allow(clippy::disallowed_methods, reason = "the files and the clock that tell of the machine")]
//! Reads what Linux tells of the machine.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Machine;

fn read() -> Machine {
    let mut errors = Vec::new();
    let mut file = |path: &str, must: bool| {
        std::fs::read_to_string(path)
            .inspect_err(|e| {
                if must {
                    errors.push(format!("{path}: {e}"));
                }
            })
            .unwrap_or_default()
    };
    let [memory, cpus, uptime, kernel] =
        ["/proc/meminfo", "/proc/cpuinfo", "/proc/uptime", "/proc/sys/kernel/osrelease"].map(|path| file(path, true));
    let release = file("/etc/os-release", false);
    let id = Some(file("/sys/class/dmi/id/product_uuid", false))
        .filter(|id| !id.is_empty())
        .unwrap_or_else(|| file("/etc/machine-id", false));
    let is_process = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
    };
    let processes = std::fs::read_dir("/proc").map_or(0, |all| all.filter_map(|e| is_process(e).then_some(())).count());
    let disk = match rustix::fs::statvfs("/") {
        Ok(s) => Some([s.f_frsize, s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree]),
        Err(e) => {
            errors.push(format!("/: {e}"));
            None
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Machine {
        memory,
        cpus,
        uptime,
        kernel,
        release,
        id,
        processes: u64::try_from(processes).unwrap_or(0),
        disk,
        now: u64::try_from(now.as_nanos()).unwrap_or(0),
        errors,
    }
}

/// The machine as it is now.
pub(in super::super) async fn look() -> Machine {
    let failed = |e: tokio::task::JoinError| Machine { errors: vec![e.to_string()], ..Machine::default() };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(failed)
}
