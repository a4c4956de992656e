//! Service `Views`: what a topic looks like, and what changed between two looks. Pure; [`super::driver`] has the tasks.

use std::ops::Bound;
use std::sync::Arc;

use causeway_proto::catalog::{Node, ServiceHealth};
use causeway_proto::rejection::Reason;
use causeway_proto::view::view_event::Change;
use causeway_proto::view::{
    Heartbeat, InstanceKey, NamesChange, NodeChange, ServiceHealthChange, SubscribeRequest, TopicKind, ViewEvent,
};
use futures::stream::BoxStream;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prost::Message;
use tonic::{Request, Response, Status};

use super::{Log, Service};
use crate::store::{State, Topic, fold};

/// Pieces of snapshots and large deltas stay below this many bytes, unless one instance alone is larger.
const PIECE: usize = 512 << 10;

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// The health of a service name (lowered).
    Service(Arc<str>),
    /// Every service name.
    Names,
    /// A node by name (lowered).
    Node(Arc<str>),
}

impl Subject {
    pub(super) fn parse(request: &SubscribeRequest) -> Result<Self, Status> {
        match (request.kind(), request.key.as_str()) {
            (TopicKind::ServiceNames, _) => Ok(Self::Names),
            (TopicKind::ServiceHealth | TopicKind::Node, "") => {
                Err(Reason::Invalid.status("a view of a service or node needs its name in \"key\""))
            }
            (TopicKind::ServiceHealth, name) => Ok(Self::Service(fold(name))),
            (TopicKind::Node, name) => Ok(Self::Node(fold(name))),
            (TopicKind::Unspecified, _) => {
                Err(Reason::Invalid.status("this server does not know the kind of view; ask one of a newer version"))
            }
        }
    }

    pub(super) fn topic(&self) -> Topic {
        match self {
            Self::Service(name) => Topic::Service(Arc::clone(name)),
            Self::Names => Topic::ServiceNames,
            Self::Node(name) => Topic::Node(Arc::clone(name)),
        }
    }
}

type Instances = OrdMap<(Arc<str>, Arc<str>), Arc<ServiceHealth>>;

#[derive(Debug, Clone)]
enum Picture {
    Service(Instances),
    Names(OrdMap<Arc<str>, Arc<str>>),
    Node(Option<Arc<Node>>),
}

/// A subject at an index; shares its content with the store.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) index: u64,
    picture: Picture,
}

impl Look {
    pub(super) fn at(state: &State, subject: &Subject) -> Self {
        match subject {
            Subject::Service(name) => Self {
                index: state.service_index(name),
                picture: Picture::Service(state.service(name).map_or_else(OrdMap::new, |row| row.instances().clone())),
            },
            Subject::Names => {
                let (names, index) = state.service_names();
                Self { index, picture: Picture::Names(names.clone()) }
            }
            Subject::Node(name) => {
                let node = state.node(name).map(|row| Arc::clone(row.node()));
                let index = node.as_ref().map_or_else(|| state.index(), |node| node.modify_index).max(1);
                Self { index, picture: Picture::Node(node) }
            }
        }
    }

    /// The whole of it, in pieces made when they are asked for: a thousand subscribers of a large service that come at once
    /// share what the store holds anyway.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot { look: self.clone(), after: Place::Start }
    }

    /// What turns an earlier look at the same subject into this one; empty where nothing that is seen changed. Costs what
    /// changed, not what there is.
    pub(super) fn since(&self, before: &Self) -> Vec<ViewEvent> {
        let changes = match (&before.picture, &self.picture) {
            (Picture::Service(old), Picture::Service(new)) => {
                let (mut upsert, mut remove) = (Vec::new(), Vec::new());
                for item in old.diff(new) {
                    match item {
                        DiffItem::Add(_, value) | DiffItem::Update { new: (_, value), .. } => {
                            upsert.push(ServiceHealth::clone(value));
                        }
                        DiffItem::Remove((_, id), gone) => {
                            // As the instance spelled its node, which is what the view knows.
                            let node = gone.node.as_ref().map_or_else(String::new, |node| node.name.clone());
                            remove.push(InstanceKey { node, service_id: id.as_ref().to_owned() });
                        }
                    }
                }
                if upsert.is_empty() && remove.is_empty() { Vec::new() } else { health_pieces(upsert, remove) }
            }
            (Picture::Names(old), Picture::Names(new)) => {
                let (mut upsert, mut remove) = (Vec::new(), Vec::new());
                for item in old.diff(new) {
                    match item {
                        DiffItem::Add(_, name) => upsert.push(name.to_string()),
                        DiffItem::Remove(_, name) => remove.push(name.to_string()),
                        // The name went and came back, spelled otherwise, between two looks.
                        DiffItem::Update { old: (_, old), new: (_, new) } => {
                            remove.push(old.to_string());
                            upsert.push(new.to_string());
                        }
                    }
                }
                if upsert.is_empty() && remove.is_empty() { Vec::new() } else { name_pieces(upsert, remove) }
            }
            (Picture::Node(old), Picture::Node(new)) if old == new => Vec::new(),
            (_, Picture::Node(new)) => vec![Change::Node(NodeChange { node: new.as_deref().cloned() })],
            // Looks at one subject are of one kind.
            (_, Picture::Service(_) | Picture::Names(_)) => Vec::new(),
        };
        let event = |change| ViewEvent { index: self.index, reset: false, complete: true, change: Some(change) };
        changes.into_iter().map(event).collect()
    }
}

