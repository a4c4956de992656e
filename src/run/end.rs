//! How a running node ends: by a signal, by `leave`, with whoever started it; and in which order its parts go.

use std::time::Duration;

use super::server::passing_dir;
use super::{DRAIN, Node};
use crate::options::table as t;

/// Why a running node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Stays a member that will be back: others will see it fail.
    Stop,
    /// Leaves in good order.
    Leave,
}

impl Node {
    /// Runs until a signal, `leave` or (below `causeway dev` and tests) the end of standard input.
    pub(super) async fn until_told_to_end(mut self) {
        let end = self.wait_for_end().await;
        tracing::info!(?end, "ending");
        if end == End::Leave {
            self.gossip.leave().await;
        }
        let leave = end == End::Leave;
        let gateway = self.gateway.take();
        let server = self.server.take();
        let drain_time = self.plan.settings.duration(&t::PERF_LEAVE_DRAIN_TIME);
        let drain = async {
            if let Some(gateway) = gateway {
                if leave { gateway.leave().await } else { gateway.stop().await }
            }
            if let Some(server) = server {
                if leave {
                    server.leave().await;
                    server.drained(drain_time).await;
                }
                server.stop().await;
            }
        };
        let _ = tokio::time::timeout(DRAIN + drain_time, drain).await;
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), async {
            if let Some(watches) = self.reloader.watches.get() {
                watches.stop().await;
            }
            self.checks.stopped().await;
            self.registry.flush().await;
        })
        .await;
        if let Some(path) = self.plan.settings.some_text(&t::PID_FILE) {
            let _ = std::fs::remove_file(path);
        }
        if self.plan.data_dir.is_none() && self.plan.server {
            let _ = std::fs::remove_dir_all(passing_dir(&self.data_dir.node_id));
        }
        tracing::info!("ended");
    }

    async fn wait_for_end(&mut self) -> End {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).ok();
        let mut int = listen(SignalKind::interrupt());
        let mut term = listen(SignalKind::terminate());
        let mut hup = listen(SignalKind::hangup());
        async fn next(signal: &mut Option<tokio::signal::unix::Signal>) {
            match signal {
                Some(signal) => {
                    signal.recv().await;
                }
                None => std::future::pending().await,
            }
        }
        let orphaned = orphaned();
        tokio::pin!(orphaned);
        loop {
            tokio::select! {
                () = next(&mut int) => return if self.plan.leave_on_interrupt { End::Leave } else { End::Stop },
                () = next(&mut term) => return if self.plan.leave_on_terminate { End::Leave } else { End::Stop },
                Some(end) = self.ends.recv() => return end,
                () = &mut orphaned => return End::Stop,
                () = next(&mut hup) => {
                    if let Err(e) = self.reloader.reload().await {
                        tracing::error!("the configuration was not taken up: {e}");
                    }
                }
            }
        }
    }
}

/// Done when whoever started us with [`crate::dev::END_WITH_STDIN`] is gone; never otherwise.
async fn orphaned() {
    if std::env::var_os(crate::dev::END_WITH_STDIN).is_none() {
        return std::future::pending().await;
    }
    let (sender, ended) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own, since a read of standard input cannot be cancelled; it ends with the process.
    let waiting = std::thread::Builder::new().name("parent".into()).spawn(move || {
        let _sender = sender;
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    });
    if waiting.is_err() {
        return std::future::pending().await;
    }
    let _ = ended.await;
}
