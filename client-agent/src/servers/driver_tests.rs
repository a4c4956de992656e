use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use causeway_proto::member::{Member, MemberStatus};

use super::*;

type Answer = Arc<dyn Fn(usize) -> BoxFuture<'static, Result<Response, Broken>> + Send + Sync>;

/// Servers 10.0.0.1.. that answer as told; counts calls.
struct Fakes {
    answers: Vec<Answer>,
    calls: Arc<AtomicUsize>,
}

fn ok() -> Result<Response, Broken> {
    Ok(Response::new(Body::empty()))
}

fn refusal(reason: Reason) -> Result<Response, Broken> {
    Ok(reason.status("x").into_http())
}

fn members(n: u8) -> Members {
    let tags = |n: u8| {
        BTreeMap::from([
            ("role", "consul".to_owned()),
            ("dc", "dc1".to_owned()),
            ("port", (8300 + u16::from(n)).to_string()),
        ])
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect()
    };
    let member = |n: u8| Member {
        name: format!("s{n}"),
        addr: SocketAddr::from(([10, 0, 0, n], 8301)),
        tags: tags(n),
        status: MemberStatus::Alive,
    };
    Arc::new((1..=n).map(member).collect())
}

impl Fakes {
    /// Every server answers the same; told how often any was asked before.
    fn all(answer: impl Fn(usize) -> Result<Response, Broken> + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::slow(move |n| {
            let answer = answer(n);
            Box::pin(async move { answer })
        })
    }

    fn slow(answer: impl Fn(usize) -> BoxFuture<'static, Result<Response, Broken>> + Send + Sync + 'static) -> Self {
        Self { answers: vec![Arc::new(answer)], calls: Arc::default() }
    }

