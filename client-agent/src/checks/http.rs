//! Asks a URL. Runs inside the driver's deadline.

use std::fmt::Display;
use std::pin::pin;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Outcome;
use super::output::Tail;
use super::tcp::dial_error;
use crate::registry::{HttpCheck, Status};

/// Redirects that are followed (Go's limit).
const REDIRECTS: usize = 10;
/// Bytes of an answer that are read; what comes after does not matter to a check.
const MAX_BODY: u64 = 16 << 20;

/// How checks speak TLS: with verified certificates, or with any.
#[derive(Clone)]
pub(crate) struct Tls {
    verified: Arc<ClientConfig>,
    unverified: Arc<ClientConfig>,
    /// The name servers must have where a check says none; empty: their host's.
    name: String,
}

impl Tls {
    /// Trusts the authorities in these PEM texts.
    pub(crate) fn new(authorities: &[Vec<u8>]) -> Result<Self, rustls::Error> {
        Self::showing(authorities, None, String::new())
    }

    /// As [`Tls::new`], and shows a certificate (PEM of the chain and of its key). `name`: see the field.
    pub(crate) fn showing(
        authorities: &[Vec<u8>],
        own: Option<(&[u8], &[u8])>,
        name: String,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for pem in authorities {
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
        }
        let builder = || ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let anything = Arc::new(Anything(provider.clone()));
        let verified = builder()?.with_root_certificates(roots);
        let unverified = builder()?.dangerous().with_custom_certificate_verifier(anything);
        let (verified, unverified) = match own {
            None => (verified.with_no_client_auth(), unverified.with_no_client_auth()),
            Some((chain, key)) => {
                let bad = |e: &dyn Display| rustls::Error::General(format!("the agent's certificate: {e}"));
                let chain: Vec<_> =
                    CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|e| bad(&e))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| bad(&e))?;
                let verified = verified.with_client_auth_cert(chain.clone(), key.clone_key())?;
                (verified, unverified.with_client_auth_cert(chain, key)?)
            }
        };
        Ok(Self { verified: Arc::new(verified), unverified: Arc::new(unverified), name })
    }

    /// The name to verify at `host` or `host:port`.
    pub(super) fn name(&self, wanted: &str, address: &str) -> Result<ServerName<'static>, String> {
        let with_port = address
            .rsplit_once(':')
            .filter(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')));
        let host = with_port.map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = [wanted, &self.name, host].into_iter().find(|n| !n.is_empty()).unwrap_or_default();
        ServerName::try_from(name.to_owned()).map_err(|e| format!("{name:?}: {e}"))
    }

    pub(super) fn connector(&self, skip_verify: bool, h2: bool) -> TlsConnector {
        let config = if skip_verify { &self.unverified } else { &self.verified };
        if !h2 {
            return TlsConnector::from(config.clone());
        }
        let mut config = (**config).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

/// Accepts any certificate: `tls_skip_verify`, which the user asked for. Signatures of the handshake are still checked.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Where a URL leads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    https: bool,
    host: String,
    port: u16,
    /// `host` or `host:port`, for the `Host` header.
    authority: String,
    /// `user:password`, where the URL has them.
    user: Option<String>,
    path: String,
}

fn target(url: &str) -> Result<Target, String> {
    let uri: Uri = url.parse().map_err(|e| format!("parse {url:?}: {e}"))?;
    let https = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        other => return Err(format!("unsupported protocol scheme {:?}", other.unwrap_or_default())),
    };
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let (user, authority) = match authority.rsplit_once('@') {
        Some((user, rest)) => (Some(user.to_owned()), rest.to_owned()),
        None => (None, authority.to_owned()),
    };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return Err("no Host in request URL".to_owned());
    }
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    Ok(Target { https, host, port, authority, user, path })
}

/// Where a `Location` leads from a URL.
fn follow(from: &Target, location: &str) -> String {
    let scheme = if from.https { "https" } else { "http" };
    if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", from.authority)
    } else {
        let path = from.path.split('?').next().unwrap_or("/");
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{}{folder}/{location}", from.authority)
    }
}

pub(super) struct Answer {
    pub(super) status: http::StatusCode,
    location: Option<String>,
    pub(super) output: Tail,
}

