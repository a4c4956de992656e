//! `agent/metrics`: Prometheus' text, or Consul's JSON.

use http::{StatusCode, header};

use super::super::dispatch::Call;
use super::super::failure::Failure;
use super::super::reply::Reply;

pub(crate) fn show(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let figures = call.ctx.metrics.as_deref();
    if call.params.get("format") == "prometheus" {
        return match figures.filter(|_| call.ctx.prometheus) {
            Some(figures) => Ok(Reply::text(figures.prometheus())
                .header(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")),
            None => Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Prometheus is not enabled since its retention time is not positive",
            )),
        };
    }
    match figures {
        Some(figures) => call.json(&figures.shown()),
        None => Err(Failure::internal("this agent keeps no metrics")),
    }
}
