#![allow(clippy::disallowed_methods, reason = "starts and stops the gateway's tasks")]
//! Starts a gateway, offers its door, stops it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use causeway_certs::authority::Authority;
use causeway_certs::material::Material;
use causeway_proto::door::{Door, Request};
use causeway_proto::federation::v1::directory_server::{Directory, DirectoryServer};
use causeway_proto::federation::v1::{SiteStatus, SitesReply, SitesRequest};
use causeway_proto::meta::{AnswerMeta, Meta};
use causeway_proto::method::{self, Kind};
use quinn::{Endpoint, VarInt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Extras, StartError, World};
use crate::carrier::reach::driver::{self as reach, Dialler, Maker};
use crate::catalogue::driver as catalogue;
use crate::config::Config;
use crate::directory;
use crate::directory::driver as disk;
use crate::doctor::driver::Doctor;
use crate::doctor::{Finding, Verdict};
use crate::forward;
use crate::join::driver::{Desk, Office};
use crate::join::{CreateError, Created, RemoveError};
use crate::link::CloseCode;
use crate::link::driver as links;
use crate::membership::Membership;
use crate::membership::driver::{self as roll, Roll};
use crate::qlog::driver::Qlog;
use crate::shelf::Shelf;
use crate::task::driver::{Brain, Order};
use crate::task::routes::Routes;
use crate::tls::Tls;
use crate::views::driver::{Bounds, Hub};

/// Notes that wait for the gateway's task.
const NOTES: usize = 4096;
/// Ports tried for UDP and TCP alike where any will do.
const TRIES: usize = 8;
/// Calls under way may take this long to finish when the gateway stops.
const DRAIN: Duration = Duration::from_millis(600);
/// Time for another gateway to look.
const FAR_END: Duration = Duration::from_secs(12);
/// Time for the last packets.
const FAREWELL: Duration = Duration::from_millis(300);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    config: Arc<Config>,
    routes: Arc<ArcSwap<Routes>>,
    sites: watch::Receiver<Arc<Vec<SiteStatus>>>,
    endpoint: Endpoint,
    local_addr: SocketAddr,
    orders: mpsc::Sender<Order>,
    tasks: TaskTracker,
    stop: CancellationToken,
    desk: Option<Arc<Desk>>,
    roll: Arc<Roll>,
    dialler: Dialler,
    material: Arc<Material>,
    views: Hub,
}

impl Gateway {
    /// Opens the socket and begins to dial and to accept. `stop` ends everything at once; [`Gateway::stop`] ends it politely.
    pub async fn start(config: Config, world: World, stop: CancellationToken) -> Result<Self, StartError> {
        Self::start_issuing(config, world, None, stop).await
    }

    /// The same, at a gateway where new sites can join: with an authority it makes tokens ([`Gateway::create_token`]) and signs the
    /// keys of who brings one.
    pub async fn start_issuing(
        config: Config,
        world: World,
        authority: Option<Arc<Authority>>,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        Self::start_with(config, world, Extras { authority, shelf: None }, stop).await
    }

