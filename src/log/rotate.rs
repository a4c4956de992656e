#![allow(clippy::disallowed_methods, reason = "files of the log and the clock that names them")]
//! The log's file and its rotation, as Consul does it: `log_file` is a beginning, each file has the time of its making (in
//! nanoseconds) behind it, and a new one is begun when the present one is large or old enough.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// When a new file is begun, and how many old ones stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes after which a file is full; `None`: never.
    pub bytes: Option<u64>,
    /// Age at which a file is old.
    pub age: Duration,
    /// How many old files stay; `None`: all.
    pub keep: Option<usize>,
}

/// Where files lie and how they are called.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    dir: PathBuf,
    stem: String,
    extension: String,
}

impl Names {
    /// `/var/log/` is `/var/log/consul-TIME.log`, `/var/log/x.txt` is `/var/log/x-TIME.txt`.
    fn of(setting: &str) -> Self {
        let (dir, name) = setting.rsplit_once('/').map_or((".", setting), |(dir, name)| match dir {
            "" => ("/", name),
            dir => (dir, name),
        });
        let name = if name.is_empty() { "consul" } else { name };
        let (stem, extension) = match name.rsplit_once('.') {
            Some((stem, extension)) => (stem, format!(".{extension}")),
            None => (name, ".log".to_owned()),
        };
        Self { dir: dir.into(), stem: stem.to_owned(), extension }
    }

    fn path(&self, time: u128) -> PathBuf {
        self.dir.join(format!("{}-{time}{}", self.stem, self.extension))
    }

    /// The time in a file's name; `None`: it is not one of ours.
    fn time(&self, name: &str) -> Option<u128> {
        let time = name.strip_prefix(&self.stem)?.strip_prefix('-')?.strip_suffix(&self.extension)?;
        time.parse().ok()
    }

    /// Our files, oldest first.
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut found: Vec<(u128, PathBuf)> = std::fs::read_dir(&self.dir)?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((self.time(entry.file_name().to_str()?)?, entry.path()))
            })
            .collect();
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }
}

/// The log's file. One write is one line.
#[derive(Debug)]
pub struct LogFile {
    names: Names,
    rotation: Rotation,
    file: File,
    path: PathBuf,
    written: u64,
    began: SystemTime,
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}

impl LogFile {
    /// Begins a file; makes its directory where it is missing.
    pub fn open(setting: &str, rotation: Rotation) -> io::Result<Self> {
        let names = Names::of(setting);
        std::fs::create_dir_all(&names.dir)?;
        let began = SystemTime::now();
        let path = names.path(began.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos());
        let file = create(&path)?;
        let this = Self { names, rotation, file, path, written: 0, began };
        this.prune();
        Ok(this)
    }

    fn is_due(&self, now: SystemTime) -> bool {
        let full = self.rotation.bytes.is_some_and(|most| self.written >= most);
        full || now.duration_since(self.began).unwrap_or_default() >= self.rotation.age
    }

    /// Begins the next file; where that fails the present one goes on.
    fn rotate(&mut self, now: SystemTime) {
        let path = self.names.path(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos());
        let Ok(file) = create(&path) else { return };
        (self.file, self.path, self.written, self.began) = (file, path, 0, now);
        self.prune();
    }

    /// Removes old files beyond those that stay.
    fn prune(&self) {
        let (Some(keep), Ok(all)) = (self.rotation.keep, self.names.list()) else { return };
        let old: Vec<_> = all.into_iter().filter(|path| *path != self.path).collect();
        for path in old.iter().take(old.len().saturating_sub(keep)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = SystemTime::now();
        if self.is_due(now) {
            self.rotate(now);
        }
        let written = self.file.write(bytes)?;
        self.written += u64::try_from(written).unwrap_or(0);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_consuls() {
        for (setting, shown) in [
            ("/var/log/", "/var/log/consul-7.log"),
            ("/var/log/x.txt", "/var/log/x-7.txt"),
            ("/x", "/x-7.log"),
            ("x", "./x-7.log"),
            ("a/b.c.log", "a/b.c-7.log"),
        ] {
            let names = Names::of(setting);
            let path = names.path(7);
            assert_eq!(path, Path::new(shown), "{setting}");
            assert_eq!(names.time(path.file_name().unwrap().to_str().unwrap()), Some(7));
        }
        assert_eq!(Names::of("/x.log").time("x-y.log"), None);
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_go() {
        let dir = std::env::temp_dir().join(format!("causeway-rotate-{}", std::process::id()));
        let setting = dir.join("deep/x.log");
        let rotation = |keep| Rotation { bytes: Some(10), age: Duration::from_secs(3600), keep };
        let files = || Names::of(setting.to_str().unwrap()).list().unwrap();
        let mut log = LogFile::open(setting.to_str().unwrap(), rotation(Some(2))).unwrap();
        for _ in 0..5 {
            log.write_all(b"twelve bytes").unwrap();
        }
        assert_eq!(files().len(), 3, "two old ones and the present one");
        assert!(files().iter().all(|path| std::fs::metadata(path).unwrap().len() == 12));
        drop(log);
        let mut log = LogFile::open(setting.to_str().unwrap(), rotation(Some(0))).unwrap();
        log.write_all(b"x").unwrap();
        assert_eq!(files(), [log.path.clone()], "none stays");
        log.rotation.age = Duration::ZERO;
        log.rotation.keep = None;
        log.write_all(b"y").unwrap();
        assert_eq!(files().len(), 2, "an old file is ended, whatever its size");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
