//! `DebugConfig` of `agent/self`, under Consul's names: what is configured, with the defaults filled in.

use causeway_agent::http::ports::Setting;
use causeway_agent::registry::definition::{CheckDefinition, ServiceDefinition};

use crate::options::plan::Plan;
use crate::options::{Def, Kind, Settings, table as t};

/// Names whose value is an option's, as it is.
const SAME: &[(&str, &Def)] = &[
    ("ACLDisabledTTL", &t::ACL_DISABLED_TTL),
    ("ACLEnableKeyListPolicy", &t::ACL_ENABLE_KEY_LIST_POLICY),
    ("ACLEnableTokenPersistence", &t::ACL_ENABLE_TOKEN_PERSISTENCE),
    ("ACLPolicyTTL", &t::ACL_POLICY_TTL),
    ("ACLRoleTTL", &t::ACL_ROLE_TTL),
    ("ACLTokenReplication", &t::ACL_ENABLE_TOKEN_REPLICATION),
    ("ACLTokenTTL", &t::ACL_TOKEN_TTL),
    ("AllowWriteHTTPFrom", &t::HTTP_ALLOW_WRITE_FROM),
    ("AutoEncryptAllowTLS", &t::AUTO_ENCRYPT_ALLOW_TLS),
    ("AutoEncryptDNSSAN", &t::AUTO_ENCRYPT_DNS_SAN),
    ("AutoEncryptIPSAN", &t::AUTO_ENCRYPT_IP_SAN),
    ("AutoEncryptTLS", &t::AUTO_ENCRYPT_TLS),
    ("AutopilotCleanupDeadServers", &t::AUTOPILOT_CLEANUP_DEAD_SERVERS),
    ("AutopilotDisableUpgradeMigration", &t::AUTOPILOT_DISABLE_UPGRADE_MIGRATION),
    ("AutopilotLastContactThreshold", &t::AUTOPILOT_LAST_CONTACT_THRESHOLD),
    ("AutopilotMaxTrailingLogs", &t::AUTOPILOT_MAX_TRAILING_LOGS),
    ("AutopilotMinQuorum", &t::AUTOPILOT_MIN_QUORUM),
    ("AutopilotRedundancyZoneTag", &t::AUTOPILOT_REDUNDANCY_ZONE_TAG),
    ("AutopilotServerStabilizationTime", &t::AUTOPILOT_SERVER_STABILIZATION_TIME),
    ("AutopilotUpgradeVersionTag", &t::AUTOPILOT_UPGRADE_VERSION_TAG),
    ("CAFile", &t::CA_FILE),
    ("CAPath", &t::CA_PATH),
    ("CertFile", &t::CERT_FILE),
    ("ConnectSidecarMaxPort", &t::PORTS_SIDECAR_MAX_PORT),
    ("ConnectSidecarMinPort", &t::PORTS_SIDECAR_MIN_PORT),
    ("DNSARecordLimit", &t::DNS_A_RECORD_LIMIT),
    ("DNSAllowStale", &t::DNS_ALLOW_STALE),
    ("DNSCacheMaxAge", &t::DNS_CACHE_MAX_AGE),
    ("DNSDisableCompression", &t::DNS_DISABLE_COMPRESSION),
    ("DNSEnableTruncate", &t::DNS_ENABLE_TRUNCATE),
    ("DNSMaxStale", &t::DNS_MAX_STALE),
    ("DNSNodeMetaTXT", &t::DNS_ENABLE_ADDITIONAL_NODE_META_TXT),
    ("DNSNodeTTL", &t::DNS_NODE_TTL),
    ("DNSOnlyPassing", &t::DNS_ONLY_PASSING),
    ("DNSRecursorTimeout", &t::DNS_RECURSOR_TIMEOUT),
    ("DNSRecursors", &t::RECURSORS),
    ("DNSServiceTTL", &t::DNS_SERVICE_TTL),
    ("DNSUDPAnswerLimit", &t::DNS_UDP_ANSWER_LIMIT),
    ("DNSUseCache", &t::DNS_USE_CACHE),
    ("DefaultQueryTime", &t::DEFAULT_QUERY_TIME),
    ("DisableCoordinates", &t::DISABLE_COORDINATES),
    ("DisableHTTPUnprintableCharFilter", &t::DISABLE_HTTP_UNPRINTABLE),
    ("DisableHostNodeID", &t::DISABLE_HOST_NODE_ID),
    ("DisableKeyringFile", &t::DISABLE_KEYRING_FILE),
    ("DisableRemoteExec", &t::DISABLE_REMOTE_EXEC),
    ("DiscardCheckOutput", &t::DISCARD_CHECK_OUTPUT),
    ("DiscoveryMaxStale", &t::DISCOVERY_MAX_STALE),
    ("EnableAgentTLSForChecks", &t::ENABLE_AGENT_TLS_FOR_CHECKS),
    ("EnableCentralServiceConfig", &t::ENABLE_CENTRAL_SERVICE_CONFIG),
    ("EnableDebug", &t::ENABLE_DEBUG),
    ("EnableUI", &t::UI),
    ("EncryptVerifyIncoming", &t::ENCRYPT_VERIFY_INCOMING),
    ("EncryptVerifyOutgoing", &t::ENCRYPT_VERIFY_OUTGOING),
    ("ExposeMaxPort", &t::PORTS_EXPOSE_MAX_PORT),
    ("ExposeMinPort", &t::PORTS_EXPOSE_MIN_PORT),
    ("GossipLANGossipInterval", &t::GOSSIP_LAN_GOSSIP_INTERVAL),
    ("GossipLANGossipNodes", &t::GOSSIP_LAN_GOSSIP_NODES),
    ("GossipLANProbeInterval", &t::GOSSIP_LAN_PROBE_INTERVAL),
    ("GossipLANProbeTimeout", &t::GOSSIP_LAN_PROBE_TIMEOUT),
    ("GossipLANRetransmitMult", &t::GOSSIP_LAN_RETRANSMIT_MULT),
    ("GossipLANSuspicionMult", &t::GOSSIP_LAN_SUSPICION_MULT),
    ("GossipWANGossipInterval", &t::GOSSIP_WAN_GOSSIP_INTERVAL),
    ("GossipWANGossipNodes", &t::GOSSIP_WAN_GOSSIP_NODES),
    ("GossipWANProbeInterval", &t::GOSSIP_WAN_PROBE_INTERVAL),
    ("GossipWANProbeTimeout", &t::GOSSIP_WAN_PROBE_TIMEOUT),
    ("GossipWANRetransmitMult", &t::GOSSIP_WAN_RETRANSMIT_MULT),
    ("GossipWANSuspicionMult", &t::GOSSIP_WAN_SUSPICION_MULT),
    ("HTTPBlockEndpoints", &t::HTTP_BLOCK_ENDPOINTS),
    ("HTTPMaxConnsPerClient", &t::LIMITS_HTTP_MAX_CONNS_PER_CLIENT),
    ("HTTPResponseHeaders", &t::HTTP_RESPONSE_HEADERS),
    ("HTTPSHandshakeTimeout", &t::LIMITS_HTTPS_HANDSHAKE_TIMEOUT),
    ("HTTPUseCache", &t::HTTP_USE_CACHE),
    ("LeaveDrainTime", &t::PERF_LEAVE_DRAIN_TIME),
    ("MaxQueryTime", &t::MAX_QUERY_TIME),
    ("NonVotingServer", &t::NON_VOTING_SERVER),
    ("PidFile", &t::PID_FILE),
    ("PrimaryGateways", &t::PRIMARY_GATEWAYS),
    ("PrimaryGatewaysInterval", &t::PRIMARY_GATEWAYS_INTERVAL),
    ("RPCHandshakeTimeout", &t::LIMITS_RPC_HANDSHAKE_TIMEOUT),
    ("RPCHoldTimeout", &t::PERF_RPC_HOLD_TIMEOUT),
    ("RPCMaxBurst", &t::LIMITS_RPC_MAX_BURST),
    ("RPCMaxConnsPerClient", &t::LIMITS_RPC_MAX_CONNS_PER_CLIENT),
    ("RaftProtocol", &t::RAFT_PROTOCOL),
    ("RaftSnapshotInterval", &t::RAFT_SNAPSHOT_INTERVAL),
    ("RaftSnapshotThreshold", &t::RAFT_SNAPSHOT_THRESHOLD),
    ("RaftTrailingLogs", &t::RAFT_TRAILING_LOGS),
    ("ReconnectTimeoutLAN", &t::RECONNECT_TIMEOUT),
    ("ReconnectTimeoutWAN", &t::RECONNECT_TIMEOUT_WAN),
    ("RejoinAfterLeave", &t::REJOIN_AFTER_LEAVE),
    ("RetryJoinIntervalLAN", &t::RETRY_INTERVAL),
    ("RetryJoinIntervalWAN", &t::RETRY_INTERVAL_WAN),
    ("RetryJoinLAN", &t::RETRY_JOIN),
    ("RetryJoinMaxAttemptsLAN", &t::RETRY_MAX),
    ("RetryJoinMaxAttemptsWAN", &t::RETRY_MAX_WAN),
    ("RetryJoinWAN", &t::RETRY_JOIN_WAN),
    ("SegmentName", &t::SEGMENT),
    ("SerfAllowedCIDRsLAN", &t::SERF_LAN_ALLOWED_CIDRS),
    ("SerfAllowedCIDRsWAN", &t::SERF_WAN_ALLOWED_CIDRS),
    ("ServerName", &t::SERVER_NAME),
    ("StartJoinAddrsLAN", &t::START_JOIN),
    ("StartJoinAddrsWAN", &t::START_JOIN_WAN),
    ("TLSMinVersion", &t::TLS_MIN_VERSION),
    ("TLSPreferServerCipherSuites", &t::TLS_PREFER_SERVER_CIPHER_SUITES),
    ("TranslateWANAddrs", &t::TRANSLATE_WAN_ADDRS),
    ("TxnMaxReqLen", &t::LIMITS_TXN_MAX_REQ_LEN),
    ("UIContentPath", &t::UI_CONTENT_PATH),
    ("UIDir", &t::UI_DIR),
    ("UnixSocketGroup", &t::UNIX_SOCKETS_GROUP),
    ("UnixSocketMode", &t::UNIX_SOCKETS_MODE),
    ("UnixSocketUser", &t::UNIX_SOCKETS_USER),
    ("VerifyIncoming", &t::VERIFY_INCOMING),
    ("VerifyOutgoing", &t::VERIFY_OUTGOING),
    ("VerifyServerHostname", &t::VERIFY_SERVER_HOSTNAME),
];