    /// The same, sharing with the other gateways of its site what they keep together.
    pub async fn start_with(
        config: Config,
        world: World,
        extras: Extras,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let Extras { authority, shelf } = extras;
        causeway_proto::name::own_datacenter(&config.datacenter)?;
        causeway_proto::name::node(&config.node_name)?;
        let World { material, servers, members } = world;
        let tls = Tls::new(material.clone(), &config.domain, authority.clone());
        let (known, reset_key) = match config.data_dir.clone() {
            Some(dir) => tokio::task::spawn_blocking(move || {
                let key = disk::reset_key(&dir).unwrap_or_else(|error| {
                    tracing::warn!(path = %dir.display(), %error, "no reset key can be kept: other sites will notice a restart a second later");
                    rand::random()
                });
                (disk::load(&dir), key)
            })
            .await
            // A thread that dies counts as nothing kept.
            .unwrap_or_else(|_| (Vec::new(), rand::random())),
            None => (Vec::new(), rand::random()),
        };
        let server = links::server(&config, &tls)?;
        let mut endpoint = links::endpoint(&config, server.clone(), &reset_key)?;
        let mut local_addr =
            endpoint.local_addr().map_err(|source| StartError::Bind { addr: config.listen, source })?;
        let mut listener = None;
        if let Some(listen) = config.listen {
            // One port number for both. Where any port will do, the one that UDP got may be taken for TCP.
            for left in (0..TRIES).rev() {
                match reach::listen(SocketAddr::new(listen.ip(), local_addr.port())) {
                    Ok(open) => {
                        listener = Some(open);
                        break;
                    }
                    Err(_) if listen.port() == 0 && left > 0 => {
                        endpoint = links::endpoint(&config, server.clone(), &reset_key)?;
                        local_addr =
                            endpoint.local_addr().map_err(|source| StartError::Bind { addr: config.listen, source })?;
                    }
                    Err(source) => return Err(StartError::BindTcp { addr: listen, source }),
                }
            }
        }
        let config = Arc::new(config);
        let routes = Arc::new(ArcSwap::from_pointee(Routes::default()));
        let (sites_tx, sites) = watch::channel(Arc::new(Vec::new()));
        let membership = match config.data_dir.clone() {
            None => Membership::default(),
            Some(dir) => {
                let path = roll::file(&dir);
                let read = tokio::task::spawn_blocking(move || roll::load(&dir)).await;
                read.unwrap_or_else(|dead| Err(std::io::Error::other(dead)))
                    .map_err(|source| StartError::Removed { path, source })?
            }
        };
        let roll = Arc::new(Roll::new(membership, config.data_dir.clone(), Arc::clone(&material), authority.clone()));
        let removed = roll.removed();
        let desk = authority.map(|authority| {
            Arc::new(Desk::open(Office {
                authority,
                config: Arc::clone(&config),
                advertised: config.advertised(local_addr),
                sites: sites.clone(),
                members: members.clone(),
                removed: Arc::clone(&removed),
                shelf: shelf.clone().unwrap_or_else(Shelf::memory),
            }))
        });
        let (notes_tx, notes) = mpsc::channel(NOTES);
        let (orders, orders_rx) = mpsc::channel(4);
        let tasks = TaskTracker::new();
        let stop = stop.child_token();
        let maker = Maker { limits: config.limits.clone(), tasks: tasks.clone(), stop: stop.clone() };
        if let Some(listener) = listener {
            tasks.spawn(reach::accept(listener, tls.clone(), notes_tx.clone(), maker.clone(), desk.clone()));
        }
        let qlog = Qlog::new(&config.node_name, config.qlog_dir.clone());
        let dialler = Dialler {
            endpoint: endpoint.clone(),
            config: Arc::clone(&config),
            tls: tls.clone(),
            maker,
            qlog: qlog.clone(),
        };
        if let Some(server) = server {
            let porch = links::Porch { endpoint: endpoint.clone(), config: Arc::clone(&config), server, qlog };
            tasks.spawn(links::accept(porch, notes_tx.clone(), tasks.clone(), stop.clone()));
        }
        if let Some(shelf) = shelf {
            tasks.spawn(roll::share(Arc::clone(&roll), shelf, stop.clone()));
        }
        tasks.spawn(catalogue::follow(servers.clone(), sites.clone(), orders.clone(), stop.clone()));
        let brain = Brain::new(crate::task::driver::Parts {
            config: Arc::clone(&config),
            advertised: config.advertised(local_addr),
            tls,
            servers,
            members,
            endpoint: endpoint.clone(),
            dialler: dialler.clone(),
            routes: Arc::clone(&routes),
            sites: sites_tx,
            notes: notes_tx,
            tasks: tasks.clone(),
            stop: stop.clone(),
            known,
            join: desk.clone(),
            removed: Arc::clone(&removed),
            roll: Arc::clone(&roll),
        });
        tasks.spawn(brain.run(notes, orders_rx));
        let limits = &config.limits;
        let bounds = Bounds { topics: limits.views, subscribers: limits.view_subscribers, bytes: limits.view_bytes };
        let away = away(Arc::clone(&routes), Arc::clone(&config));
        let views = Hub::new(away, bounds, tasks.clone(), stop.clone());
        Ok(Self {
            config,
            routes,
            sites,
            endpoint,
            local_addr,
            orders,
            tasks,
            stop,
            desk,
            roll,
            dialler,
            material,
            views,
        })
    }

