//! Patroni elects a leader among PostgreSQL servers through our keys and sessions, and another one when the first dies.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::harness::{Node, free_port, wait};
use crate::subject::Subject;
use crate::tools::{Daemon, need, output, skip};

/// A database is made, or copied, while other tests run.
const SOON: Duration = Duration::from_secs(90);
/// Patroni's TTL of 20 s is a session's of 10 s, which Consul ends between one and two times that; a loop of Patroni and a
/// promotion come on top, on a busy machine.
const FAILOVER: Duration = Duration::from_secs(60);

/// One machine with a database: Patroni and the PostgreSQL that it runs.
struct Machine<'a> {
    name: &'static str,
    postgres: u16,
    dir: &'a Path,
    programs: &'a [PathBuf; 3],
    user: Option<(u32, u32)>,
    patroni: Option<Daemon>,
}

impl<'a> Machine<'a> {
    fn new(
        name: &'static str,
        agent: &Node,
        dir: &'a Path,
        programs: &'a [PathBuf; 3],
        user: Option<(u32, u32)>,
    ) -> Self {
        let (rest, postgres) = (free_port(), free_port());
        let config = format!(
            "
scope: pgtest
name: {name}
restapi: {{ listen: '127.0.0.1:{rest}', connect_address: '127.0.0.1:{rest}' }}
consul: {{ url: 'http://127.0.0.1:{http}', register_service: true, service_check_interval: 1s }}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 5
    postgresql: {{ use_pg_rewind: true, parameters: {{ max_connections: 20, wal_log_hints: 'on' }} }}
  initdb: [ {{ encoding: UTF8 }}, {{ locale: C }} ]
  pg_hba: [ 'host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust' ]
postgresql:
  listen: '127.0.0.1:{postgres}'
  connect_address: '127.0.0.1:{postgres}'
  data_dir: '{dir}/{name}'
  bin_dir: '{bin}'
  pgpass: '{dir}/{name}.pgpass'
  authentication:
    superuser: {{ username: postgres, password: none }}
    replication: {{ username: replicator, password: none }}
    rewind: {{ username: rewinder, password: none }}
  parameters: {{ unix_socket_directories: '{dir}', shared_buffers: 16MB, fsync: 'off' }}
",
            http = agent.http,
            dir = dir.display(),
            bin = programs[1].parent().unwrap_or(Path::new("/")).display(),
        );
        fs::write(dir.join(format!("{name}.yml")), config).unwrap();
        Self { name, postgres, dir, programs, user, patroni: None }
    }

    fn start(&mut self) {
        let mut command = Command::new(&self.programs[0]);
        command.arg(self.dir.join(format!("{}.yml", self.name))).current_dir(self.dir);
        command.env_remove("PATRONI_NAME").env("HOME", self.dir);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        self.patroni = Some(Daemon::start(command, &self.dir.join(format!("{}.log", self.name))));
    }

    fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.dir.join(self.name).join("postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
    }