#[derive(Debug)]
enum Place {
    Start,
    Instance((Arc<str>, Arc<str>)),
    Name(Arc<str>),
    End,
}

/// The pieces of a look: the first event resets, the last completes.
#[derive(Debug)]
pub(super) struct Snapshot {
    look: Look,
    after: Place,
}

impl Iterator for Snapshot {
    type Item = ViewEvent;

    fn next(&mut self) -> Option<ViewEvent> {
        let reset = match self.after {
            Place::Start => true,
            Place::End => return None,
            Place::Instance(_) | Place::Name(_) => false,
        };
        let mut place = Place::End;
        let change = match &self.look.picture {
            Picture::Service(instances) => {
                let from = match &self.after {
                    Place::Instance(key) => Bound::Excluded(key.clone()),
                    _ => Bound::Unbounded,
                };
                let (mut upsert, mut bytes) = (Vec::new(), 0);
                let mut last = None;
                for (key, instance) in instances.range::<_, (Arc<str>, Arc<str>)>((from, Bound::Unbounded)) {
                    bytes += instance.encoded_len() + 8;
                    if let Some(last) = last.take_if(|_| bytes > PIECE) {
                        place = Place::Instance(last);
                        break;
                    }
                    last = Some(key.clone());
                    upsert.push(ServiceHealth::clone(instance));
                }
                Change::ServiceHealth(ServiceHealthChange { upsert, remove: Vec::new() })
            }
            Picture::Names(names) => {
                let from = match &self.after {
                    Place::Name(key) => Bound::Excluded(key.clone()),
                    _ => Bound::Unbounded,
                };
                let (mut upsert, mut bytes) = (Vec::new(), 0);
                let mut last = None;
                for (key, name) in names.range::<_, Arc<str>>((from, Bound::Unbounded)) {
                    bytes += name.len() + 8;
                    if let Some(last) = last.take_if(|_| bytes > PIECE) {
                        place = Place::Name(last);
                        break;
                    }
                    last = Some(Arc::clone(key));
                    upsert.push(name.to_string());
                }
                Change::Names(NamesChange { upsert, remove: Vec::new() })
            }
            Picture::Node(node) => Change::Node(NodeChange { node: node.as_deref().cloned() }),
        };
        self.after = place;
        let complete = matches!(self.after, Place::End);
        Some(ViewEvent { index: self.look.index, reset, complete, change: Some(change) })
    }
}

/// Removals go first: an instance that moved to a node spelled otherwise is removed, then put.
fn health_pieces(upsert: impl IntoIterator<Item = ServiceHealth>, remove: Vec<InstanceKey>) -> Vec<Change> {
    let mut pieces = Vec::new();
    let mut piece = ServiceHealthChange { upsert: Vec::new(), remove };
    let mut bytes = piece.encoded_len();
    for instance in upsert {
        let more = instance.encoded_len() + 8;
        if bytes + more > PIECE && bytes > 0 {
            pieces.push(Change::ServiceHealth(std::mem::take(&mut piece)));
            bytes = 0;
        }
        bytes += more;
        piece.upsert.push(instance);
    }
    pieces.push(Change::ServiceHealth(piece));
    pieces
}

fn name_pieces(upsert: impl IntoIterator<Item = String>, remove: Vec<String>) -> Vec<Change> {
    let mut pieces = Vec::new();
    let mut piece = NamesChange { upsert: Vec::new(), remove };
    let mut bytes = piece.encoded_len();
    for name in upsert {
        let more = name.len() + 8;
        if bytes + more > PIECE && bytes > 0 {
            pieces.push(Change::Names(std::mem::take(&mut piece)));
            bytes = 0;
        }
        bytes += more;
        piece.upsert.push(name);
    }
    pieces.push(Change::Names(piece));
    pieces
}

pub(super) fn heartbeat(index: u64, last_contact: std::time::Duration) -> ViewEvent {
    let last_contact_ms = u64::try_from(last_contact.as_millis()).unwrap_or(u64::MAX);
    ViewEvent { index, reset: false, complete: false, change: Some(Change::Heartbeat(Heartbeat { last_contact_ms })) }
}

#[tonic::async_trait]
impl<L: Log> causeway_proto::view::views_server::Views for Service<L> {
    type SubscribeStream = BoxStream<'static, Result<ViewEvent, Status>>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let subject = Subject::parse(request.get_ref())?;
        let follower = self.hub.follow(subject, self.limits.max_topics)?;
        let log = Arc::clone(&self.log);
        let stream: Self::SubscribeStream = Box::pin(follower.events(move || log.contact().last_contact));
        Ok(self.answer(0).response(stream))
    }
}
