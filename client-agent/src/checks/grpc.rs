//! Asks the gRPC health service (`grpc.health.v1`). Runs inside the driver's deadline.

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::Outcome;
use super::http::Tls;
use crate::registry::{CheckTls, Status};

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING` in the schema of the health service.
const SERVING: i32 = 1;

/// Asks `host:port` or `host:port/service`; passing where it serves.
pub(super) async fn run(target: &str, with: &CheckTls, tls: &Tls) -> Outcome {
    let (address, service) = target.split_once('/').unwrap_or((target, ""));
    match ask(address, service, with.on.then_some((tls, with))).await {
        Ok(SERVING) => Outcome::new(Status::Passing, format!("gRPC check {target}: success")),
        Ok(status) => {
            let name = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "not known",
            };
            Outcome::critical(format!("gRPC {target} serving status: {name}"))
        }
        Err(error) => Outcome::critical(format!("gRPC check {target}: {error}")),
    }
}

async fn ask(address: &str, service: &str, tls: Option<(&Tls, &CheckTls)>) -> Result<i32, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| format!("{address:?}: {e}"))?;
    let channel: Channel = match tls {
        None => endpoint.connect().await.map_err(chain)?,
        Some((tls, with)) => {
            let connector = tls.connector(with.skip_verify, true);
            let (to, name) = (address.to_owned(), tls.name(&with.server_name, address)?);
            let connect = tower::service_fn(move |_: Uri| {
                let (connector, to, name) = (connector.clone(), to.clone(), name.clone());
                async move {
                    let tcp = TcpStream::connect(&to).await?;
                    connector.connect(name, tcp).await.map(TokioIo::new)
                }
            });
            endpoint.connect_with_connector(connect).await.map_err(chain)?
        }
    };
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(chain)?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    match client.unary(request, path, codec).await {
        Ok(response) => Ok(response.into_inner().status),
        Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}

/// An error with what caused it: tonic's own says "transport error" only.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests serve")]

    use std::convert::Infallible;
    use std::net::SocketAddr;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::TokioExecutor;
    use tokio::net::TcpListener;

    use super::*;

    /// A gRPC server that answers with this status for service `web`, and that any other is not known.
    async fn server(status: u8) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let asked = HealthCheckRequest::decode(&body[5..]).unwrap();
            let answer = Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]));
            let mut trailers = http::HeaderMap::new();
            let code = if asked.service == "web" { "0" } else { "5" };
            trailers.insert("grpc-status", code.parse().unwrap());
            let answer = answer.with_trailers(async move { Some(Ok::<_, Infallible>(trailers)) });
            let response = http::Response::builder().header("content-type", "application/grpc");
            Ok::<_, Infallible>(response.body(answer).unwrap())
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        addr
    }

    #[tokio::test]
    async fn statuses() {
        let tls = Tls::new(&[]).unwrap();
        for (answer, status) in [(1, Status::Passing), (2, Status::Critical), (3, Status::Critical)] {
            let addr = server(answer).await;
            let outcome = run(&format!("{addr}/web"), &CheckTls::default(), &tls).await;
            assert_eq!(outcome.status, status, "{}", outcome.output);
            assert_eq!(run(&addr.to_string(), &CheckTls::default(), &tls).await.status, Status::Critical);
        }
        assert_eq!(run("127.0.0.1:1/web", &CheckTls::default(), &tls).await.status, Status::Critical);
        assert_eq!(run("no address", &CheckTls::default(), &tls).await.status, Status::Critical);
    }
}
