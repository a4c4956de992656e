//! Bounds on calls and connections that a reload changes: `limits.*`.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use causeway_agent::servers::Servers;
use causeway_agent::servers::rate::{Bucket, Rate};
use causeway_proto::bound::Bound;
use causeway_proto::door::{Door, Request};
use causeway_proto::method::{self, Kind};
use causeway_proto::rejection::Reason;

use crate::options::plan::Plan;
use crate::options::{ConfigError, Def, table as t};

/// Consul's text where a server does no more for now.
const ELSEWHERE: &str = "rate limit exceeded, try again later or against a different server";

/// What a server does about calls beyond its rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing.
    Disabled,
    /// Says so in the log.
    Permissive,
    /// Refuses them.
    Enforcing,
}

/// What the files say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    http_connections: usize,
    rpc_connections: usize,
    calls: Rate,
    mode: Mode,
    reads: Rate,
    writes: Rate,
}

impl Wanted {
    /// Reads and checks `limits`.
    pub fn of(plan: &Plan) -> Result<Self, ConfigError> {
        let s = &plan.settings;
        let connections = |def| Ok(usize::try_from(s.bounded(def, 0..=1_000_000)?).unwrap_or(0));
        let number = |def: &Def| {
            let text = s.text(def);
            let read = text.trim().parse::<f64>().ok().filter(|n| !n.is_nan());
            read.ok_or_else(|| s.error(def, format!("is {text:?}; it must be a number, or -1 for no bound")))
        };
        let burst = u32::try_from(s.bounded(&t::LIMITS_RPC_MAX_BURST, 0..=i64::from(u32::MAX))?).unwrap_or(0);
        // A second's worth at once.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, as is right here")]
        let rate = |def| number(def).map(|n| Rate::of(n, n.ceil().max(1.0) as u32));
        Ok(Self {
            http_connections: connections(&t::LIMITS_HTTP_MAX_CONNS_PER_CLIENT)?,
            rpc_connections: connections(&t::LIMITS_RPC_MAX_CONNS_PER_CLIENT)?,
            calls: Rate::of(number(&t::LIMITS_RPC_RATE)?, burst),
            mode: match s.text(&t::LIMITS_REQUEST_MODE).as_str() {
                "disabled" => Mode::Disabled,
                "permissive" => Mode::Permissive,
                "enforcing" => Mode::Enforcing,
                other => {
                    let text = format!("is {other:?}; it must be disabled, permissive or enforcing");
                    return Err(s.error(&t::LIMITS_REQUEST_MODE, text));
                }
            },
            reads: rate(&t::LIMITS_REQUEST_READ)?,
            writes: rate(&t::LIMITS_REQUEST_WRITE)?,
        })
    }
}

/// The bounds in force. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct InForce {
    /// HTTP connections of one address.
    pub http_connections: Bound,
    /// RPC connections of one address.
    pub rpc_connections: Bound,
    requests: Arc<Requests>,
}

impl InForce {
    /// From the start on.
    pub fn new(wanted: &Wanted) -> Self {
        let requests = Requests {
            mode: AtomicU8::new(wanted.mode as u8),
            reads: Mutex::new(Bucket::new(wanted.reads)),
            writes: Mutex::new(Bucket::new(wanted.writes)),
        };
        Self {
            http_connections: unbounded_at_zero(wanted.http_connections).into(),
            rpc_connections: unbounded_at_zero(wanted.rpc_connections).into(),
            requests: Arc::new(requests),
        }
    }

    /// Takes up what the files say now. `servers`: where this process is an agent only, whose calls are counted.
    pub fn set(&self, wanted: &Wanted, servers: Option<&Servers>) {
        self.http_connections.set(unbounded_at_zero(wanted.http_connections));
        self.rpc_connections.set(unbounded_at_zero(wanted.rpc_connections));
        self.requests.mode.store(wanted.mode as u8, Ordering::Release);
        for (bucket, rate) in [(&self.requests.reads, wanted.reads), (&self.requests.writes, wanted.writes)] {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).set(rate);
        }
        if let Some(servers) = servers {
            servers.set_rate(wanted.calls);
        }
    }

    /// Whether calls to the server in this process are counted, so that none may go round its door.
    pub fn counts_calls(&self) -> bool {
        self.requests.mode.load(Ordering::Acquire) != Mode::Disabled as u8
    }

    /// The server's door with its bounds before it.
    pub fn before(&self, door: Door) -> Door {
        let requests = self.requests.clone();
        Door::from_fn(move |request: Request| {
            let refused = requests.refuses(&request);
            let door = door.clone();
            async move {
                match refused {
                    true => Ok(Reason::Overloaded.status(ELSEWHERE).into_http()),
                    false => door.call(request).await,
                }
            }
        })
    }
}

