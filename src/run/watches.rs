//! The agent's watches ask its own HTTP API, inside the process: what a handler gets is what a client of this agent would.

use std::sync::Arc;

use causeway_agent::http::Api;
use causeway_agent::watches::{Answer, Ask, Watches};
use http::Request;
use http_body_util::{BodyExt, Full};

use crate::options::plan::Plan;
use crate::options::watches::Watching;

/// Starts those of the files.
pub fn start(plan: &Plan, api: Api) -> Watches {
    let ask: Ask = Arc::new(move |path, token| {
        let api = api.clone();
        Box::pin(async move {
            let mut request = Request::get(path);
            if let Some(token) = token.get() {
                request = request.header("X-Consul-Token", token);
            }
            let request = request.body(Full::<bytes::Bytes>::default()).map_err(|e| e.to_string())?;
            let (head, body) = api.answer(request).await.into_parts();
            let index = head.headers.get("x-consul-index").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0);
            let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), index, body })
        })
    });
    let watches = Watches::new(ask, plan.tls.as_ref().map(|f| f.ca.clone()).unwrap_or_default());
    set(&watches, &plan.watching);
    watches
}

/// Takes up what the files say now.
pub fn set(watches: &Watches, watching: &Watching) {
    for warning in &watching.warnings {
        tracing::warn!("{warning}");
    }
    watches.set(watching.plans.clone());
}