    /// The LAN side: takes calls with the header `causeway-dc` for other sites, and `Directory.Sites`.
    pub fn door(&self) -> Door {
        let away = away(Arc::clone(&self.routes), Arc::clone(&self.config));
        let views = self.views.clone();
        let directory =
            DirectoryServer::new(Sites { sites: self.sites.clone(), gateway: self.config.node_name.clone() });
        Door::from_fn(move |request: Request| {
            let (away, views, mut directory) = (away.clone(), views.clone(), directory.clone());
            async move {
                if method::find(request.uri().path()).is_some_and(|m| m.kind == Kind::Stream) {
                    return Ok(Box::pin(views.call(request)).await);
                }
                if request.uri().path() == "/causeway.federation.v1.Directory/Sites" {
                    return match tower::Service::call(&mut directory, request).await {
                        Ok(response) => Ok(response),
                        Err(never) => match never {},
                    };
                }
                away.call(request).await
            }
        })
    }

    /// All known sites, our own first; anew when something changes and once a second.
    pub fn sites(&self) -> watch::Receiver<Arc<Vec<SiteStatus>>> {
        self.sites.clone()
    }

    /// Makes a token with which the site of this name can join. `addresses`: where it is to dial; empty: what we advertise.
    pub fn create_token(
        &self,
        datacenter: String,
        lifetime: Duration,
        addresses: Vec<String>,
    ) -> impl Future<Output = Result<Created, CreateError>> + Send + 'static {
        let desk = self.desk.clone();
        async move {
            let Some(desk) = desk else { return Err(CreateError::NoAuthority) };
            desk.create(&datacenter, lifetime, addresses).await
        }
    }

    /// What sites that join here are told that this one exports, in words.
    pub fn describe_exports(&self, text: String) {
        if let Some(desk) = &self.desk {
            desk.describe_exports(text);
        }
    }

    /// Takes a site out of the federation, or takes that back: its certificates are refused, its links closed, and nothing is routed
    /// to it or by way of it. With the authority's key that holds for every gateway of every site (`true`), without it for this
    /// gateway (`false`). Kept on disk.
    pub async fn set_removed(&self, datacenter: String, remove: bool) -> Result<bool, RemoveError> {
        let datacenter = causeway_proto::name::own_datacenter(&datacenter)?;
        if datacenter == self.config.datacenter {
            return Err(RemoveError::Own(datacenter));
        }
        let mut known = self.sites.borrow().iter().filter_map(|s| s.site.as_ref()).any(|s| s.datacenter == datacenter);
        // Whoever redeemed a token holds a certificate, whether it has linked or not.
        if let (false, true, Some(desk)) = (known, remove, &self.desk) {
            known = desk.has_certified(&datacenter).await;
        }
        let roll = Arc::clone(&self.roll);
        let set = tokio::task::spawn_blocking(move || roll.set(&datacenter, remove, known)).await;
        set.unwrap_or_else(|dead| Err(RemoveError::Disk(dead.to_string())))
    }

    /// Looks at what links to all known sites, or to one, need, and has the other ends look too, where there is a link to ask them
    /// over; changes nothing.
    pub async fn doctor(&self, datacenter: Option<String>) -> Result<Vec<Finding>, String> {
        let sites = self.sites.borrow().clone();
        let named = |s: &SiteStatus| s.site.as_ref().map(|s| s.datacenter.clone());
        let wanted = |dc: &String| datacenter.as_ref().is_none_or(|d| d == dc);
        let others: Vec<String> = sites.iter().filter(|s| !s.local).filter_map(named).filter(wanted).collect();
        let doctor = Doctor {
            config: Arc::clone(&self.config),
            dialler: self.dialler.clone(),
            material: Arc::clone(&self.material),
            sites,
        };
        let far = futures::future::join_all(others.iter().map(|dc| self.far_end(dc)));
        let (here, there) = tokio::join!(Box::pin(doctor.look(datacenter.clone())), far);
        let mut found = here?;
        for finding in &mut found {
            finding.at.clone_from(&self.config.datacenter);
        }
        found.extend(there.into_iter().flatten());
        Ok(found)
    }

    /// What a gateway of that site finds.
    async fn far_end(&self, datacenter: &str) -> Vec<Finding> {
        let (done, wait) = tokio::sync::oneshot::channel();
        let order = Order::Examine { datacenter: datacenter.to_owned(), done };
        let report = match self.orders.send(order).await {
            Ok(()) => tokio::time::timeout(FAR_END, wait).await,
            Err(_) => return Vec::new(),
        };
        let own = &self.config.datacenter;
        let why = match report {
            Ok(Ok(report)) => match report.findings(datacenter) {
                Ok(found) => return found,
                Err(why) => why,
            },
            Ok(Err(_)) => "no link to ask it over".to_owned(),
            Err(_) => format!("its gateway said nothing within {} s; it may be an older version", FAR_END.as_secs()),
        };
        let advice = format!("at a gateway of {datacenter}: causeway federation doctor {own}");
        vec![Finding {
            at: datacenter.to_owned(),
            verdict: Verdict::Skip,
            check: "far end",
            subject: own.clone(),
            found: why,
            advice,
        }]
    }

    /// Where traces of QUIC connections are written from now on, one file each, in the format qlog; `None`: nowhere. Links there are
    /// are made anew, so that they are traced too; calls under way on the old ones finish.
    pub fn set_qlog(&self, dir: Option<PathBuf>) {
        self.dialler.qlog.set(dir);
    }

    /// Its node name.
    pub fn node_name(&self) -> &str {
        &self.config.node_name
    }

    /// The address, UDP and TCP.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Tells the other sites that this gateway leaves for good (where it is the last one of its site: that the site left), and stops.
    pub async fn leave(&self) {
        self.end(true).await;
    }

    /// Tells the other sites to send nothing new, lets calls under way finish for a moment, closes the links. Within one second.
    pub async fn stop(&self) {
        self.end(false).await;
    }

    async fn end(&self, leave: bool) {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self.orders.send(Order::Drain { leave, done }).await.is_ok() {
            let _ = tokio::time::timeout(DRAIN, wait).await;
        }
        self.stop.cancel();
        self.endpoint.close(VarInt::from_u32(CloseCode::Stopping as u32), b"");
        self.tasks.close();
        let _ = tokio::time::timeout(FAREWELL, async {
            self.tasks.wait().await;
            self.endpoint.wait_idle().await;
        })
        .await;
    }
}

