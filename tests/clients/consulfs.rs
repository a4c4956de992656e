//! consulfs: the keys as a file system (FUSE, a Go program on Consul's own client library).

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::wait;
use crate::subject::Subject;
use crate::tools::{Daemon, need, output, skip};

const SOON: Duration = Duration::from_secs(15);

/// Takes the file system off again, whatever came of the test.
struct Mount<'a> {
    point: &'a Path,
    fusermount: &'a Path,
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        output(self.fusermount, ["-u".as_ref(), "-z".as_ref(), self.point.as_os_str()]);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

#[test]
fn keys_are_files() {
    let brings = "apt-get install fuse3, and Debian 11's package consulfs, unpacked into CLIENTS_DIR/bullseye";
    let Some([consulfs, fusermount]) = need("consulfs", ["consulfs", "fusermount"], brings) else { return };
    if fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_err() {
        return skip("consulfs", "/dev/fuse cannot be opened: it needs the kernel's FUSE");
    }
    let subject = Subject::start("consulfs");
    let agent = subject.node("agent");
    let dir = &subject.federation.dir.0;
    let point = dir.join("mnt");
    fs::create_dir_all(&point).unwrap();
    assert_eq!(agent.put("/v1/kv/app/config", "of the API").code, 200);

    let mut command = Command::new(&consulfs);
    command.args(["-timeout", "10s", &format!("127.0.0.1:{}", agent.http)]).arg(&point);
    let running = Daemon::start(command, &dir.join("consulfs.log"));
    let mount = Mount { point: &point, fusermount: &fusermount };
    wait("the mount", SOON, || match fs::read_to_string("/proc/mounts") {
        Ok(mounts) if mounts.lines().any(|line| line.contains(&*point.to_string_lossy())) => Ok(()),
        _ => Err(running.log()),
    });

    assert_eq!(names(&point), ["app"]);
    assert_eq!(fs::read_to_string(point.join("app/config")).unwrap(), "of the API");
    assert_eq!(agent.put("/v1/kv/app/config", "changed").code, 200);
    wait("the change", SOON, || match fs::read_to_string(point.join("app/config")) {
        Ok(text) if text == "changed" => Ok(()),
        other => Err(format!("{other:?}")),
    });

    fs::write(point.join("app/written"), "of a file").unwrap();
    assert_eq!(agent.get("/v1/kv/app/written?raw").text(), "of a file");
    // A second writer of the same file goes by check-and-set, which sees the first one's index.
    let mut file = fs::OpenOptions::new().append(true).open(point.join("app/written")).unwrap();
    file.write_all(b", and more").unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(agent.get("/v1/kv/app/written?raw").text(), "of a file, and more");
    let large: String = "0123456789abcdef".repeat(16_384);
    fs::write(point.join("app/large"), &large).unwrap();
    assert_eq!(agent.get("/v1/kv/app/large?raw").text(), large);
    assert!(fs::read_to_string(point.join("app/large")).unwrap() == large, "read back in pieces");

    fs::create_dir(point.join("app/deep")).unwrap();
    fs::write(point.join("app/deep/er"), "").unwrap();
    assert_eq!(names(&point.join("app")), ["config", "deep", "large", "written"]);
    assert_eq!(agent.get("/v1/kv/app/deep/er?raw").code, 200);
    fs::remove_file(point.join("app/written")).unwrap();
    assert_eq!(agent.get("/v1/kv/app/written").code, 404);
    assert_eq!(fs::read(point.join("app/written")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    drop(mount);
}
