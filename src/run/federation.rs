//! The gateway as the HTTP API wants to see it, and the authority that lets it certify new sites.

use std::sync::Arc;

use causeway_agent::http::ports::{FederationPort, Finding, MadeToken, PortError, TokenRequest};
use causeway_certs::authority::Authority;
use causeway_gateway::Gateway;
use causeway_gateway::join::{self, CreateError};
use causeway_proto::federation::SitesReply;
use futures::future::BoxFuture;

use crate::options::ConfigError;
use crate::options::plan::GatewayPlan;

/// Reads the authority, where the gateway has its key. The certificate is that one of `ca_file` to which the key belongs.
pub fn authority(plan: &GatewayPlan) -> Result<Option<Arc<Authority>>, ConfigError> {
    let Some(path) = &plan.ca_key else { return Ok(None) };
    let fail = |text: String| ConfigError::new("configuration", format!("key \"gateway.ca_key_file\" {text}"));
    let key = std::fs::read(path).map_err(|e| fail(format!("names {}, which cannot be read: {e}", path.display())))?;
    let mut why = "needs \"ca_file\" too".to_owned();
    for file in plan.tls.ca.iter().filter(|f| f.is_file()) {
        let made = std::fs::read(file).map_err(|e| e.to_string());
        match made.and_then(|cert| Authority::from_pem(&cert, &key).map_err(|e| e.to_string())) {
            Ok(authority) => return Ok(Some(Arc::new(authority))),
            Err(e) => why = format!("names {}, which does not go with {}: {e}", path.display(), file.display()),
        }
    }
    Err(fail(why))
}

/// The gateway.
pub struct Port(pub Arc<Gateway>);

impl FederationPort for Port {
    fn sites(&self) -> SitesReply {
        SitesReply { sites: self.0.sites().borrow().as_ref().clone(), gateway: self.0.node_name().to_owned() }
    }

    fn create_token(&self, request: TokenRequest) -> BoxFuture<'_, Result<MadeToken, PortError>> {
        let lifetime = request.lifetime.unwrap_or(join::LIFETIME);
        let work = self.0.create_token(request.datacenter, lifetime, request.addresses);
        Box::pin(async move {
            let made = work.await.map_err(|e| match e {
                CreateError::Servers(_) | CreateError::Full => PortError::Failed(e.to_string()),
                e => PortError::Invalid(e.to_string()),
            })?;
            Ok(MadeToken {
                token: made.text.0,
                datacenter: made.datacenter,
                expires: made.expires,
                addresses: made.addresses,
            })
        })
    }

    fn set_removed(&self, datacenter: String, removed: bool) -> BoxFuture<'_, Result<bool, PortError>> {
        Box::pin(
            async move { self.0.set_removed(datacenter, removed).await.map_err(|e| PortError::Invalid(e.to_string())) },
        )
    }

    fn doctor(&self, datacenter: Option<String>) -> BoxFuture<'_, Result<Vec<Finding>, PortError>> {
        Box::pin(async move {
            let findings = self.0.doctor(datacenter).await.map_err(PortError::NotFound)?;
            let of = |f: causeway_gateway::doctor::Finding| Finding {
                at: f.at,
                verdict: f.verdict.as_str(),
                check: f.check,
                subject: f.subject,
                found: f.found,
                advice: f.advice,
            };
            Ok(findings.into_iter().map(of).collect())
        })
    }
}