    fn servers(&self, n: u8, local: Option<Door>) -> (Servers, watch::Sender<Members>) {
        let (sender, receiver) = watch::channel(members(n));
        let (answer, calls) = (self.answers[0].clone(), self.calls.clone());
        let dial = move |_| {
            let (answer, calls) = (answer.clone(), calls.clone());
            Door::from_fn(move |_| answer(calls.fetch_add(1, Ordering::SeqCst)))
        };
        (Servers::with_dial(receiver, dial, "dc1".into(), local, CancellationToken::new()), sender)
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn request(path: &str) -> Request {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = format!("http://x{path}").parse().unwrap();
    request
}

const READ: &str = "/causeway.kv.v1.Kv/Get";
const WRITE: &str = "/causeway.kv.v1.Kv/Apply";

fn reason(answer: Result<Response, Broken>) -> Option<Reason> {
    tonic::Status::from_header_map(answer.unwrap().headers()).map(|s| Reason::of(&s))
}

#[tokio::test]
async fn no_server_known() {
    let fakes = Fakes::all(|_| ok());
    let (servers, _keep) = fakes.servers(0, None);
    let answer = servers.door().call(request(READ)).await.unwrap();
    let status = tonic::Status::from_header_map(answer.headers()).unwrap();
    assert_eq!((Reason::of(&status), status.message()), (Reason::NoLeader, "No known Consul servers"));
}

#[tokio::test]
async fn reads_go_on_to_another_server_and_stay_there() {
    let fakes = Fakes::all(|n| if n == 0 { Err(Broken("reset".into())) } else { ok() });
    let (servers, _keep) = fakes.servers(3, None);
    let before = servers.addresses();
    assert_eq!(reason(servers.door().call(request(READ)).await), None);
    assert_eq!(fakes.calls(), 2);
    assert_eq!(servers.addresses()[0], before[1]);
    servers.door().call(request(READ)).await.unwrap();
    assert_eq!((fakes.calls(), servers.addresses()[0]), (3, before[1]), "sticks");
}

#[tokio::test]
async fn reads_are_tried_four_times_at_most() {
    let fakes = Fakes::all(|_| Err(Broken("reset".into())));
    let (servers, _keep) = fakes.servers(7, None);
    assert!(servers.door().call(request(READ)).await.is_err());
    assert_eq!(fakes.calls(), 4);
}

#[tokio::test]
async fn writes_are_repeated_by_their_name() {
    for (first, calls) in [
        (Err(Broken("reset".into())), 2),
        (Err(Broken("connect 10.0.0.1:8300: Connection refused".into())), 2),
        (Ok(Reason::Draining), 2),
        (Ok(Reason::Unreachable), 1),
    ] {
        let (told, shown) = (first.clone(), format!("{first:?}"));
        let fakes = Fakes::all(move |n| match (n, &told) {
            (0, Err(broken)) => Err(broken.clone()),
            (0, Ok(reason)) => refusal(*reason),
            _ => ok(),
        });
        let (servers, _keep) = fakes.servers(3, None);
        let _ = servers.door().call(request(WRITE)).await;
        assert_eq!(fakes.calls(), calls, "{shown}");
    }
}

#[tokio::test]
async fn the_server_in_this_process_comes_first() {
    let fakes = Fakes::all(|_| ok());
    let (servers, _keep) = fakes.servers(3, Some(Door::closed(Reason::NotFound.status("local"))));
    assert_eq!(reason(servers.door().call(request(READ)).await), Some(Reason::NotFound));
    assert_eq!(fakes.calls(), 0);
    let (servers, _keep) = fakes.servers(3, Some(Door::closed(Reason::Draining.status("going"))));
    assert_eq!(reason(servers.door().call(request(READ)).await), None);
    assert_eq!(fakes.calls(), 1, "it drains, so another is asked");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_does_not_hold_up_a_read() {
    let fakes = Fakes::slow(|n| {
        Box::pin(async move {
            if n == 0 {
                std::future::pending::<()>().await;
            }
            ok()
        })
    });
    let (servers, _keep) = fakes.servers(3, None);
    let start = Instant::now();
    let before = servers.addresses();
    servers.door().call(request(READ)).await.unwrap();
    assert_eq!((start.elapsed().as_secs(), fakes.calls()), (2, 2));
    assert_eq!(servers.addresses()[0], before[1], "the silent one is not asked first again");
}

#[tokio::test(start_paused = true)]
async fn every_call_ends_at_its_deadline() {
    let fakes = Fakes::slow(|_| Box::pin(std::future::pending()));
    let (servers, _keep) = fakes.servers(3, None);
    for (path, timeout, seconds, calls) in [(WRITE, None, 10, 1), (READ, None, 10, 3), (WRITE, Some("3S"), 3, 1)] {
        let before = fakes.calls();
        let start = Instant::now();
        let mut request = request(path);
        if let Some(timeout) = timeout {
            request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
        }
        assert_eq!(reason(servers.door().call(request).await), Some(Reason::Deadline));
        assert_eq!((start.elapsed().as_secs(), fakes.calls() - before), (seconds, calls), "{path}");
    }
}

#[tokio::test]
async fn members_are_followed() {
    let fakes = Fakes::all(|_| ok());
    let (servers, sender) = fakes.servers(1, None);
    assert_eq!(servers.addresses().len(), 1);
    sender.send_replace(members(3));
    tokio::time::timeout(Duration::from_secs(5), async {
        while servers.addresses().len() != 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_body_is_sent_again_whole_and_large_ones_are_refused() {
    let (servers, _keep) = {
        let (sender, receiver) = watch::channel(members(3));
        let asked = Arc::new(AtomicUsize::new(0));
        let dial = move |_| {
            let asked = asked.clone();
            Door::from_fn(move |request: Request| {
                let n = asked.fetch_add(1, Ordering::SeqCst);
                async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(body, "hello");
                    if n == 0 { Err(Broken("reset".into())) } else { ok() }
                }
            })
        };
        (Servers::with_dial(receiver, dial, "dc1".into(), None, CancellationToken::new()), sender)
    };
    let with = |text: Vec<u8>| request(READ).map(|_| Body::new(Full::new(Bytes::from(text))));
    assert_eq!(reason(servers.door().call(with(b"hello".to_vec())).await), None);
    assert_eq!(reason(servers.door().call(with(vec![0; MAX_REQUEST + 1])).await), Some(Reason::TooLarge));
}
