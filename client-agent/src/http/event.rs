//! `/v1/event/*`: user events.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use causeway_proto::access::Access;
use causeway_proto::event::FireRequest;
use causeway_proto::event::events_client::EventsClient;
use causeway_proto::meta::MAX_WAIT;
use http::HeaderValue;
use serde::Serialize;

use super::dispatch::{Call, ask};
use super::failure::Failure;
use super::query;
use super::render::Seq;
use super::reply::{INDEX, Reply};
use crate::events::{Event, Events, to_message, uuid};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventJson<'a> {
    #[serde(rename = "ID")]
    id: String,
    name: &'a str,
    payload: Option<String>,
    node_filter: &'a str,
    service_filter: &'a str,
    tag_filter: &'a str,
    version: u8,
    #[serde(rename = "LTime")]
    ltime: u64,
}

impl<'a> From<&'a Event> for EventJson<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            id: uuid(event.id),
            name: &event.name,
            payload: (!event.payload.is_empty()).then(|| STANDARD.encode(&event.payload)),
            node_filter: &event.node_filter,
            service_filter: &event.service_filter,
            tag_filter: &event.tag_filter,
            version: event.version,
            ltime: event.ltime,
        }
    }
}

/// Fires an event here, or (`?dc=`) in the one datacenter that is named.
pub(crate) async fn fire(call: &Call<'_>) -> Result<Reply, Failure> {
    let name = call.named("Missing name")?;
    let meta = call.meta()?;
    call.must(|who| who.event(name, Access::Write))?;
    let mut event = Events::draft(name.to_owned(), call.body.to_vec());
    for (filter, param) in
        [(&mut event.node_filter, "node"), (&mut event.service_filter, "service"), (&mut event.tag_filter, "tag")]
    {
        call.params.get(param).clone_into(filter);
    }
    let refused = |e: crate::events::EventError| Failure::internal(e.to_string());
    Events::check(&event).map_err(refused)?;
    if meta.datacenter.is_some() {
        ask!(call, meta, EventsClient<_>, fire, FireRequest { event: Some(to_message(&event)) })?;
    } else {
        call.ctx.events.fire(event.clone()).await.map_err(refused)?;
    }
    call.json(&EventJson::from(&event))
}

/// The events that this agent heard, those of one name with `?name=`. With `?index=` it waits until the last of them is another one.
/// Like Consul it knows no other filters and no datacenter.
pub(crate) async fn list(call: &Call<'_>) -> Result<Reply, Failure> {
    let (index, wait) = query::blocking(&call.params, &call.ctx.reads)?;
    let wait = wait.filter(|w| !w.is_zero()).unwrap_or(MAX_WAIT);
    let name = call.params.get("name");
    let mut ring = call.ctx.events.watch();
    let another = async {
        loop {
            let found = ring.borrow_and_update().list(name);
            if index == 0 || found.1 != index {
                return found;
            }
            if ring.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let (events, index) = match tokio::time::timeout(wait, another).await {
        Ok(found) => found,
        Err(_) => call.ctx.events.watch().borrow().list(name),
    };
    let seen = |event: &Event| call.may(|who| who.event(&event.name, Access::Read));
    let events: Vec<_> = events.into_iter().filter(|event| seen(event)).collect();
    let mut reply = call.json(&Seq(events.iter().map(|event| EventJson::from(&**event))))?;
    reply.headers.insert(INDEX, HeaderValue::from(index));
    Ok(reply)
}