/// Asks; 2xx passes, 429 warns, anything else is critical.
pub(crate) async fn run(check: &HttpCheck, limit: usize, tls: &Tls) -> Outcome {
    let method = if check.method.is_empty() { Method::GET.as_str() } else { &check.method };
    match ask(check, method, limit, tls).await {
        Err(error) => Outcome::critical(format!("{} {:?}: {error}", go_method(method), check.url)),
        Ok(answer) => {
            let status = match answer.status.as_u16() {
                200..300 => Status::Passing,
                429 => Status::Warning,
                _ => Status::Critical,
            };
            let reason = answer.status.canonical_reason().unwrap_or_default();
            let code = answer.status.as_u16();
            let output = format!("HTTP {method} {}: {code} {reason} Output: {}", check.url, answer.output.text());
            Outcome::new(status, output)
        }
    }
}

/// The text of a run that took too long.
pub(crate) fn timed_out(check: &HttpCheck) -> String {
    let method = if check.method.is_empty() { "GET" } else { &check.method };
    format!(
        "{} {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
        go_method(method),
        check.url
    )
}

async fn ask(check: &HttpCheck, method: &str, limit: usize, tls: &Tls) -> Result<Answer, String> {
    let mut method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("invalid method {method:?}"))?;
    let mut body = Bytes::from(check.body.clone());
    let mut to = target(&check.url)?;
    let first = (to.host.clone(), to.port);
    for _ in 0..=REDIRECTS {
        // What was meant for one server is not told to another that it points to.
        let trusted = (to.host.clone(), to.port) == first;
        let request = request(check, &method, body.clone(), &to, trusted)?;
        let answer = exchange(&to, request, limit, tls, check).await?;
        let Some(location) = answer.location.as_deref().filter(|_| !check.disable_redirects) else {
            return Ok(answer);
        };
        match answer.status.as_u16() {
            301..=303 => {
                if method != Method::HEAD {
                    method = Method::GET;
                }
                body = Bytes::new();
            }
            307 | 308 => {}
            _ => return Ok(answer),
        }
        to = target(&follow(&to, location))?;
    }
    Err(format!("stopped after {REDIRECTS} redirects"))
}

fn request(
    check: &HttpCheck,
    method: &Method,
    body: Bytes,
    to: &Target,
    trusted: bool,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.clone();
    *request.uri_mut() = to.path.parse().map_err(|e| format!("path {:?}: {e}", to.path))?;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("Consul Health Check"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/plain, text/*, */*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let host = HeaderValue::try_from(to.authority.as_str()).map_err(|e| format!("host {:?}: {e}", to.authority))?;
    headers.insert(header::HOST, host);
    if let Some(user) = &to.user {
        let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user));
        headers.extend(HeaderValue::try_from(value).ok().map(|v| (header::AUTHORIZATION, v)));
    }
    for (name, values) in &check.header {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| format!("invalid header field name {name:?}"))?;
        let secret = [header::AUTHORIZATION, header::COOKIE, header::HOST].contains(&name);
        if secret && !trusted {
            continue;
        }
        headers.remove(&name);
        for value in values {
            let value = HeaderValue::try_from(value.as_str());
            // The value may be a secret: it is not part of the text.
            headers.append(&name, value.map_err(|_| format!("invalid header field value for {:?}", name.as_str()))?);
        }
    }
    Ok(request)
}

async fn exchange(
    to: &Target,
    request: Request<Full<Bytes>>,
    limit: usize,
    tls: &Tls,
    check: &HttpCheck,
) -> Result<Answer, String> {
    let shown = format!("{}:{}", to.host, to.port);
    let tcp = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(|e| dial_error(&shown, &e))?;
    if !to.https {
        return over(tcp, request, limit).await;
    }
    let name = tls.name(&check.tls_server_name, &to.host)?;
    let tls = tls.connector(check.tls_skip_verify, false).connect(name, tcp).await.map_err(|e| format!("tls: {e}"))?;
    over(tls, request, limit).await
}

/// One request on a connection that is there.
pub(super) async fn over(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Answer, String> {
    let text = |e: &dyn Display| e.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| text(&e))?;
    let exchange = async {
        let mut response = sender.send_request(request).await.map_err(|e| text(&e))?;
        let mut output = Tail::new(limit);
        while output.total() < MAX_BODY
            && let Some(frame) = response.body_mut().frame().await
        {
            match frame {
                Ok(frame) => output.write(frame.data_ref().map_or(&[][..], |d| d)),
                Err(error) => {
                    output.write(error.to_string().as_bytes());
                    break;
                }
            }
        }
        let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(Answer { status: response.status(), location, output })
    };
    let (mut exchange, connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The other end has closed; what it said before may still be on its way to us.
        _ = connection => exchange.await,
    }
}

/// A method as Go prints it in errors: `Get`.
fn go_method(method: &str) -> String {
    let mut chars = method.chars();
    chars.next().map_or_else(|| "Get".to_owned(), |first| format!("{first}{}", chars.as_str().to_ascii_lowercase()))
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
