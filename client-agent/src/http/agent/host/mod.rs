//! `agent/host`: what machine this is, as Consul's debugging tools read it.

pub(super) mod driver;

use serde::Serialize;

use super::super::dispatch::Call;
use super::super::failure::Failure;
use super::super::reply::Reply;

/// What the machine says of itself: the texts of Linux's files, empty where there are none.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// `/proc/meminfo`.
    pub(super) memory: String,
    /// `/proc/cpuinfo`.
    pub(super) cpus: String,
    /// `/proc/uptime`.
    pub(super) uptime: String,
    /// `/proc/sys/kernel/osrelease`.
    pub(super) kernel: String,
    /// `/etc/os-release`.
    pub(super) release: String,
    /// `/sys/class/dmi/id/product_uuid`, else `/etc/machine-id`.
    pub(super) id: String,
    /// Processes.
    pub(super) processes: u64,
    /// Of the root file system: size of a block, blocks, free ones, free ones for all, files, free files.
    pub(super) disk: Option<[u64; 6]>,
    /// Nanoseconds since 1970.
    pub(super) now: u64,
    /// What could not be read.
    pub(super) errors: Vec<String>,
}

/// Bytes; names as Consul (gopsutil) has them.
#[derive(Debug, Serialize, PartialEq)]
struct Memory {
    total: u64,
    available: u64,
    used: u64,
    #[serde(rename = "usedPercent")]
    used_percent: f64,
    free: u64,
    active: u64,
    inactive: u64,
    buffers: u64,
    cached: u64,
    dirty: u64,
    shared: u64,
    slab: u64,
    swaptotal: u64,
    swapfree: u64,
}

#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Cpu<'a> {
    cpu: usize,
    vendor_id: &'a str,
    family: &'a str,
    model: &'a str,
    stepping: i64,
    physical_id: &'a str,
    core_id: &'a str,
    cores: u32,
    model_name: &'a str,
    mhz: f64,
    cache_size: u64,
    flags: Vec<&'a str>,
    microcode: &'a str,
}

#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Disk {
    path: &'static str,
    fstype: &'static str,
    total: u64,
    free: u64,
    used: u64,
    used_percent: f64,
    inodes_total: u64,
    inodes_used: u64,
    inodes_free: u64,
    inodes_used_percent: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HostInfo<'a> {
    hostname: &'a str,
    uptime: u64,
    boot_time: u64,
    procs: u64,
    os: &'static str,
    platform: &'a str,
    platform_family: &'a str,
    platform_version: &'a str,
    kernel_version: &'a str,
    kernel_arch: &'static str,
    virtualization_system: &'static str,
    virtualization_role: &'static str,
    #[serde(rename = "hostid")]
    host_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Host<'a> {
    memory: Option<Memory>,
    #[serde(rename = "CPU")]
    cpu: Option<Vec<Cpu<'a>>>,
    host: HostInfo<'a>,
    disk: Option<Disk>,
    collection_time: u64,
    errors: Option<&'a [String]>,
}

#[allow(clippy::cast_precision_loss, reason = "a percentage")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn memory(text: &str) -> Option<Memory> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let bytes = |name| kib(name).unwrap_or(0) * 1024;
    let total = kib("MemTotal")? * 1024;
    let (free, buffers) = (bytes("MemFree"), bytes("Buffers"));
    let cached = bytes("Cached") + bytes("SReclaimable");
    let used = total.saturating_sub(free + buffers + cached);
    Some(Memory {
        total,
        available: bytes("MemAvailable"),
        used,
        used_percent: percent(used, total),
        free,
        active: bytes("Active"),
        inactive: bytes("Inactive"),
        buffers,
        cached,
        dirty: bytes("Dirty"),
        shared: bytes("Shmem"),
        slab: bytes("Slab"),
        swaptotal: bytes("SwapTotal"),
        swapfree: bytes("SwapFree"),
    })
}