/// Secrets, which are never shown, set or not.
const HIDDEN: &[&str] = &[
    "ACLAgentMasterToken",
    "ACLAgentToken",
    "ACLMasterToken",
    "ACLReplicationToken",
    "ACLToken",
    "EncryptKey",
    "KeyFile",
];

/// What Consul has and Causeway has not, as Consul says that there is none.
const NONE: &[(&str, Setting)] = &[
    ("AutoConfig", Setting::Map(Vec::new())),
    ("Cache", Setting::Map(Vec::new())),
    ("ConnectCAConfig", Setting::Map(Vec::new())),
    ("ConnectCAProvider", Setting::Text(String::new())),
    ("ConnectMeshGatewayWANFederationEnabled", Setting::Bool(false)),
    ("EnterpriseRuntimeConfig", Setting::Map(Vec::new())),
    ("Revision", Setting::Text(String::new())),
    ("SegmentLimit", Setting::Int(0)),
    ("SegmentNameLimit", Setting::Int(0)),
    ("Segments", Setting::List(Vec::new())),
    ("SerfAdvertiseAddrWAN", Setting::Text(String::new())),
    ("SerfBindAddrWAN", Setting::Text(String::new())),
];

/// Of a vendor whose telemetry is not spoken.
const CIRCONUS: &[(&str, &Def)] = &[
    ("CirconusAPIApp", &t::CIRCONUS_API_APP),
    ("CirconusAPIURL", &t::CIRCONUS_API_URL),
    ("CirconusBrokerID", &t::CIRCONUS_BROKER_ID),
    ("CirconusBrokerSelectTag", &t::CIRCONUS_BROKER_SELECT_TAG),
    ("CirconusCheckDisplayName", &t::CIRCONUS_CHECK_DISPLAY_NAME),
    ("CirconusCheckForceMetricActivation", &t::CIRCONUS_CHECK_FORCE_METRIC_ACTIVATION),
    ("CirconusCheckID", &t::CIRCONUS_CHECK_ID),
    ("CirconusCheckInstanceID", &t::CIRCONUS_CHECK_INSTANCE_ID),
    ("CirconusCheckSearchTag", &t::CIRCONUS_CHECK_SEARCH_TAG),
    ("CirconusCheckTags", &t::CIRCONUS_CHECK_TAGS),
    ("CirconusSubmissionInterval", &t::CIRCONUS_SUBMISSION_INTERVAL),
    ("CirconusSubmissionURL", &t::CIRCONUS_SUBMISSION_URL),
];