    /// The machine is gone, Patroni and PostgreSQL at once.
    fn die(&mut self) {
        let postmaster = self.postmaster();
        self.patroni = None;
        if let Some(pid) = postmaster {
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// What the database answers.
    fn sql(&self, statement: &str) -> String {
        let port = self.postgres.to_string();
        let args = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "postgres", "-XAtqc", statement];
        output(&self.programs[2], args).trim().to_owned()
    }

    fn become_so(&self, what: &str, within: Duration, statement: &str, wanted: &str) {
        wait(what, within, || {
            let said = self.sql(statement);
            if said == wanted { Ok(()) } else { Err(said) }
        });
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        self.die();
    }
}

/// Who holds the leader's key, with a session that lives.
fn leader(agent: &Node) -> Result<String, String> {
    let key = agent.get("/v1/kv/service/pgtest/leader?consistent").json()?.get(0).cloned().ok_or("no key")?;
    let session = key["Session"].as_str().ok_or("nobody holds it")?.to_owned();
    let info = agent.get(&format!("/v1/session/info/{session}")).json()?;
    if info.as_array().is_none_or(Vec::is_empty) {
        return Err(format!("session {session} is gone"));
    }
    Ok(agent.get("/v1/kv/service/pgtest/leader?raw&consistent").text())
}

fn leads(agent: &Node, what: &str, within: Duration, machine: &Machine<'_>) {
    wait(what, within, || {
        let name = leader(agent)?;
        if name == machine.name { Ok(()) } else { Err(name) }
    });
}

/// The instances that DNS names for a role.
fn role(agent: &Node, role: &str, wanted: &Machine<'_>) {
    wait(&format!("DNS: {} is {role}", wanted.name), SOON, || {
        let ports = agent.dig(&format!("{role}.pgtest.service.consul."), RecordType::SRV)?.ports();
        if ports == [wanted.postgres] { Ok(()) } else { Err(format!("{ports:?}")) }
    });
}

/// PostgreSQL refuses to run as root.
fn user(dir: &Path) -> Option<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Some(None);
    }
    let id = |what: &str| output(Path::new("id"), [what, "postgres"]).trim().parse::<u32>().ok();
    let (user, group) = (id("-u")?, id("-g")?);
    std::os::unix::fs::chown(dir, Some(user), Some(group)).ok()?;
    Some(Some((user, group)))
}

#[test]
fn postgresql_fails_over() {
    let brings = "apt-get install patroni postgresql";
    let Some(programs) = need("Patroni", ["patroni", "pg_controldata", "psql"], brings) else { return };
    let subject = Subject::start("patroni");
    let agent = subject.node("agent");
    let dir = subject.federation.dir.0.join("pg");
    fs::create_dir_all(&dir).unwrap();
    let Some(user) = user(&dir) else {
        return skip("Patroni", "running as root, and there is no user postgres to run PostgreSQL as");
    };
    let mut first = Machine::new("pg1", agent, &dir, &programs, user);
    let mut second = Machine::new("pg2", agent, &dir, &programs, user);
    first.start();
    leads(agent, "the first leads", SOON, &first);
    first.become_so("it takes writes", SOON, "select pg_is_in_recovery()", "f");
    second.start();
    first.become_so(
        "the second follows",
        SOON,
        "select count(*) from pg_stat_replication where state = 'streaming'",
        "1",
    );
    assert_eq!(first.sql("create table t (v int); insert into t values (1)"), "");
    second.become_so("the row is copied", SOON, "select v from t", "1");
    role(agent, "master", &first);
    role(agent, "replica", &second);
    assert_eq!(leader(agent).as_deref(), Ok("pg1"), "the second one's trying changed nothing");

    let began = Instant::now();
    first.die();
    leads(agent, "the second leads after the first's death", FAILOVER, &second);
    println!(
        "Patroni: key taken over {:.1} s after the leader's death (session of 10 s)",
        began.elapsed().as_secs_f32()
    );
    second.become_so("it takes writes", SOON, "select pg_is_in_recovery()", "f");
    assert_eq!(second.sql("insert into t values (2)"), "");
    assert_eq!(second.sql("select string_agg(v::text, ',' order by v) from t"), "1,2");
    role(agent, "master", &second);

    // The dead one comes back as a follower, and takes over at once where the leader ends in order.
    first.start();
    first.become_so(
        "it follows",
        SOON,
        "select string_agg(v::text, ',' order by v), pg_is_in_recovery() from t",
        "1,2|t",
    );
    second.become_so("it streams", SOON, "select count(*) from pg_stat_replication where state = 'streaming'", "1");
    role(agent, "replica", &first);
    let began = Instant::now();
    second.patroni.as_ref().unwrap().terminate();
    leads(agent, "the first leads again", FAILOVER, &first);
    println!("Patroni: key taken over {:.1} s after the leader's orderly end", began.elapsed().as_secs_f32());
    first.become_so("it takes writes", SOON, "select pg_is_in_recovery()", "f");
    assert_eq!(first.sql("insert into t values (3)"), "");
    role(agent, "master", &first);
}
