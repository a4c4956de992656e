//! Kinds of config entries.

/// Says where a service is answered from when it is not healthy here.
pub const SERVICE_RESOLVER: &str = "service-resolver";

/// Kinds of Consul's that say how its mesh works, which there is none of here: such entries are kept and given back, so that tools
/// that write them work, and have no effect.
pub const WITHOUT_EFFECT: &[&str] = &[
    "api-gateway",
    "bound-api-gateway",
    "control-plane-request-limit",
    "exported-services",
    "file-system-certificate",
    "http-route",
    "ingress-gateway",
    "inline-certificate",
    "jwt-provider",
    "mesh",
    "proxy-defaults",
    "sameness-group",
    "service-defaults",
    "service-intentions",
    "service-router",
    "service-splitter",
    "tcp-route",
    "terminating-gateway",
];

/// Whether there is such a kind.
pub fn known(kind: &str) -> bool {
    kind == SERVICE_RESOLVER || WITHOUT_EFFECT.contains(&kind)
}
