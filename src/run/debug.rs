//! `DebugConfig` of `agent/self`, under Consul's names: what is configured, with the defaults filled in.

use causeway_agent::http::ports::Setting;

use crate::options::plan::Plan;
use crate::options::{Def, Kind, Settings, table as t};

/// Names whose value is an option's, as it is.
const SAME: &[(&str, &Def)] = &[
    ("AutopilotCleanupDeadServers", &t::AUTOPILOT_CLEANUP_DEAD_SERVERS),
    ("AutopilotLastContactThreshold", &t::AUTOPILOT_LAST_CONTACT_THRESHOLD),
    ("AutopilotMaxTrailingLogs", &t::AUTOPILOT_MAX_TRAILING_LOGS),
    ("AutopilotMinQuorum", &t::AUTOPILOT_MIN_QUORUM),
    ("AutopilotServerStabilizationTime", &t::AUTOPILOT_SERVER_STABILIZATION_TIME),
    ("AllowWriteHTTPFrom", &t::HTTP_ALLOW_WRITE_FROM),
    ("CAFile", &t::CA_FILE),
    ("CAPath", &t::CA_PATH),
    ("CertFile", &t::CERT_FILE),
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
    ("EnableDebug", &t::ENABLE_DEBUG),
    ("EnableUI", &t::UI),
    ("EncryptVerifyIncoming", &t::ENCRYPT_VERIFY_INCOMING),
    ("EncryptVerifyOutgoing", &t::ENCRYPT_VERIFY_OUTGOING),
    ("HTTPBlockEndpoints", &t::HTTP_BLOCK_ENDPOINTS),
    ("HTTPMaxConnsPerClient", &t::LIMITS_HTTP_MAX_CONNS_PER_CLIENT),
    ("HTTPResponseHeaders", &t::HTTP_RESPONSE_HEADERS),
    ("HTTPSHandshakeTimeout", &t::LIMITS_HTTPS_HANDSHAKE_TIMEOUT),
    ("HTTPUseCache", &t::HTTP_USE_CACHE),
    ("LeaveDrainTime", &t::PERF_LEAVE_DRAIN_TIME),
    ("MaxQueryTime", &t::MAX_QUERY_TIME),
    ("PidFile", &t::PID_FILE),
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
    ("SerfAllowedCIDRsLAN", &t::SERF_LAN_ALLOWED_CIDRS),
    ("SerfAllowedCIDRsWAN", &t::SERF_WAN_ALLOWED_CIDRS),
    ("ServerName", &t::SERVER_NAME),
    ("StartJoinAddrsLAN", &t::START_JOIN),
    ("StartJoinAddrsWAN", &t::START_JOIN_WAN),
    ("TLSMinVersion", &t::TLS_MIN_VERSION),
    ("TranslateWANAddrs", &t::TRANSLATE_WAN_ADDRS),
    ("TxnMaxReqLen", &t::LIMITS_TXN_MAX_REQ_LEN),
    ("UnixSocketGroup", &t::UNIX_SOCKETS_GROUP),
    ("UnixSocketMode", &t::UNIX_SOCKETS_MODE),
    ("UnixSocketUser", &t::UNIX_SOCKETS_USER),
    ("VerifyIncoming", &t::VERIFY_INCOMING),
    ("VerifyOutgoing", &t::VERIFY_OUTGOING),
    ("VerifyServerHostname", &t::VERIFY_SERVER_HOSTNAME),
];

/// Secrets, which are never shown, set or not.
const HIDDEN: &[&str] =
    &["ACLAgentMasterToken", "ACLAgentToken", "ACLMasterToken", "ACLReplicationToken", "ACLToken", "KeyFile"];

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

/// Adds what is told of every agent to the rows that a plan gives, in order of their names.
pub fn config(plan: &Plan, rows: Vec<(String, Setting)>) -> Vec<(String, Setting)> {
    let s = &plan.settings;
    let mut all: std::collections::BTreeMap<String, Setting> =
        SAME.iter().map(|(name, def)| ((*name).to_owned(), value(s, def))).collect();
    all.extend(HIDDEN.iter().map(|name| ((*name).to_owned(), Setting::Text("hidden".into()))));
    let map = |pairs: Vec<(&str, Setting)>| Setting::Map(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
    let named = |pairs: &[(&'static str, &Def)]| map(pairs.iter().map(|(k, def)| (*k, value(s, def))).collect());
    let text = |text: String| Setting::Text(text);
    let tcp = |ip: std::net::IpAddr, port: u16| text(format!("tcp://{}", std::net::SocketAddr::new(ip, port)));
    let tagged = plan.tagged_addresses.iter().map(|(k, v)| (k.clone(), text(v.clone()))).collect();
    let meta = plan.node_meta.iter().map(|(k, v)| (k.clone(), text(v.clone()))).collect();
    let more = [
        ("ACLDatacenter", text(plan.primary_datacenter.clone().unwrap_or_else(|| plan.datacenter.clone()))),
        ("ACLDefaultPolicy", value(s, &t::ACL_DEFAULT_POLICY)),
        ("ACLDownPolicy", value(s, &t::ACL_DOWN_POLICY)),
        ("AEInterval", text("1m0s".into())),
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
        ("SkipLeaveOnInt", Setting::Bool(!plan.leave_on_interrupt)),
        ("TaggedAddresses", Setting::Map(tagged)),
        (
            "Telemetry",
            map(vec![
                ("DisableHostname", value(s, &t::TELEMETRY_DISABLE_HOSTNAME)),
                ("MetricsPrefix", text("consul".into())),
                ("PrometheusRetentionTime", value(s, &t::TELEMETRY_PROMETHEUS_RETENTION_TIME)),
            ]),
        ),
        ("VerifyIncomingHTTPS", Setting::Bool(plan.verify_incoming_https)),
        ("Version", text(crate::command::version::SPOKEN.into())),
        ("VersionPrerelease", text(String::new())),
    ];
    all.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    all.extend(rows);
    all.into_iter().collect()
}
