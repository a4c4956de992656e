//! How commands speak to an agent: Consul's flags and environment variables, and one HTTP request.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_certs::material::{Files, Material};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::{Flag, Input, flag};

/// The flags every such command takes.
pub static FLAGS: &[Flag] = &[
    flag(
        "http-addr",
        "address",
        "Agent to ask: host:port, http://, https:// or unix:// (CONSUL_HTTP_ADDR). Default: 127.0.0.1:8500.",
    ),
    flag("token", "value", "ACL token (CONSUL_HTTP_TOKEN)."),
    flag("token-file", "path", "File that holds it (CONSUL_HTTP_TOKEN_FILE)."),
    flag("datacenter", "name", "Datacenter to ask; default: the agent's own."),
    flag("stale", "", "Whether any server's answer will do."),
    flag(
        "ca-file",
        "path",
        "Authority to verify an https agent with (CONSUL_CACERT); default: those that the system trusts. CONSUL_HTTP_SSL_VERIFY=false verifies nobody.",
    ),
    flag("ca-path", "path", "Directory of such files (CONSUL_CAPATH)."),
    flag("client-cert", "path", "Certificate to show (CONSUL_CLIENT_CERT)."),
    flag("client-key", "path", "Its key (CONSUL_CLIENT_KEY)."),
    flag("tls-server-name", "name", "Name to verify instead of the host's (CONSUL_TLS_SERVER_NAME)."),
];

/// Why a request gave no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The flags or variables make no sense.
    #[error("{0}")]
    Settings(String),
    /// No answer.
    #[error("cannot reach the agent at {addr}: {why}; is it running? -http-addr or CONSUL_HTTP_ADDR name another")]
    Unreachable {
        /// Where we looked.
        addr: String,
        /// What happened.
        why: String,
    },
    /// An answer that says no. Worded as Consul's own client does: scripts match on it.
    #[error("Unexpected response code: {code} ({body})")]
    Refused {
        /// HTTP status.
        code: u16,
        /// Its text.
        body: String,
    },
    /// An answer that is not what it should be.
    #[error("the agent's answer cannot be read: {0}")]
    Unreadable(String),
}

/// An answer.
pub struct Answer {
    /// HTTP status.
    pub code: u16,
    /// Its `X-Consul-Index`; 0: none.
    pub index: u64,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body, where the status is 2xx.
    pub fn ok(self) -> Result<Bytes, ApiError> {
        if (200..300).contains(&self.code) {
            return Ok(self.body);
        }
        Err(ApiError::Refused { code: self.code, body: String::from_utf8_lossy(&self.body).into_owned() })
    }

    /// The body as JSON, where the status is 2xx.
    pub fn json(self) -> Result<Value, ApiError> {
        serde_json::from_slice(&self.ok()?).map_err(|e| ApiError::Unreadable(e.to_string()))
    }
}

enum Target {
    Tcp { host: String, tls: bool },
    Unix(PathBuf),
}

/// One agent's HTTP API.
pub struct Api {
    target: Target,
    shown: String,
    token: Option<String>,
    auth: Option<String>,
    query: String,
    tls: Option<(Arc<rustls::ClientConfig>, String)>,
    runtime: tokio::runtime::Runtime,
}

