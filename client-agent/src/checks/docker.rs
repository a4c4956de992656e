//! Runs a program inside a container, by Docker's API over its Unix socket. Runs inside the driver's deadline.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use tokio::net::UnixStream;

use super::Outcome;
use super::http::over;
use super::output::Tail;
use crate::http::containers;
use crate::registry::{ScriptCheck, Status};

/// Bytes of the API's own answers.
const ANSWER: usize = 64 << 10;
/// The shell where a check has a line and names none.
const SHELL: &str = "/bin/sh";

/// Runs it: exit status 0 passes, 1 warns, anything else is critical.
pub(super) async fn run(socket: &Path, container: &str, shell: &str, script: &ScriptCheck, limit: usize) -> Outcome {
    match exec(socket, container, shell, script, limit).await {
        Ok((code, output)) => {
            let status = match code {
                0 => Status::Passing,
                1 => Status::Warning,
                _ => Status::Critical,
            };
            Outcome::new(status, output)
        }
        Err(error) => Outcome::critical(error),
    }
}

async fn exec(
    socket: &Path,
    container: &str,
    shell: &str,
    script: &ScriptCheck,
    limit: usize,
) -> Result<(i64, String), String> {
    let shell = if shell.is_empty() { SHELL } else { shell };
    let command = match script {
        ScriptCheck::Args(args) => args.clone(),
        ScriptCheck::Shell(line) => vec![shell.to_owned(), "-c".to_owned(), line.clone()],
    };
    let create = containers::create(&command);
    let (code, text) =
        call(socket, Method::POST, &format!("/containers/{}/exec", name(container)?), create, ANSWER).await?;
    match code {
        StatusCode::CREATED => {}
        StatusCode::NOT_FOUND => return Err(format!("create exec failed for unknown container {container:?}")),
        StatusCode::CONFLICT => {
            return Err(format!("create exec failed since container {container:?} is paused or stopped"));
        }
        _ => {
            return Err(format!(
                "create exec failed for container {container:?} with status {}: {}",
                code.as_u16(),
                text.text().trim()
            ));
        }
    }
    let id = containers::id(&text.text())?;
    let (code, output) =
        call(socket, Method::POST, &format!("/exec/{}/start", name(&id)?), containers::START.to_owned(), limit).await?;
    if code != StatusCode::OK {
        return Err(format!("start exec failed for container {container:?} with status {}", code.as_u16()));
    }
    let (code, text) = call(socket, Method::GET, &format!("/exec/{}/json", name(&id)?), String::new(), ANSWER).await?;
    if code != StatusCode::OK {
        return Err(format!("inspect exec failed for container {container:?} with status {}", code.as_u16()));
    }
    let exit = containers::exit_code(&text.text())?;
    Ok((exit, output.captured()))
}

/// Ids and names go into a path as they are, so nothing else may be in them.
fn name(id: &str) -> Result<&str, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if !id.is_empty() && !id.starts_with('.') && id.bytes().all(plain) {
        Ok(id)
    } else {
        Err(format!("{id:?} is no container id"))
    }
}

async fn call(
    socket: &Path,
    method: Method,
    path: &str,
    body: String,
    limit: usize,
) -> Result<(StatusCode, Tail), String> {
    let io = UnixStream::connect(socket).await.map_err(|e| {
        format!("Cannot connect to the Docker daemon at unix://{}: {e}; is it running?", socket.display())
    })?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "docker")
        .header(header::CONNECTION, "close")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let answer = over(io, request, limit).await?;
    Ok((answer.status, answer.output))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests serve")]

    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http_body_util::BodyExt;
    use hyper_util::rt::TokioIo;
    use serde_json::{Value, json};
    use tokio::net::UnixListener;

    use super::*;

    /// A Docker with one container, `web`, in which `Cmd` is what is said and its length decides the exit code.
    fn daemon(socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let said = Arc::new(Mutex::new(Vec::<String>::new()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let said = said.clone();
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let said = said.clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let (code, text) = match path.as_str() {
                            "/containers/web/exec" => {
                                let asked: Value = serde_json::from_slice(&body).unwrap();
                                *said.lock().unwrap() = serde_json::from_value(asked["Cmd"].clone()).unwrap();
                                (201, r#"{"Id":"e1"}"#.to_owned())
                            }
                            "/exec/e1/start" => (200, said.lock().unwrap().join(" ")),
                            "/exec/e1/json" => (200, json!({"ExitCode": said.lock().unwrap().len() - 1}).to_string()),
                            _ => (404, r#"{"message":"No such container"}"#.to_owned()),
                        };
                        let response = http::Response::builder().status(code).body(Full::<Bytes>::from(text));
                        Ok::<_, Infallible>(response.unwrap())
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    }

    #[tokio::test]
    async fn programs_run_inside_containers() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let args = |list: &[&str]| ScriptCheck::Args(list.iter().map(|s| (*s).to_owned()).collect());
        let missing = run(&socket, "web", "", &args(&["a"]), 4096).await;
        assert!(missing.output.starts_with("Cannot connect to the Docker daemon"), "{missing:?}");
        daemon(&socket);
        for (script, status, output) in [
            (args(&["a"]), Status::Passing, "a"),
            (args(&["a", "b"]), Status::Warning, "a b"),
            (ScriptCheck::Shell("x y".into()), Status::Critical, "/bin/bash -c x y"),
        ] {
            assert_eq!(run(&socket, "web", "/bin/bash", &script, 4096).await, Outcome::new(status, output));
        }
        let unknown = run(&socket, "db", "", &args(&["a"]), 4096).await;
        assert_eq!(unknown, Outcome::critical("create exec failed for unknown container \"db\""));
        assert!(run(&socket, "../exec", "", &args(&["a"]), 4096).await.output.contains("no container id"));
    }
}