/// Consul's 0 is no bound.
fn unbounded_at_zero(most: usize) -> usize {
    if most == 0 { usize::MAX } else { most }
}

#[derive(Debug)]
struct Requests {
    mode: AtomicU8,
    reads: Mutex<Bucket>,
    writes: Mutex<Bucket>,
}

impl Requests {
    fn refuses(&self, request: &Request) -> bool {
        let mode = self.mode.load(Ordering::Acquire);
        if mode == Mode::Disabled as u8 {
            return false;
        }
        let (bucket, what) = match method::find(request.uri().path()).map(|m| m.kind) {
            Some(Kind::Read) => (&self.reads, "read"),
            Some(Kind::Write) => (&self.writes, "write"),
            // Servers among themselves, streams and what a process asks itself are not counted.
            _ => return false,
        };
        if bucket.lock().unwrap_or_else(PoisonError::into_inner).take(super::telemetry::instant()) {
            return false;
        }
        metrics::counter!("causeway_requests_over_rate_total", "kind" => what).increment(1);
        if mode == Mode::Permissive as u8 {
            tracing::debug!(
                path = request.uri().path(),
                "beyond limits.request_limits.{what}_rate, which is permissive"
            );
        }
        mode == Mode::Enforcing as u8
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::door::Broken;
    use tonic::body::Body;

    use super::*;
    use crate::options::{Settings, plan};

    fn wanted(limits: &str) -> Result<Wanted, String> {
        let mut settings = Settings::default();
        settings.read_text("x.json", &format!(r#"{{"data_dir":"/d","limits":{limits}}}"#), false).unwrap();
        Wanted::of(&plan::plan(&settings).unwrap_or_else(|e| panic!("{e}"))).map_err(|e| e.to_string())
    }

    #[test]
    fn what_files_say() {
        let none = wanted("{}").unwrap();
        assert!(none.calls.per_second.is_infinite() && none.mode == Mode::Disabled && none.http_connections == 200);
        let some = wanted(r#"{"rpc_rate":2.5,"rpc_max_burst":7,"http_max_conns_per_client":0}"#).unwrap();
        assert_eq!((some.calls, some.http_connections), (Rate::of(2.5, 7), 0));
        assert_eq!(InForce::new(&some).http_connections.get(), usize::MAX);
        for (bad, says) in [(r#"{"rpc_rate":"x"}"#, "rpc_rate"), (r#"{"request_limits":{"mode":"x"}}"#, "permissive")] {
            let e = wanted(bad).unwrap_err();
            assert!(e.contains(says), "{e}");
        }
    }

    #[tokio::test]
    async fn a_server_does_no_more_than_it_should() {
        let served = Door::from_fn(|_| async { Err(Broken("served".into())) });
        let limits = |mode: &str| format!(r#"{{"request_limits":{{"mode":"{mode}","read_rate":2}}}}"#);
        let force = InForce::new(&wanted(&limits("enforcing")).unwrap());
        let door = force.before(served);
        let ask = async |path: &str| {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = path.parse().unwrap();
            door.call(request).await.is_err()
        };
        let read = method::TABLE.iter().find(|m| m.kind == Kind::Read).unwrap().path;
        let write = method::TABLE.iter().find(|m| m.kind == Kind::Write).unwrap().path;
        let mut served = 0;
        for _ in 0..20 {
            served += usize::from(ask(read).await);
            assert!(ask(write).await, "writes have no bound here");
        }
        assert!((2..20).contains(&served), "{served}");
        force.set(&wanted(&limits("permissive")).unwrap(), None);
        for _ in 0..20 {
            assert!(ask(read).await);
        }
    }
}
