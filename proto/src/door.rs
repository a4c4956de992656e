//! A door: anything that takes a request for a gRPC method. A service stack in this process, a TLS channel to a server, the
//! gateway: whoever holds a door cannot tell, and need not.
//!
//! Generated clients work on a door as they are: `KvClient::new(door)`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::rejection::Reason;

/// What a door is asked.
pub type Request = http::Request<Body>;
/// What a door answers. A refusal is an answer too: its `grpc-status` header says so.
pub type Response = http::Response<Body>;

/// No answer came: the transport behind the door failed before a response began. Nothing is known of what happened at the far
/// end, so only calls that may be repeated may be tried again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

/// A cheap, clonable handle to something that answers gRPC methods.
#[derive(Clone)]
pub struct Door(BoxCloneSyncService<Request, Response, Broken>);

impl Door {
    /// Wraps a tower service. Its error must mean that no response began.
    pub fn new<S, E>(service: S) -> Self
    where
        S: Service<Request, Response = Response, Error = E> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        E: std::fmt::Display + 'static,
    {
        Self(BoxCloneSyncService::new(service.map_err(|e: E| Broken(e.to_string()))))
    }

    /// Wraps an async function.
    pub fn from_fn<F, Fut>(f: F) -> Self
    where
        F: FnMut(Request) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Response, Broken>> + Send + 'static,
    {
        Self(BoxCloneSyncService::new(tower::service_fn(f)))
    }

    /// A door that answers every request with this refusal.
    pub fn closed(status: tonic::Status) -> Self {
        Self::from_fn(move |_| {
            let response = status.clone().into_http::<Body>();
            async move { Ok(response) }
        })
    }

    /// Makes one call.
    pub async fn call(&self, request: Request) -> Result<Response, Broken> {
        self.0.clone().oneshot(request).await
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

/// As generated clients see a door: no answer is the status [`Reason::Unreachable`], with its text.
impl Service<Request> for Door {
    type Response = Response;
    type Error = tonic::Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response, tonic::Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        self.0.poll_ready(cx).map_err(|Broken(text)| Reason::Unreachable.status(text))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { answer.await.map_err(|Broken(text)| Reason::Unreachable.status(text)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generated client must tell a broken door from a defect.
    #[test]
    fn a_broken_door_is_unreachable_to_a_client() {
        let door = Door::from_fn(|_| async { Err(Broken("connect: refused".into())) });
        let mut client = crate::status::status_client::StatusClient::new(door);
        let call = client.leader(crate::status::LeaderRequest {});
        let mut call = std::pin::pin!(call);
        let waker = std::task::Waker::noop();
        let Poll::Ready(outcome) = call.as_mut().poll(&mut Context::from_waker(waker)) else { panic!("it waits") };
        let status = outcome.unwrap_err();
        assert_eq!(Reason::of(&status), Reason::Unreachable);
        assert_eq!(status.message(), "connect: refused");
    }
}