fn value(settings: &Settings, def: &Def) -> Setting {
    match def.kind {
        Kind::Flag => Setting::Bool(settings.on(def)),
        Kind::Number => Setting::Int(settings.number(def)),
        Kind::Duration => Setting::Text(causeway_agent::http::duration::format(settings.duration(def))),
        Kind::List => Setting::List(settings.list(def).into_iter().map(Setting::Text).collect()),
        Kind::Map => Setting::Map(settings.map(def).into_iter().map(|(k, v)| (k, Setting::Text(v))).collect()),
        Kind::Text | Kind::Raw => Setting::Text(settings.text(def)),
    }
}

fn map(pairs: Vec<(&str, Setting)>) -> Setting {
    Setting::Map(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

fn text(text: impl Into<String>) -> Setting {
    Setting::Text(text.into())
}

fn texts<'a>(all: impl IntoIterator<Item = &'a String>) -> Setting {
    Setting::List(all.into_iter().map(text).collect())
}

fn go(duration: std::time::Duration) -> Setting {
    Setting::Text(causeway_agent::http::duration::format(duration))
}

/// A value as it was written; what is named as a secret is hidden.
fn written(value: &serde_json::Value) -> Setting {
    use serde_json::Value;
    match value {
        Value::Null => Setting::Null,
        Value::Bool(on) => Setting::Bool(*on),
        Value::Number(n) => n.as_i64().map_or_else(|| text(n.to_string()), Setting::Int),
        Value::String(s) => text(s),
        Value::Array(all) => Setting::List(all.iter().map(written).collect()),
        Value::Object(all) => {
            let secret = |k: &str| k.to_ascii_lowercase().contains("token");
            let one = |(k, v): (&String, &Value)| (k.clone(), if secret(k) { text("hidden") } else { written(v) });
            Setting::Map(all.iter().map(one).collect())
        }
    }
}

/// The values of an option that is given in blocks, whether as blocks or as a list of them.
fn blocks(settings: &Settings, def: &Def) -> Setting {
    let mut all = Vec::new();
    for (value, _) in settings.raw(def) {
        match value {
            serde_json::Value::Array(values) => all.extend(values.iter().map(written)),
            value => all.push(written(value)),
        }
    }
    Setting::List(all)
}

fn check(check: &CheckDefinition) -> Setting {
    map(vec![
        ("DeregisterCriticalServiceAfter", go(check.deregister_critical_service_after)),
        ("FailuresBeforeCritical", Setting::Int(check.failures_before_critical.into())),
        ("ID", text(&check.id)),
        ("Interval", go(check.interval)),
        ("Name", text(&check.name)),
        ("Notes", text(&check.notes)),
        ("OutputMaxSize", Setting::Int(i64::try_from(check.output_max_size).unwrap_or(i64::MAX))),
        ("ServiceID", text(&check.service_id)),
        ("SuccessBeforePassing", Setting::Int(check.success_before_passing.into())),
        ("TTL", go(check.ttl)),
        ("Timeout", go(check.timeout)),
        ("Token", text("hidden")),
    ])
}

fn service(service: &ServiceDefinition) -> Setting {
    let pairs = service.meta.iter().map(|(k, v)| (k.clone(), text(v))).collect();
    map(vec![
        ("Address", text(&service.address)),
        ("Checks", Setting::List(service.checks.iter().map(check).collect())),
        ("EnableTagOverride", Setting::Bool(service.enable_tag_override)),
        ("ID", text(&service.id)),
        ("Kind", text(&service.kind)),
        ("Meta", Setting::Map(pairs)),
        ("Name", text(&service.name)),
        ("Port", Setting::Int(service.port.into())),
        ("Tags", texts(&service.tags)),
        ("Token", text("hidden")),
    ])
}

/// Adds what is told of every agent to the rows that a plan gives, in order of their names.
pub fn config(plan: &Plan, rows: Vec<(String, Setting)>) -> Vec<(String, Setting)> {
    let s = &plan.settings;
    let mut all: std::collections::BTreeMap<String, Setting> =
        SAME.iter().map(|(name, def)| ((*name).to_owned(), value(s, def))).collect();
    all.extend(HIDDEN.iter().map(|name| ((*name).to_owned(), Setting::Text("hidden".into()))));
    all.extend(NONE.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let named = |pairs: &[(&'static str, &Def)]| map(pairs.iter().map(|(k, def)| (*k, value(s, def))).collect());
    let tcp = |ip: std::net::IpAddr, port: u16| text(format!("tcp://{}", std::net::SocketAddr::new(ip, port)));
    // As they stand in the catalog: those of `lan` and `wan` always, and by family.
    let mut tagged = std::collections::BTreeMap::new();
    for (name, ip) in [("lan", plan.advertise), ("wan", plan.advertise_wan)] {
        tagged.insert(name.to_owned(), text(ip.to_string()));
        tagged.insert(format!("{name}_ipv{}", if ip.is_ipv4() { 4 } else { 6 }), text(ip.to_string()));
    }
    tagged.extend(plan.tagged_addresses.iter().map(|(k, v)| (k.clone(), text(v))));
    // With no regard to secrets among them: a prefix is none.
    let filters = s.list(&t::TELEMETRY_PREFIX_FILTER);
    let filtered =
        |sign: char| texts(&filters.iter().filter_map(|f| f.strip_prefix(sign).map(str::to_owned)).collect::<Vec<_>>());
    let meta = plan.node_meta.iter().map(|(k, v)| (k.clone(), text(v))).collect();
    let mut telemetry: Vec<(&str, Setting)> = CIRCONUS.iter().map(|(name, def)| (*name, value(s, def))).collect();
    telemetry.extend([
        ("AllowedPrefixes", filtered('+')),
        ("BlockedPrefixes", filtered('-')),
        ("CirconusAPIToken", text("hidden")),
        ("Disable", Setting::Bool(false)),
        ("DisableHostname", value(s, &t::TELEMETRY_DISABLE_HOSTNAME)),
        ("DogstatsdAddr", value(s, &t::TELEMETRY_DOGSTATSD_ADDR)),
        ("DogstatsdTags", value(s, &t::TELEMETRY_DOGSTATSD_TAGS)),
        ("FilterDefault", Setting::Bool(s.some_on(&t::TELEMETRY_FILTER_DEFAULT).unwrap_or(true))),
        ("MetricsPrefix", text("consul")),
        ("PrometheusRetentionTime", value(s, &t::TELEMETRY_PROMETHEUS_RETENTION_TIME)),
        ("StatsdAddr", value(s, &t::TELEMETRY_STATSD_ADDRESS)),
        ("StatsiteAddr", value(s, &t::TELEMETRY_STATSITE_ADDRESS)),
    ]);
    telemetry.sort_by_key(|(name, _)| *name);
    let more = [
        ("ACLDatacenter", text(plan.primary_datacenter.clone().unwrap_or_else(|| plan.datacenter.clone()))),
        ("ACLDefaultPolicy", value(s, &t::ACL_DEFAULT_POLICY)),
        ("ACLDownPolicy", value(s, &t::ACL_DOWN_POLICY)),
        ("AEInterval", text("1m0s")),
        ("CheckDeregisterIntervalMin", text("1m0s")),
        ("CheckReapInterval", text("30s")),
        ("Checks", Setting::List(plan.definitions.checks.iter().map(check).collect())),
        ("ClientAddrs", Setting::List(s.text(&t::CLIENT_ADDR).split_whitespace().map(text).collect())),
        ("ConfigEntryBootstrap", blocks(s, &t::CONFIG_ENTRIES)),
        ("DNSAltDomain", text(plan.alt_domain.clone().unwrap_or_default())),
        (
            "DNSSOA",
            named(&[
                ("Expire", &t::DNS_SOA_EXPIRE),
                ("Minttl", &t::DNS_SOA_MIN_TTL),
                ("Refresh", &t::DNS_SOA_REFRESH),
                ("Retry", &t::DNS_SOA_RETRY),
            ]),
        ),
        (
            "RPCRateLimit",
            s.text(&t::LIMITS_RPC_RATE).parse().map_or_else(|_| value(s, &t::LIMITS_RPC_RATE), Setting::Int),
        ),
        ("DevMode", Setting::Bool(s.on(&t::DEV_MODE))),
        ("DisableAnonymousSignature", Setting::Bool(true)),
        ("DisableUpdateCheck", Setting::Bool(true)),
        ("GRPCAddrs", Setting::List(Vec::new())),
        ("GRPCTLSPort", Setting::Int(-1)),
        ("LeaveOnTerm", Setting::Bool(plan.leave_on_terminate)),
        (
            "Logging",
            named(&[
                ("EnableSyslog", &t::ENABLE_SYSLOG),
                ("LogFilePath", &t::LOG_FILE),
                ("LogJSON", &t::LOG_JSON),
                ("LogLevel", &t::LOG_LEVEL),
                ("LogRotateBytes", &t::LOG_ROTATE_BYTES),
                ("LogRotateDuration", &t::LOG_ROTATE_DURATION),
                ("LogRotateMaxFiles", &t::LOG_ROTATE_MAX_FILES),
                ("SyslogFacility", &t::SYSLOG_FACILITY),
            ]),
        ),
        ("NodeMeta", Setting::Map(meta)),
        ("PrimaryDatacenter", text(plan.primary_datacenter.clone().unwrap_or_else(|| plan.datacenter.clone()))),
        ("RPCAdvertiseAddr", tcp(plan.advertise, plan.rpc_port)),
        ("RPCBindAddr", tcp(plan.bind, plan.rpc_port)),
        ("RPCProtocol", Setting::Int(2)),
        ("SerfAdvertiseAddrLAN", tcp(plan.advertise, plan.gossip_bind.port())),
        ("SerfBindAddrLAN", text(format!("tcp://{}", plan.gossip_bind))),
        ("SerfPortWAN", Setting::Int(-1)),
        ("Services", Setting::List(plan.definitions.services.iter().map(service).collect())),
        // As Consul: what is not set is not told, though 10 s hold.
        ("SessionTTLMin", if s.is_set(&t::SESSION_TTL_MIN) { value(s, &t::SESSION_TTL_MIN) } else { text("0s") }),
        ("SkipLeaveOnInt", Setting::Bool(!plan.leave_on_interrupt)),
        (
            "TLSCipherSuites",
            Setting::List(s.text(&t::TLS_CIPHER_SUITES).split(',').filter(|n| !n.is_empty()).map(text).collect()),
        ),
        ("TaggedAddresses", Setting::Map(tagged.into_iter().collect())),
        ("Telemetry", map(telemetry)),
        ("VerifyIncomingHTTPS", Setting::Bool(plan.verify_incoming_https)),
        ("Version", text(crate::command::version::SPOKEN)),
        ("VersionPrerelease", text("")),
        ("Watches", blocks(s, &t::WATCHES)),
    ];
    all.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    all.extend(rows);
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every name that Consul 1.8.7 has there.
    const CONSULS: &str = "ACLAgentMasterToken ACLAgentToken ACLDatacenter ACLDefaultPolicy ACLDisabledTTL ACLDownPolicy ACLEnableKeyListPolicy \
        ACLEnableTokenPersistence ACLMasterToken ACLPolicyTTL ACLReplicationToken ACLRoleTTL ACLToken ACLTokenReplication \
        ACLTokenTTL ACLsEnabled AEInterval AdvertiseAddrLAN AdvertiseAddrWAN AllowWriteHTTPFrom AutoConfig AutoEncryptAllowTLS \
        AutoEncryptDNSSAN AutoEncryptIPSAN AutoEncryptTLS AutopilotCleanupDeadServers AutopilotDisableUpgradeMigration \
        AutopilotLastContactThreshold AutopilotMaxTrailingLogs AutopilotMinQuorum AutopilotRedundancyZoneTag \
        AutopilotServerStabilizationTime AutopilotUpgradeVersionTag BindAddr Bootstrap BootstrapExpect CAFile CAPath Cache \
        CertFile CheckDeregisterIntervalMin CheckOutputMaxSize CheckReapInterval CheckUpdateInterval Checks ClientAddrs \
        ConfigEntryBootstrap ConnectCAConfig ConnectCAProvider ConnectEnabled ConnectMeshGatewayWANFederationEnabled \
        ConnectSidecarMaxPort ConnectSidecarMinPort ConnectTestCALeafRootChangeSpread ConsulCoordinateUpdateBatchSize \
        ConsulCoordinateUpdateMaxBatches ConsulCoordinateUpdatePeriod ConsulRaftElectionTimeout ConsulRaftHeartbeatTimeout \
        ConsulRaftLeaderLeaseTimeout ConsulServerHealthInterval DNSARecordLimit DNSAddrs DNSAllowStale DNSAltDomain \
        DNSCacheMaxAge DNSDisableCompression DNSDomain DNSEnableTruncate DNSMaxStale DNSNodeMetaTXT DNSNodeTTL DNSOnlyPassing \
        DNSPort DNSRecursorTimeout DNSRecursors DNSSOA DNSServiceTTL DNSUDPAnswerLimit DNSUseCache DataDir Datacenter \
        DefaultQueryTime DevMode DisableAnonymousSignature DisableCoordinates DisableHTTPUnprintableCharFilter \
        DisableHostNodeID DisableKeyringFile DisableRemoteExec DisableUpdateCheck DiscardCheckOutput DiscoveryMaxStale \
        EnableAgentTLSForChecks EnableCentralServiceConfig EnableDebug EnableLocalScriptChecks EnableRemoteScriptChecks \
        EnableUI EncryptKey EncryptVerifyIncoming EncryptVerifyOutgoing EnterpriseRuntimeConfig ExposeMaxPort ExposeMinPort \
        GRPCAddrs GRPCPort GossipLANGossipInterval GossipLANGossipNodes GossipLANProbeInterval GossipLANProbeTimeout \
        GossipLANRetransmitMult GossipLANSuspicionMult GossipWANGossipInterval GossipWANGossipNodes GossipWANProbeInterval \
        GossipWANProbeTimeout GossipWANRetransmitMult GossipWANSuspicionMult HTTPAddrs HTTPBlockEndpoints \
        HTTPMaxConnsPerClient HTTPPort HTTPResponseHeaders HTTPSAddrs HTTPSHandshakeTimeout HTTPSPort HTTPUseCache \
        KVMaxValueSize KeyFile LeaveDrainTime LeaveOnTerm Logging MaxQueryTime NodeID NodeMeta NodeName NonVotingServer \
        PidFile PrimaryDatacenter PrimaryGateways PrimaryGatewaysInterval RPCAdvertiseAddr RPCBindAddr RPCHandshakeTimeout \
        RPCHoldTimeout RPCMaxBurst RPCMaxConnsPerClient RPCProtocol RPCRateLimit RaftProtocol RaftSnapshotInterval \
        RaftSnapshotThreshold RaftTrailingLogs ReconnectTimeoutLAN ReconnectTimeoutWAN RejoinAfterLeave RetryJoinIntervalLAN \
        RetryJoinIntervalWAN RetryJoinLAN RetryJoinMaxAttemptsLAN RetryJoinMaxAttemptsWAN RetryJoinWAN Revision SegmentLimit \
        SegmentName SegmentNameLimit Segments SerfAdvertiseAddrLAN SerfAdvertiseAddrWAN SerfAllowedCIDRsLAN \
        SerfAllowedCIDRsWAN SerfBindAddrLAN SerfBindAddrWAN SerfPortLAN SerfPortWAN ServerMode ServerName ServerPort Services \
        SessionTTLMin SkipLeaveOnInt StartJoinAddrsLAN StartJoinAddrsWAN SyncCoordinateIntervalMin SyncCoordinateRateTarget \
        TLSCipherSuites TLSMinVersion TLSPreferServerCipherSuites TaggedAddresses Telemetry TranslateWANAddrs TxnMaxReqLen \
        UIContentPath UIDir UnixSocketGroup UnixSocketMode UnixSocketUser VerifyIncoming VerifyIncomingHTTPS VerifyIncomingRPC \
        VerifyOutgoing VerifyServerHostname Version VersionPrerelease Watches";
    /// Of those, what has no counterpart here: parts of Consul's own machinery.
    const WITHOUT: [&str; 10] = [
        "ConnectTestCALeafRootChangeSpread",
        "ConsulCoordinateUpdateBatchSize",
        "ConsulCoordinateUpdateMaxBatches",
        "ConsulCoordinateUpdatePeriod",
        "ConsulRaftElectionTimeout",
        "ConsulRaftHeartbeatTimeout",
        "ConsulRaftLeaderLeaseTimeout",
        "ConsulServerHealthInterval",
        "SyncCoordinateIntervalMin",
        "SyncCoordinateRateTarget",
    ];

    fn shown(text: &str) -> Vec<(String, Setting)> {
        let mut settings = Settings::default();
        settings.read_text("a.json", text, false).unwrap();
        let plan = crate::options::plan::plan(&settings).unwrap();
        super::super::settings::info(&plan, "an-id").debug_config
    }

    #[test]
    fn consuls_names_are_there() {
        let shown = shown(r#"{"node_name": "n", "data_dir": "/none", "bind_addr": "127.0.0.1"}"#);
        let missing: Vec<&str> =
            CONSULS.split_whitespace().filter(|name| !shown.iter().any(|(known, _)| known == name)).collect();
        assert_eq!(missing, WITHOUT);
        assert!(shown.windows(2).all(|pair| pair[0].0 < pair[1].0), "sorted, each once");
    }

    #[test]
    fn what_is_configured_is_shown_and_secrets_are_not() {
        let shown = shown(
            r#"{"node_name": "n", "data_dir": "/none", "bind_addr": "127.0.0.1", "encrypt": "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=",
                "session_ttl_min": "20s", "watches": [{"type": "key", "key": "k", "token": "s3cret", "handler": "x"}],
                "telemetry": {"prefix_filter": ["+a", "-b"]}, "gossip_lan": {"probe_interval": "2s"},
                "service": {"name": "web", "port": 80, "token": "s3cret", "check": {"ttl": "10s"}}}"#,
        );
        let of =
            |name: &str| shown.iter().find(|(known, _)| known == name).map(|(_, value)| format!("{value:?}")).unwrap();
        for (name, piece) in [
            ("EncryptKey", "hidden"),
            ("SessionTTLMin", "20s"),
            ("GossipLANProbeInterval", "2s"),
            ("Services", "\"Name\", Text(\"web\")"),
            ("Services", "\"TTL\", Text(\"10s\")"),
            ("Watches", "\"key\", Text(\"k\")"),
            ("Telemetry", "\"BlockedPrefixes\", List([Text(\"b\")])"),
            ("TaggedAddresses", "\"lan_ipv4\", Text(\"127.0.0.1\")"),
        ] {
            assert!(of(name).contains(piece), "{name}: {}", of(name));
        }
        let all = format!("{shown:?}");
        assert!(!all.contains("s3cret") && !all.contains("pUqJ"), "{all}");
    }
}