impl Api {
    /// Reads flags and environment.
    pub fn new(input: &Input) -> Result<Self, ApiError> {
        let env = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let choose = |flag: &str, var: &str| input.value(flag).map(str::to_owned).or_else(|| env(var));
        let addr = choose("http-addr", "CONSUL_HTTP_ADDR").unwrap_or_else(|| "127.0.0.1:8500".to_owned());
        let ssl = env("CONSUL_HTTP_SSL").is_some_and(|v| matches!(v.as_str(), "true" | "1"));
        let target = if let Some(path) = addr.strip_prefix("unix://") {
            Target::Unix(PathBuf::from(path))
        } else {
            let (tls, host) = match (addr.strip_prefix("https://"), addr.strip_prefix("http://")) {
                (Some(host), _) => (true, host),
                (_, Some(host)) => (false, host),
                _ if addr.contains("://") => {
                    return Err(ApiError::Settings(format!(
                        "{addr:?} is no address: use host:port, http://, https:// or unix://"
                    )));
                }
                _ => (ssl, addr.as_str()),
            };
            let host = host.trim_end_matches('/');
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let host = if has_port { host.to_owned() } else { format!("{host}:{}", if tls { 443 } else { 80 }) };
            Target::Tcp { host, tls }
        };
        let token = match choose("token-file", "CONSUL_HTTP_TOKEN_FILE") {
            Some(path) => Some(
                std::fs::read_to_string(&path)
                    .map_err(|e| ApiError::Settings(format!("token file {path}: {e}")))?
                    .trim()
                    .to_owned(),
            ),
            None => choose("token", "CONSUL_HTTP_TOKEN"),
        };
        let auth = env("CONSUL_HTTP_AUTH").map(|pair| {
            use base64::Engine;
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        let mut query = String::new();
        if let Some(dc) = input.value("datacenter") {
            query.push_str(&format!("&dc={}", escape(dc, false)));
        }
        if input.on("stale") {
            query.push_str("&stale");
        }
        if let Some(name) = choose("namespace", "CONSUL_NAMESPACE").filter(|n| !n.is_empty()) {
            query.push_str(&format!("&ns={}", escape(&name, false)));
        }
        let tls = match &target {
            Target::Tcp { host, tls: true } => {
                let ca = [choose("ca-file", "CONSUL_CACERT"), choose("ca-path", "CONSUL_CAPATH")];
                let ca: Vec<PathBuf> = ca.into_iter().flatten().map(PathBuf::from).collect();
                let cert = choose("client-cert", "CONSUL_CLIENT_CERT").map(PathBuf::from);
                let key = choose("client-key", "CONSUL_CLIENT_KEY").map(PathBuf::from);
                let failed = |e: &dyn std::fmt::Display| ApiError::Settings(e.to_string());
                let name = choose("tls-server-name", "CONSUL_TLS_SERVER_NAME")
                    .unwrap_or_else(|| host.rsplit_once(':').map_or(host.as_str(), |(h, _)| h).to_owned());
                let config = if env("CONSUL_HTTP_SSL_VERIFY").is_some_and(|v| matches!(v.as_str(), "false" | "0")) {
                    causeway_certs::link::https_client_unverified().map_err(|e| failed(&e))?
                } else {
                    let material = if ca.is_empty() && cert.is_none() {
                        Material::system().map_err(|e| failed(&e))?
                    } else if ca.is_empty() {
                        let text = "a client certificate needs -ca-file (CONSUL_CACERT), too, to verify the agent with";
                        return Err(ApiError::Settings(text.to_owned()));
                    } else {
                        Material::load(Files { ca, cert, key }, "consul").map_err(|e| failed(&e))?
                    };
                    causeway_certs::link::https_client(&material, Some(name.as_str()))
                };
                Some((config, name))
            }
            _ => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| ApiError::Settings(format!("cannot start: {e}")))?;
        Ok(Self { target, shown: addr, token, auth, query, tls, runtime })
    }

    /// Waits for something on this client's runtime.
    pub fn block_on<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    /// Sends one request; `path` begins with `/v1/` and may hold a query.
    pub fn request(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Result<Answer, ApiError> {
        self.block_on(self.ask(method, path, body))
    }

    /// As [`Api::request`], for who waits for other things besides.
    pub async fn ask(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Result<Answer, ApiError> {
        let request = self.build(method, path, body.into())?;
        let answer = async { whole(self.exchange(request).await?).await.map_err(|e| self.unreachable(e)) };
        match tokio::time::timeout(Duration::from_secs(60), answer).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("no answer within 60 s")),
        }
    }

    fn build(&self, method: &str, path: &str, body: Bytes) -> Result<http::Request<Full<Bytes>>, ApiError> {
        let joiner = if path.contains('?') { "" } else { "?" };
        let uri = format!("{path}{joiner}{}", self.query);
        let uri = uri.trim_end_matches('?').replacen("?&", "?", 1);
        let mut request = http::Request::builder().method(method).uri(&uri).header(http::header::HOST, self.host());
        if let Some(token) = &self.token {
            request = request.header("X-Consul-Token", token);
        }
        if let Some(auth) = &self.auth {
            request = request.header(http::header::AUTHORIZATION, auth);
        }
        request.body(Full::new(body)).map_err(|e| ApiError::Settings(format!("{uri:?} cannot be asked for: {e}")))
    }

    /// `GET` of an answer that goes on: each piece as it comes.
    pub fn follow(&self, path: &str, piece: &mut dyn FnMut(&[u8])) -> Result<(), ApiError> {
        self.block_on(self.stream(path, piece))
    }

    /// As [`Api::follow`], for who stops it some time.
    pub async fn stream(&self, path: &str, piece: &mut dyn FnMut(&[u8])) -> Result<(), ApiError> {
        let request = self.build("GET", path, Bytes::new())?;
        let answer = tokio::time::timeout(Duration::from_secs(60), self.exchange(request));
        let answer = answer.await.map_err(|_| self.unreachable("no answer within 60 s"))??;
        if answer.code != 200 {
            let refused = whole(answer).await.map_err(|e| self.unreachable(e))?;
            return Err(refused.ok().err().unwrap_or(ApiError::Unreadable("no log".into())));
        }
        let Begun { mut body, connection: _connection, .. } = answer;
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(data) = frame.data_ref() {
                piece(data);
            }
        }
        Ok(())
    }

    /// What must not be shown of how we ask.
    pub fn secrets(&self) -> Vec<String> {
        let auth = self.auth.iter().filter_map(|a| a.strip_prefix("Basic ").map(str::to_owned));
        self.token.iter().cloned().chain(auth).collect()
    }

    /// `GET` as JSON.
    pub fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.request("GET", path, Bytes::new())?.json()
    }