/// The way to the other sites, a stream of its own for each call.
fn away(routes: Arc<ArcSwap<Routes>>, config: Arc<Config>) -> Door {
    Door::from_fn(move |request: Request| {
        let (routes, config) = (Arc::clone(&routes), Arc::clone(&config));
        async move {
            let limit = config.limits.request_bytes;
            Ok(Box::pin(forward::driver::call(&routes, &config.datacenter, limit, request)).await)
        }
    })
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
        self.endpoint.close(VarInt::from_u32(CloseCode::Stopping as u32), b"");
    }
}

struct Sites {
    sites: watch::Receiver<Arc<Vec<SiteStatus>>>,
    gateway: String,
}

#[tonic::async_trait]
impl Directory for Sites {
    async fn sites(&self, request: tonic::Request<SitesRequest>) -> Result<tonic::Response<SitesReply>, tonic::Status> {
        let meta = Meta::read(request.metadata().as_ref());
        let mut seen = self.sites.clone();
        if meta.min_index > 0 {
            let news = seen.wait_for(|sites| directory::index(sites) != meta.min_index);
            // In vain: what is there is told, with the round trips of now.
            let _ = tokio::time::timeout(meta.wait_time(rand::random()), news).await;
        }
        let mut sites = seen.borrow().as_ref().clone();
        let index = directory::index(&sites);
        if !request.get_ref().links {
            for site in &mut sites {
                site.links.clear();
            }
        }
        let answer = AnswerMeta { index, known_leader: true, last_contact: Duration::ZERO, filtered: false };
        Ok(answer.response(SitesReply { sites, gateway: self.gateway.clone() }))
    }
}
