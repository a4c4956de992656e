//! Sample services of `causeway dev`: small real listeners in this process, registered with each datacenter's agent, with checks
//! that really ask them.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::ask;
use super::layout::Layout;

/// Starts the listeners (they live as long as the runtime) and registers them; gives the number of services in each datacenter.
pub async fn register(layout: &Layout) -> Result<usize, String> {
    let mut count = 0;
    for site in &layout.sites {
        count = 0;
        for (id, name, tags, http) in [
            ("web-1", "web", ["primary", "v1"], true),
            ("web-2", "web", ["secondary", "v1"], true),
            ("db", "db", ["postgres", "v15"], false),
            ("cache", "cache", ["redis", "v7"], false),
        ] {
            let port = listen(format!("{id} of {}\n", site.name)).await.map_err(|e| format!("sample {id}: {e}"))?;
            let check = if http {
                json!({"HTTP": format!("http://127.0.0.1:{port}/health"), "Interval": "1s", "Timeout": "1s"})
            } else {
                json!({"TCP": format!("127.0.0.1:{port}"), "Interval": "1s", "Timeout": "1s"})
            };
            let body =
                json!({"ID": id, "Name": name, "Tags": tags, "Address": "127.0.0.1", "Port": port, "Check": check});
            let path = "/v1/agent/service/register?replace-existing-checks=true";
            let answer = ask(site.agent().http, "PUT", path, body.to_string(), Duration::from_secs(5)).await?;
            if answer.code != 200 {
                return Err(format!("sample {id} in {}: {}", site.name, String::from_utf8_lossy(&answer.body)));
            }
            count += 1;
        }
    }
    Ok(count)
}

/// A listener that answers every request with these words.
async fn listen(words: String) -> std::io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{words}", words.len());
            tokio::spawn(tokio::time::timeout(Duration::from_secs(2), async move {
                let mut request = [0u8; 1024];
                if stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }));
        }
    });
    Ok(port)
}