    /// `PUT`.
    pub fn put(&self, path: &str, body: impl Into<Bytes>) -> Result<Bytes, ApiError> {
        self.request("PUT", path, body)?.ok()
    }

    fn host(&self) -> &str {
        match &self.target {
            Target::Tcp { host, .. } => host,
            Target::Unix(_) => "localhost",
        }
    }

    fn unreachable(&self, why: impl std::fmt::Display) -> ApiError {
        ApiError::Unreachable { addr: self.shown.clone(), why: why.to_string() }
    }

    async fn exchange(&self, request: http::Request<Full<Bytes>>) -> Result<Begun, ApiError> {
        let fail = |e: &dyn std::fmt::Display| self.unreachable(e);
        match &self.target {
            Target::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await.map_err(|e| fail(&e))?;
                self.send(stream, request).await
            }
            Target::Tcp { host, .. } => {
                let stream = tokio::net::TcpStream::connect(host).await.map_err(|e| fail(&e))?;
                match &self.tls {
                    None => self.send(stream, request).await,
                    Some((config, name)) => {
                        let name = rustls::pki_types::ServerName::try_from(name.clone()).map_err(|e| fail(&e))?;
                        let stream = tokio_rustls::TlsConnector::from(config.clone())
                            .connect(name, stream)
                            .await
                            .map_err(|e| fail(&e))?;
                        self.send(stream, request).await
                    }
                }
            }
        }
    }

    async fn send<S>(&self, stream: S, request: http::Request<Full<Bytes>>) -> Result<Begun, ApiError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let fail = |e: hyper::Error| self.unreachable(e);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(fail)?;
        let mut driver = tokio::task::JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        let response = sender.send_request(request).await.map_err(fail)?;
        let code = response.status().as_u16();
        let index = response.headers().get("x-consul-index").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0);
        Ok(Begun { code, index, body: response.into_body(), connection: driver })
    }
}

/// An answer that has begun: what is still to come, and the connection, which ends when it is dropped.
struct Begun {
    code: u16,
    index: u64,
    body: hyper::body::Incoming,
    connection: tokio::task::JoinSet<()>,
}

async fn whole(begun: Begun) -> Result<Answer, hyper::Error> {
    let Begun { code, index, body, connection: _connection } = begun;
    Ok(Answer { code, index, body: body.collect().await?.to_bytes() })
}

/// Percent-encodes; a path keeps its slashes.
pub fn escape(text: &str, path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(b as char),
            b'/' if path => out.push('/'),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// Runs a command's body; an error is printed behind the given words, and the exit code is 1.
pub fn run(input: &Input, words: &str, body: impl FnOnce(&Api) -> Result<ExitCode, ApiError>) -> ExitCode {
    match Api::new(input).and_then(|api| body(&api)) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("{words}: {e}");
            ExitCode::FAILURE
        }
    }
}

/// A field of a JSON object as text.
pub fn text(v: &Value, key: &str) -> String {
    match &v[key] {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes() {
        assert_eq!(super::escape("a b/c?d", true), "a%20b/c%3Fd");
        assert_eq!(super::escape("a/b", false), "a%2Fb");
    }
}