fn cpus(text: &str) -> Vec<Cpu<'_>> {
    let of = |block: &str| block.lines().any(|line| line.starts_with("processor"));
    text.split("\n\n")
        .filter(|block| of(block))
        .enumerate()
        .map(|(cpu, block)| {
            let field = |name: &str| {
                let mut pairs = block.lines().filter_map(|line| line.split_once(':'));
                pairs.find(|(key, _)| key.trim() == name).map_or("", |(_, value)| value.trim())
            };
            Cpu {
                cpu,
                vendor_id: field("vendor_id"),
                family: field("cpu family"),
                model: field("model"),
                stepping: field("stepping").parse().unwrap_or(0),
                physical_id: field("physical id"),
                core_id: field("core id"),
                cores: 1,
                model_name: field("model name"),
                mhz: field("cpu MHz").parse().unwrap_or(0.0),
                cache_size: field("cache size").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0),
                flags: field("flags").split_whitespace().collect(),
                microcode: field("microcode"),
            }
        })
        .collect()
}

fn disk([block, blocks, free, available, files, free_files]: [u64; 6]) -> Disk {
    let used = blocks.saturating_sub(free) * block;
    let used_files = files.saturating_sub(free_files);
    Disk {
        path: "/",
        fstype: "",
        total: blocks * block,
        free: available * block,
        used,
        used_percent: percent(used, used + available * block),
        inodes_total: files,
        inodes_used: used_files,
        inodes_free: free_files,
        inodes_used_percent: percent(used_files, files),
    }
}

/// `NAME=value` or `NAME="value"` of `/etc/os-release`.
fn release<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_default().trim_matches('"')
}

impl Machine {
    fn shown<'a>(&'a self, host_name: &'a str) -> Host<'a> {
        let uptime = self.uptime.split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0);
        let family = release(&self.release, "ID_LIKE").split(' ').next().unwrap_or_default();
        let platform = release(&self.release, "ID");
        let cpus = cpus(&self.cpus);
        Host {
            memory: memory(&self.memory),
            cpu: Some(cpus).filter(|cpus| !cpus.is_empty()),
            host: HostInfo {
                hostname: host_name,
                uptime,
                boot_time: (self.now / 1_000_000_000).saturating_sub(uptime),
                procs: self.processes,
                os: std::env::consts::OS,
                platform,
                platform_family: if family.is_empty() { platform } else { family },
                platform_version: release(&self.release, "VERSION_ID"),
                kernel_version: self.kernel.trim(),
                kernel_arch: std::env::consts::ARCH,
                virtualization_system: "",
                virtualization_role: "",
                host_id: self.id.trim(),
            },
            disk: self.disk.map(disk),
            collection_time: self.now,
            errors: Some(self.errors.as_slice()).filter(|errors| !errors.is_empty()),
        }
    }
}

pub(crate) async fn show(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let machine = driver::look().await;
    call.json(&machine.shown(&call.ctx.info.host_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_shown() {
        let machine = Machine {
            memory: "MemTotal:  1000 kB\nMemFree:  100 kB\nBuffers: 50 kB\nCached: 200 kB\nSReclaimable: 50 kB\n"
                .into(),
            cpus: "processor\t: 0\nmodel name\t: A\ncpu MHz\t: 2.5\nflags\t: x y\n\nprocessor\t: 1\n\n".into(),
            uptime: "12.5 20.0\n".into(),
            release: "ID=debian\nVERSION_ID=\"12\"\n".into(),
            disk: Some([10, 100, 40, 30, 8, 2]),
            now: 100_000_000_000,
            ..Machine::default()
        };
        let shown = serde_json::to_value(machine.shown("h")).unwrap();
        assert_eq!(shown["Memory"]["used"], 600 * 1024);
        assert_eq!(shown["CPU"][0]["flags"][1], "y");
        assert_eq!(shown["CPU"][1]["cpu"], 1);
        assert_eq!((&shown["Disk"]["used"], &shown["Disk"]["free"]), (&600.into(), &300.into()));
        assert_eq!((&shown["Host"]["bootTime"], &shown["Host"]["platformFamily"]), (&88.into(), &"debian".into()));
        let nothing = serde_json::to_value(Machine::default().shown("h")).unwrap();
        assert!(nothing["Memory"].is_null() && nothing["CPU"].is_null() && nothing["Disk"].is_null());
    }
}
