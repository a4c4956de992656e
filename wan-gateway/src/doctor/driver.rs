#![allow(clippy::disallowed_methods, reason = "resolves names, dials, reads the clock and the environment")]
//! Looks at what links need.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use causeway_certs::material::Material;
use causeway_proto::federation::v1::{SiteState, SiteStatus};
use futures::StreamExt;
use futures::future::BoxFuture;

use super::{Finding, Verdict};
use crate::carrier::driver::Carrier;
use crate::carrier::reach::driver::{Aim, Dialler};
use crate::carrier::{Kind, Proxy, Way};
use crate::config::Config;
use crate::link::CloseCode;

/// Time for a name, a handshake, a connection.
const TIME: Duration = Duration::from_secs(3);
/// Addresses looked at.
const MAX: usize = 64;
/// Addresses looked at side by side.
const SIDE_BY_SIDE: usize = 8;

/// What looking needs.
pub(crate) struct Doctor {
    pub(crate) config: Arc<Config>,
    pub(crate) dialler: Dialler,
    pub(crate) material: Arc<Material>,
    pub(crate) sites: Arc<Vec<SiteStatus>>,
}

impl Doctor {
    /// All findings, of one site or of all. An error where the site is not known.
    pub(crate) async fn look(self, wanted: Option<String>) -> Result<Vec<Finding>, String> {
        let mut found = vec![self.own_certificate()];
        found.push(proxy(self.config.proxy.as_ref()).await);
        let mut addresses: Vec<(String, Option<String>)> = Vec::new();
        let mut known = false;
        for status in self.sites.iter().filter(|s| !s.local) {
            let Some(site) = &status.site else { continue };
            let dc = &site.datacenter;
            if wanted.as_ref().is_some_and(|w| w != dc) {
                continue;
            }
            known = true;
            let linked = status.state() == SiteState::Linked;
            found.push(super::clock(dc, (linked && status.rtt_us > 0).then_some(status.clock_skew_ms)));
            let before = addresses.len();
            addresses.extend(site.gateways.iter().flat_map(|g| &g.addresses).map(|a| (a.clone(), Some(dc.clone()))));
            if addresses.len() == before {
                let text = "it tells no address: it dials out, and we cannot dial it".to_owned();
                found.push(Finding::new(Verdict::Skip, "udp", dc, text, ""));
            }
        }
        match wanted {
            Some(name) if !known => {
                return Err(format!("no site {name} is known here: `causeway federation list` shows those that are"));
            }
            Some(_) => {}
            None => {
                for peer in &self.config.peers {
                    if !addresses.iter().any(|(a, _)| a == peer) {
                        addresses.push((peer.clone(), None));
                    }
                }
            }
        }
        addresses.truncate(MAX);
        let mut looks: Vec<BoxFuture<'_, Vec<Finding>>> = Vec::new();
        for (address, dc) in &addresses {
            looks.push(Box::pin(self.address(address, dc.as_deref())));
        }
        let results: Vec<Vec<Finding>> = futures::stream::iter(looks).buffered(SIDE_BY_SIDE).collect().await;
        found.extend(results.into_iter().flatten());
        Ok(found)
    }

    fn own_certificate(&self) -> Finding {
        let names: Vec<String> =
            self.material.identities().iter().map(causeway_proto::listen::Identity::dns_name).collect();
        let wanted = format!("gateway.{}.{}", self.config.datacenter, self.config.domain);
        let left = self.material.not_after().duration_since(SystemTime::now()).ok();
        super::certificate(&self.config.datacenter, &names, &wanted, left)
    }

