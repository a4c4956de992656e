//! Access control: what the configuration says of it, and the tokens that this agent uses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_agent::acl as agent;
use causeway_agent::http::ports::{Action, TokenPort};
use causeway_agent::sync::Sync;
use causeway_agent::views::Views;
use causeway_proto::access::{DefaultPolicy, NOT_FOUND, Tokens, Use};
use causeway_proto::door::{Door, Request};
use causeway_proto::meta::{Meta, TOKEN};
use causeway_proto::rejection::Reason;
use causeway_server::acl as server;

use crate::options::plan::Plan;
use crate::options::{ConfigError, table as t};

/// Where tokens are kept that were set over HTTP; Consul's name.
const KEPT: &str = "acl-tokens.json";
/// Allows the bootstrap once more; Consul's name.
const RESET: &str = "acl-bootstrap-reset";

/// What the configuration says.
pub(super) struct Acl {
    enabled: bool,
    default: DefaultPolicy,
    down: agent::Down,
    /// The agent's tokens.
    pub(super) tokens: Tokens,
    /// Where they are kept; `None`: they are not.
    file: Option<PathBuf>,
}

impl Acl {
    /// Reads the configuration, and what was kept.
    pub(super) fn of(plan: &Plan) -> Result<Self, ConfigError> {
        let s = &plan.settings;
        let default = match s.text(&t::ACL_DEFAULT_POLICY).as_str() {
            "allow" => DefaultPolicy::Allow,
            "deny" => DefaultPolicy::Deny,
            other => return Err(s.error(&t::ACL_DEFAULT_POLICY, format!("is {other:?}; it must be allow or deny"))),
        };
        let down = match s.text(&t::ACL_DOWN_POLICY).as_str() {
            // Who is not known is refused with each of these.
            "allow" | "extend-cache" | "async-cache" => agent::Down::Extend,
            "deny" => agent::Down::Deny,
            other => {
                let text = format!("is {other:?}; it must be extend-cache, async-cache, deny or allow");
                return Err(s.error(&t::ACL_DOWN_POLICY, text));
            }
        };
        let tokens = Tokens::default();
        let sources = [
            (Use::Default, &t::ACL_TOKENS_DEFAULT),
            (Use::Agent, &t::ACL_TOKENS_AGENT),
            (Use::Recovery, &t::ACL_TOKENS_AGENT_MASTER),
            (Use::Recovery, &t::ACL_TOKENS_AGENT_RECOVERY),
            (Use::Replication, &t::ACL_TOKENS_REPLICATION),
        ];
        for (of, def) in sources {
            if let Some(secret) = s.some_text(def) {
                if secret.bytes().any(|b| !(0x21..0x7f).contains(&b)) {
                    return Err(s.error(def, "holds characters that a token cannot have"));
                }
                tokens.set(of, &secret);
            }
        }
        let keeps = s.on(&t::ACL_ENABLE_TOKEN_PERSISTENCE);
        let file = plan.data_dir.as_ref().filter(|_| keeps).map(|dir| dir.join(KEPT));
        if let Some(file) = &file {
            let kept = kept(file).map_err(|e| s.error(&t::ACL_ENABLE_TOKEN_PERSISTENCE, e))?;
            for (of, secret) in kept {
                tokens.set(of, &secret);
            }
        }
        Ok(Self { enabled: s.on(&t::ACL_ENABLED), default, down, tokens, file })
    }

    /// For a server.
    pub(super) fn server(&self, plan: &Plan) -> Option<server::Settings> {
        let s = &plan.settings;
        let initial = [&t::ACL_TOKENS_INITIAL_MANAGEMENT, &t::ACL_TOKENS_MASTER];
        self.enabled.then(|| server::Settings {
            default: self.default,
            down: match self.down {
                agent::Down::Extend => server::Down::Extend,
                agent::Down::Deny => server::Down::Deny,
            },
            ttl: s.duration(&t::ACL_TOKEN_TTL),
            key_list: s.on(&t::ACL_ENABLE_KEY_LIST_POLICY),
            initial_management: initial.into_iter().find_map(|def| s.some_text(def)),
            reset_file: plan.data_dir.as_ref().map(|dir| dir.join(RESET)),
            tokens: self.tokens.clone(),
        })
    }

