#![allow(clippy::disallowed_methods, reason = "tests serve")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers each connection by its request, as text.
async fn server(answer: impl Fn(&str) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let _ = stream.write_all(answer(&String::from_utf8_lossy(&request)).as_bytes()).await;
        }
    });
    addr
}

fn said(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn check(url: String) -> HttpCheck {
    HttpCheck { url, ..HttpCheck::default() }
}

async fn go(check: &HttpCheck) -> Outcome {
    run(check, 4096, &Tls::new(&[]).unwrap()).await
}

#[tokio::test]
async fn statuses() {
    for (line, status) in [
        ("200 OK", Status::Passing),
        ("204 No Content", Status::Passing),
        ("429 Too Many Requests", Status::Warning),
        ("404 Not Found", Status::Critical),
        ("503 Service Unavailable", Status::Critical),
        ("304 Not Modified", Status::Critical),
    ] {
        let body = if line.starts_with("200") { "hello" } else { "" };
        let addr = server(move |_| said(line, "", body)).await;
        let url = format!("http://{addr}/health");
        let outcome = go(&check(url.clone())).await;
        assert_eq!(outcome, Outcome::new(status, format!("HTTP GET {url}: {line} Output: {body}")));
    }
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{addr}/");
    let outcome = go(&check(url.clone())).await;
    assert_eq!(outcome, Outcome::critical(format!("Get {url:?}: dial tcp {addr}: connect: connection refused")));
}

#[tokio::test]
async fn bad_urls_are_critical() {
    for url in ["", "http://", "ftp://a/", "nonsense", "http://a b/"] {
        assert_eq!(go(&check(url.into())).await.status, Status::Critical, "{url:?}");
    }
}

#[tokio::test]
async fn method_headers_and_body_are_sent() {
    let addr = server(|request| said("200 OK", "", &request.to_ascii_lowercase())).await;
    let check = HttpCheck {
        method: "POST".into(),
        header: BTreeMap::from([("X-A".into(), vec!["1".into(), "2".into()]), ("Host".into(), vec!["other".into()])]),
        body: "ping".into(),
        ..check(format!("http://me:secret@{addr}/p?q=1"))
    };
    let output = go(&check).await.output;
    for part in [
        "post /p?q=1 http/1.1",
        "x-a: 1\r\nx-a: 2",
        "host: other",
        "content-length: 4",
        "authorization: basic",
        "user-agent: consul health check",
    ] {
        assert!(output.contains(part), "{part:?} in {output}");
    }
}

#[tokio::test]
async fn redirects_are_followed_ten_times_and_take_no_secrets_along() {
    let other = server(|request| {
        let secret = request.to_ascii_lowercase().contains("authorization");
        said(if secret { "500 Leaked" } else { "200 OK" }, "", "")
    })
    .await;
    let addr = server(move |request| match request.split(' ').nth(1) {
        Some("/a") => said("302 Found", "location: /b\r\n", ""),
        Some("/b") => said("200 OK", "", "at b"),
        Some("/away") => said("307 Temporary Redirect", &format!("location: http://{other}/\r\n"), ""),
        _ => said("301 Moved Permanently", "location: loop\r\n", ""),
    })
    .await;
    let outcome = go(&check(format!("http://{addr}/a"))).await;
    assert!(outcome.output.ends_with("200 OK Output: at b"), "{outcome:?}");
    let outcome = go(&check(format!("http://{addr}/loop"))).await;
    assert!(outcome.output.ends_with("stopped after 10 redirects"), "{outcome:?}");
    let secret = HttpCheck {
        header: BTreeMap::from([("Authorization".into(), vec!["x".into()])]),
        ..check(format!("http://{addr}/away"))
    };
    assert_eq!(go(&secret).await.status, Status::Passing);
    let stay = HttpCheck { disable_redirects: true, ..check(format!("http://{addr}/a")) };
    assert_eq!(go(&stay).await.status, Status::Critical);
}

#[tokio::test]
async fn large_answers_are_cut() {
    let addr = server(|_| said("200 OK", "", &"x".repeat(100_000))).await;
    let url = format!("http://{addr}/");
    let outcome = run(&check(url), 10, &Tls::new(&[]).unwrap()).await;
    assert!(outcome.output.ends_with(&format!("Output: {}", "x".repeat(10))), "{}", outcome.output.len());
}

#[test]
fn locations() {
    let from = target("http://a:1/x/y?z").unwrap();
    for (location, to) in
        [("https://b/", "https://b/"), ("//b/c", "http://b/c"), ("/c", "http://a:1/c"), ("c", "http://a:1/x/c")]
    {
        assert_eq!(follow(&from, location), to);
    }
    let v6 = target("https://[::1]/").unwrap();
    assert_eq!((v6.host.as_str(), v6.port, v6.https), ("::1", 443, true));
}

/// An HTTPS server on this machine that answers 200, and its certificate as PEM.
async fn https_server() -> (SocketAddr, String) {
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let provider = Arc::new(ring::default_provider());
    let secret = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], secret)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(said("200 OK", "", "safe").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (addr, key.cert.pem())
}

#[tokio::test]
async fn certificates_are_verified_unless_told_otherwise() {
    let (addr, pem) = https_server().await;
    let strict = check(format!("https://{addr}/"));
    let outcome = go(&strict).await;
    assert_eq!(outcome.status, Status::Critical);
    assert!(outcome.output.contains("tls: "), "{}", outcome.output);
    let trusting = Tls::new(&[pem.into_bytes()]).unwrap();
    assert_eq!(run(&strict, 4096, &trusting).await.status, Status::Passing);
    let named = |name: &str| HttpCheck { tls_server_name: name.into(), ..strict.clone() };
    assert_eq!(run(&named("127.0.0.1"), 4096, &trusting).await.status, Status::Passing);
    let other = run(&named("other.example"), 4096, &trusting).await;
    assert!(other.output.contains("tls: "), "the name is what is verified: {}", other.output);
    // The same over a TCP check.
    let with =
        |on, server_name: &str| crate::registry::CheckTls { on, skip_verify: false, server_name: server_name.into() };
    let tcp =
        |with| async move { crate::checks::tcp::run(&addr.to_string(), &with, &Tls::new(&[]).unwrap()).await.status };
    assert_eq!(tcp(with(false, "")).await, Status::Passing);
    assert_eq!(tcp(with(true, "")).await, Status::Critical, "an authority nobody trusts");
    let address = addr.to_string();
    assert_eq!(crate::checks::tcp::run(&address, &with(true, ""), &trusting).await.status, Status::Passing);
    assert_eq!(
        crate::checks::tcp::run(&address, &with(true, "other.example"), &trusting).await.status,
        Status::Critical
    );
    let careless = HttpCheck { tls_skip_verify: true, ..strict };
    assert!(go(&careless).await.output.ends_with("200 OK Output: safe"));
}
