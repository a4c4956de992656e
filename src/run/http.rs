//! The HTTP API: what it is told, and where it listens.

use std::sync::{Arc, PoisonError};

use causeway_agent::http::access::{Access, Network};
use causeway_agent::http::ports::{Action, FollowLog, LogLevel, Reads};
use causeway_agent::http::{self as api, Listener};
use causeway_certs::material::Material;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::end::End;
use super::limits::InForce;
use super::reload::{HttpsInForce, Reloader};
use super::{StartError, bind, unix};
use crate::options::plan::{Listen, Plan};
use crate::options::{ConfigError, table as t};

pub(super) fn size(plan: &Plan, def: &crate::options::Def) -> usize {
    usize::try_from(plan.settings.number(def)).unwrap_or(512 * 1024)
}

pub(super) fn reload_action(reloader: Arc<Reloader>) -> Action {
    Arc::new(move || {
        let reloader = reloader.clone();
        Box::pin(async move { reloader.reload().await })
    })
}

pub(super) fn leave_action(ended: mpsc::Sender<End>) -> Action {
    Arc::new(move || {
        let ended = ended.clone();
        Box::pin(async move { ended.try_send(End::Leave).map_err(|_| "the agent is ending already".to_owned()) })
    })
}

pub(super) fn follow_log(tap: crate::log::Tap) -> FollowLog {
    Arc::new(move |level, json| {
        let level = match level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Trace => tracing::Level::TRACE,
        };
        tap.follow(level, json)
    })
}

pub(super) fn access(plan: &Plan) -> Result<Access, ConfigError> {
    let s = &plan.settings;
    let network = |text: String| {
        let def = &t::HTTP_ALLOW_WRITE_FROM;
        Network::parse(&text).ok_or_else(|| s.error(def, format!("holds {text:?}; write networks as 10.0.0.0/8")))
    };
    let writers = s.list(&t::HTTP_ALLOW_WRITE_FROM).into_iter().map(network).collect::<Result<_, _>>()?;
    Ok(Access { blocked: s.list(&t::HTTP_BLOCK_ENDPOINTS), writers })
}

/// What the configuration says of reads.
pub(super) fn reads(plan: &Plan) -> Reads {
    let s = &plan.settings;
    Reads {
        use_cache: s.on(&t::HTTP_USE_CACHE),
        default_query_time: s.duration(&t::DEFAULT_QUERY_TIME),
        max_query_time: s.duration(&t::MAX_QUERY_TIME),
        discovery_max_stale: s.duration(&t::DISCOVERY_MAX_STALE),
    }
}

pub(super) fn response_headers(plan: &Plan) -> Result<Vec<(::http::HeaderName, ::http::HeaderValue)>, ConfigError> {
    let mut out = Vec::new();
    for def in [&t::HTTP_API_RESPONSE_HEADERS, &t::HTTP_RESPONSE_HEADERS] {
        for (name, value) in plan.settings.map(def) {
            let bad = |_| plan.settings.error(def, format!("holds the header {name:?}, which HTTP does not allow"));
            let header = ::http::HeaderName::try_from(name.as_str()).map_err(|e| bad(e.to_string()))?;
            out.push((header, ::http::HeaderValue::try_from(value).map_err(|e| bad(e.to_string()))?));
        }
    }
    Ok(out)
}

/// Bytes of a request's head; 0: ours.
pub(super) fn max_header_bytes(plan: &Plan) -> Result<usize, ConfigError> {
    let most = plan.settings.bounded(&t::HTTP_MAX_HEADER_BYTES, 0..=16 << 20)?;
    Ok(match usize::try_from(most).unwrap_or(0) {
        0 => api::Limits::default().max_header_bytes,
        // Go adds 4 KiB of slack to what is configured; our parser wants 8 KiB at least.
        most => (most + 4096).max(8192),
    })
}

pub(super) async fn serve_http(
    plan: &Plan,
    router: api::Api,
    https: Option<(&Arc<Material>, &HttpsInForce)>,
    in_force: &InForce,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), StartError> {
    let mut listeners = Vec::new();
    for listen in &plan.http {
        match listen {
            Listen::Tcp(addr) => listeners.push(Listener::Tcp(bind(*addr, "HTTP (ports.http)").await?)),
            Listen::Unix(path) => {
                // A socket left behind by a process that was killed is in the way; one that answers is somebody's.
                if std::os::unix::net::UnixStream::connect(path).is_err() && path.exists() {
                    let _ = std::fs::remove_file(path);
                }
                let listener = UnixListener::bind(path).map_err(|source| StartError::Io {
                    what: format!("cannot listen at {} for HTTP (addresses.http)", path.display()),
                    source,
                })?;
                unix::admit(path, &plan.unix).map_err(|source| StartError::Io {
                    what: format!("unix_sockets cannot be applied to {}", path.display()),
                    source,
                })?;
                listeners.push(Listener::Unix(listener));
            }
        }
    }
    if let Some((material, in_force)) = https {
        for addr in &plan.https {
            let (material, in_force) = (material.clone(), in_force.clone());
            let current = Arc::new(move || {
                let (verify, rules) = &*in_force.read().unwrap_or_else(PoisonError::into_inner);
                causeway_certs::link::https_server_by(&material, *verify, rules)
            });
            listeners.push(Listener::Tls(bind(*addr, "HTTPS (ports.https)").await?, current));
        }
    }
    let limits = api::Limits {
        max_connections_per_client: in_force.http_connections.clone(),
        handshake_timeout: plan.settings.duration(&t::LIMITS_HTTPS_HANDSHAKE_TIMEOUT),
        max_header_bytes: max_header_bytes(plan)?,
        ..api::Limits::default()
    };
    let stop = stop.clone();
    tasks.spawn(async move { api::serve(listeners, router, limits, stop).await });
    Ok(())
}