    /// For the agent; `door` leads to the servers.
    pub(super) fn agent(&self, plan: &Plan, door: Door) -> Option<agent::Acls> {
        self.enabled.then(|| {
            let settings = agent::Settings {
                datacenter: plan.datacenter.clone(),
                node: plan.node_name.clone(),
                down: self.down,
                ttl: plan.settings.duration(&t::ACL_TOKEN_TTL),
                tokens: self.tokens.clone(),
            };
            agent::Acls::new(door, settings)
        })
    }

    /// Whether there is anything to send with calls.
    fn any(&self) -> bool {
        self.enabled || Use::ALL.into_iter().any(|of| self.tokens.of(of).is_some())
    }

    /// A door that adds the token of the agent itself, or (`false`) the one for everybody, to calls that have none.
    pub(super) fn bearing(&self, door: Door, itself: bool) -> Door {
        if !self.any() {
            return door;
        }
        let tokens = self.tokens.clone();
        Door::from_fn(move |mut request: Request| {
            let secret = if itself { tokens.agent() } else { tokens.of(Use::Default) };
            if !request.headers().contains_key(TOKEN)
                && let Some(mut value) = secret.and_then(|secret| http::HeaderValue::from_str(&secret).ok())
            {
                value.set_sensitive(true);
                request.headers_mut().insert(TOKEN, value);
            }
            let door = door.clone();
            async move { door.call(request).await }
        })
    }

    /// What the HTTP API needs to change them.
    pub(super) fn port(&self, views: &Views, sync: &Sync) -> Option<TokenPort> {
        self.any().then(|| {
            let (tokens, file, views, sync) = (self.tokens.clone(), self.file.clone(), views.clone(), sync.clone());
            let changed: Action = Arc::new(move || {
                views.set_token(tokens.of(Use::Default).map(|token| token.to_string()));
                sync.compare_now();
                let (tokens, file) = (tokens.clone(), file.clone());
                Box::pin(async move {
                    let Some(file) = file else { return Ok(()) };
                    let written = tokio::task::spawn_blocking(move || keep(&tokens, &file)).await;
                    written
                        .map_err(|e| e.to_string())?
                        .map_err(|e| format!("the tokens are in use, and cannot be kept: {e}"))
                })
            });
            TokenPort { tokens: self.tokens.clone(), changed }
        })
    }
}

/// A door by which calls to other datacenters leave without a server: no token passes that holds in this one only.
pub(super) fn leaving(door: Door, acls: agent::Acls, own: &str) -> Door {
    let own: Arc<str> = own.into();
    Door::from_fn(move |request: Request| {
        let (door, acls, own) = (door.clone(), acls.clone(), own.clone());
        async move {
            let meta = Meta::read(request.headers());
            if meta.datacenter.is_some_and(|dc| !dc.eq_ignore_ascii_case(&own))
                && let Some(secret) = meta.token
            {
                // One that is not known here may be known there; one of which nothing can be known stays.
                match acls.resolve(Some(&secret)).await {
                    Ok(who) if who.local => return Ok(Reason::Denied.status(NOT_FOUND).into_http()),
                    Ok(_) | Err(agent::AclError::NotFound) => {}
                    Err(error) => return Ok(Reason::Denied.status(error.to_string()).into_http()),
                }
            }
            door.call(request).await
        }
    })
}

fn kept(file: &Path) -> Result<Vec<(Use, String)>, String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("needs {}, which cannot be read: {e}", file.display())),
    };
    let all: BTreeMap<String, String> = serde_json::from_str(&text)
        .map_err(|_| format!("needs {}, which is damaged: mend it, or take it away", file.display()))?;
    Ok(all.into_iter().filter_map(|(name, secret)| Some((Use::parse(&name)?, secret))).collect())
}

fn keep(tokens: &Tokens, file: &Path) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let all = Use::ALL.into_iter().filter_map(|of| Some((of.names()[0], tokens.of(of)?.to_string())));
    let text = serde_json::to_string(&all.collect::<BTreeMap<_, _>>()).map_err(std::io::Error::other)?;
    let new = file.with_extension("tmp");
    let _ = std::fs::remove_file(&new);
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_kept_for_this_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("causeway-kept-tokens-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join(KEPT);
        assert_eq!(kept(&file), Ok(Vec::new()));
        let tokens = Tokens::default();
        tokens.set(Use::Agent, "secret");
        keep(&tokens, &file).unwrap();
        keep(&tokens, &file).unwrap();
        assert_eq!(kept(&file), Ok(vec![(Use::Agent, "secret".to_owned())]));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "{").unwrap();
        assert!(kept(&file).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