    async fn address(&self, address: &str, datacenter: Option<&str>) -> Vec<Finding> {
        let mut found = Vec::new();
        if address.parse::<std::net::SocketAddr>().is_err() {
            let resolved = tokio::time::timeout(TIME, tokio::net::lookup_host(address)).await;
            let advice = "correct the name, or use addresses in place of names (gateway.advertise, gateway.peers)";
            match resolved {
                Ok(Ok(mut addrs)) => {
                    let first = addrs.next().map_or_else(String::new, |a| a.ip().to_string());
                    found.push(Finding::new(Verdict::Pass, "names", address, first, ""));
                }
                Ok(Err(e)) => {
                    found.push(Finding::new(Verdict::Fail, "names", address, e.to_string(), advice));
                    return found;
                }
                Err(_) => {
                    found.push(Finding::new(
                        Verdict::Fail,
                        "names",
                        address,
                        "no answer from the resolver".to_owned(),
                        advice,
                    ));
                    return found;
                }
            }
        }
        let from = source(address).await;
        let one = |kind| self.reach(address, datacenter, kind);
        let through = self.config.proxy.as_ref().filter(|p| p.serves(address));
        let (quic, tcp, proxied) = tokio::join!(one(Kind::Quic), one(Kind::Tcp), async {
            match through {
                Some(_) => Some(one(Kind::Proxy).await),
                None => None,
            }
        });
        let (quic, mtu) = match quic {
            Ok((took, mtu)) => (Ok(took), mtu),
            Err(why) => (Err(why), None),
        };
        found.push(super::udp(address, &from, &quic));
        if let Some(mtu) = mtu {
            found.push(super::mtu(address, mtu));
        }
        let tcp = tcp.map(|(took, _)| took);
        let passes = quic.is_ok() || proxied.as_ref().is_some_and(Result::is_ok);
        let direct = quic.is_ok() || tcp.is_ok();
        found.push(super::tcp(address, &from, &tcp, passes));
        if let (Some(proxy), Some(dialled)) = (through, proxied) {
            found.push(super::proxy(address, proxy.address(), &dialled.map(|(took, _)| took), !direct));
        }
        found
    }

    /// A handshake one way, how long it took, and what packets pass where that is known.
    async fn reach(
        &self,
        address: &str,
        datacenter: Option<&str>,
        kind: Kind,
    ) -> Result<(Duration, Option<u16>), String> {
        let aim = Aim {
            addresses: vec![address.to_owned()],
            expect: datacenter.map(str::to_owned),
            ways: vec![Way { kind, after: Duration::ZERO }],
            deadline: TIME,
        };
        let began = Instant::now();
        let conn = Box::pin(self.dialler.dial(&aim)).await?.carrier;
        let took = began.elapsed();
        let mtu = match &conn {
            Carrier::Quic(conn) => Some(conn.stats().path.current_mtu),
            Carrier::Tcp(_) => None,
        };
        conn.close(CloseCode::Stopping);
        Ok((took, mtu))
    }
}

/// The address that packets to there leave from; empty where that cannot be told. Sends nothing.
async fn source(address: &str) -> String {
    let Ok(mut found) = tokio::net::lookup_host(address).await else { return String::new() };
    let Some(to) = found.next() else { return String::new() };
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let Ok(socket) = tokio::net::UdpSocket::bind(any).await else { return String::new() };
    match socket.connect(to).await.and_then(|()| socket.local_addr()) {
        Ok(from) => from.ip().to_string(),
        Err(_) => String::new(),
    }
}

async fn proxy(proxy: Option<&Proxy>) -> Finding {
    let Some(proxy) = proxy else {
        let text = "none is configured (gateway.proxy) or set (HTTPS_PROXY)".to_owned();
        return Finding::new(Verdict::Skip, "proxy", "-", text, "");
    };
    let advice = "correct gateway.proxy or HTTPS_PROXY, or have the proxy started";
    let host = proxy.address();
    match tokio::time::timeout(TIME, tokio::net::TcpStream::connect(host)).await {
        Ok(Ok(_)) => Finding::new(Verdict::Pass, "proxy", host, "connected".to_owned(), ""),
        Ok(Err(e)) => Finding::new(Verdict::Fail, "proxy", host, e.to_string(), advice),
        Err(_) => Finding::new(Verdict::Fail, "proxy", host, "no answer".to_owned(), advice),
    }
}
