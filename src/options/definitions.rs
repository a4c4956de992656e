//! Services and checks in configuration files, in Consul's spelling: `service`, `services`, `check`, `checks`.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_agent::registry::definition::{
    CheckDefinition, CheckKind, CheckTls, HttpCheck, ScriptCheck, Secret, ServiceAddress, ServiceDefinition, Status,
    Weights,
};
use causeway_proto::config::Entry;
use causeway_proto::kinds::WITHOUT_EFFECT;
use serde_json::{Map, Value};

use super::{ConfigError, Settings, nearest, table, value};

/// The services and the checks that stand alone, in the order they were read.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Definitions {
    /// `service` and `services`.
    pub services: Vec<ServiceDefinition>,
    /// `check` and `checks` outside of services.
    pub checks: Vec<CheckDefinition>,
    /// Whether one of them runs a command.
    pub scripts: bool,
    /// Lines about what was accepted without effect.
    pub warnings: Vec<String>,
}

/// Reads all definitions.
pub fn read(settings: &Settings) -> Result<Definitions, ConfigError> {
    let mut out = Definitions::default();
    for option in [&table::SERVICE, &table::SERVICES] {
        for (v, origin) in settings.raw(option) {
            each(v, origin, option.key, &mut |object| {
                let reader = Reader::new(origin, option.key, object);
                out.services.push(reader.service()?);
                for key in ["connect", "proxy", "namespace"].into_iter().filter(|key| reader.get(key).is_some()) {
                    out.warnings.push(format!(
                        "{origin}: key \"{}.{key}\" belongs to a feature that Causeway leaves out; it has no effect",
                        option.key
                    ));
                }
                Ok(())
            })?;
        }
    }
    for option in [&table::CHECK, &table::CHECKS] {
        for (v, origin) in settings.raw(option) {
            each(v, origin, option.key, &mut |object| {
                out.checks.push(Reader::new(origin, option.key, object).check(false)?);
                Ok(())
            })?;
        }
    }
    let is_script = |c: &CheckDefinition| matches!(c.kind, CheckKind::Script(_) | CheckKind::Docker { .. });
    out.warnings.dedup();
    out.scripts = out.checks.iter().any(is_script) || out.services.iter().flat_map(|s| &s.checks).any(is_script);
    Ok(out)
}

/// Reads the config entries of the files. Those of kinds that Causeway leaves out are told of in the second list: files that Consul
/// starts with must not end the start.
pub fn config_entries(settings: &Settings) -> Result<(Vec<Entry>, Vec<String>), ConfigError> {
    let (mut out, mut warnings) = (Vec::new(), Vec::new());
    for (v, origin) in settings.raw(&table::CONFIG_ENTRIES) {
        let key = table::CONFIG_ENTRIES.key;
        each(v, origin, key, &mut |object| {
            let fail = |e: &dyn std::fmt::Display| ConfigError::new(origin, format!("key {key:?}: {e}"));
            let kind = Reader::new(origin, key, object).text("kind")?;
            if WITHOUT_EFFECT.contains(&kind.as_str()) {
                warnings.push(format!(
                    "{origin}: key {key:?} has an entry of kind {kind:?}; it is kept and given back, and only service-resolver has an effect"
                ));
            }
            let entry = causeway_agent::http::config_entry(&Value::Object(object.clone())).map_err(|e| fail(&e))?;
            crate::run::settings::check_entry(&entry).map_err(|e| fail(&e))?;
            out.push(entry);
            Ok(())
        })?;
    }
    Ok((out, warnings))
}

/// What is done with an object.
pub(super) type Visit<'a> = dyn FnMut(&Map<String, Value>) -> Result<(), ConfigError> + 'a;

/// Calls for the object, or for each object of a list.
pub(super) fn each(v: &Value, origin: &str, key: &str, f: &mut Visit<'_>) -> Result<(), ConfigError> {
    match v {
        Value::Object(object) => f(object),
        Value::Array(items) => items.iter().try_for_each(|item| each(item, origin, key, f)),
        Value::Null => Ok(()),
        _ => Err(ConfigError::new(origin, format!("key {key:?} must be an object {{ ... }} or a list of them"))),
    }
}

/// Reads one object's keys, and knows which it was asked for, so that those left over are errors.
pub(super) struct Reader<'a> {
    origin: &'a str,
    path: String,
    object: &'a Map<String, Value>,
}

fn alike(a: &str, b: &str) -> bool {
    let plain =
        |text: &'_ str| text.bytes().filter(|b| *b != b'_').map(|b| b.to_ascii_lowercase()).collect::<Vec<u8>>();
    a == b || plain(a) == plain(b)
}

const SERVICE_KEYS: &[&str] = &[
    "id",
    "name",
    "tags",
    "address",
    "port",
    "tagged_addresses",
    "meta",
    "weights",
    "enable_tag_override",
    "token",
    "check",
    "checks",
    "kind",
    "socket_path",
    "connect",
    "proxy",
    "namespace",
];
const CHECK_KEYS: &[&str] = &[
    "id",
    "check_id",
    "name",
    "notes",
    "service_id",
    "token",
    "status",
    "script",
    "args",
    "scriptargs",
    "shell",
    "docker_container_id",
    "http",
    "header",
    "method",
    "body",
    "tls_skip_verify",
    "tls_server_name",
    "disable_redirects",
    "tcp",
    "tcp_use_tls",
    "udp",
    "grpc",
    "grpc_use_tls",
    "h2ping",
    "h2ping_use_tls",
    "os_service",
    "ttl",
    "interval",
    "timeout",
    "alias_node",
    "alias_service",
    "success_before_passing",
    "failures_before_warning",
    "failures_before_critical",
    "deregister_critical_service_after",
    "output_max_size",
];

impl<'a> Reader<'a> {
    pub(super) fn new(origin: &'a str, path: &str, object: &'a Map<String, Value>) -> Self {
        Self { origin, path: path.to_owned(), object }
    }

    pub(super) fn fail(&self, key: &str, what: impl std::fmt::Display) -> ConfigError {
        ConfigError::new(self.origin, format!("key \"{}.{key}\" {what}", self.path))
    }

    pub(super) fn only(&self, known: &[&str]) -> Result<(), ConfigError> {
        for key in self.object.keys() {
            if !known.iter().any(|k| alike(k, key)) {
                let hint = nearest(key, known.iter().copied())
                    .map(|k| format!("; did you mean {k:?}?"))
                    .unwrap_or_else(|| "; remove it".to_owned());
                return Err(ConfigError::new(self.origin, format!("invalid config key \"{}.{key}\"{hint}", self.path)));
            }
        }
        Ok(())
    }

    /// Keys are matched without regard to case, and to the underscores of `service_id`, as Consul does.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object
            .get(key)
            .or_else(|| self.object.iter().find(|(k, _)| alike(k, key)).map(|(_, v)| v))
            .filter(|v| !v.is_null())
    }

    fn typed(&self, key: &str, kind: super::Kind) -> Result<Option<Value>, ConfigError> {
        self.get(key).map(|v| value::check(kind, v).map_err(|e| self.fail(key, e))).transpose()
    }

    pub(super) fn text(&self, key: &str) -> Result<String, ConfigError> {
        Ok(self.typed(key, super::Kind::Text)?.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default())
    }

    pub(super) fn list(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let v = self.typed(key, super::Kind::List)?;
        Ok(v.and_then(|v| Some(v.as_array()?.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect()))
            .unwrap_or_default())
    }

    fn map(&self, key: &str) -> Result<BTreeMap<String, String>, ConfigError> {
        let v = self.typed(key, super::Kind::Map)?;
        Ok(v.and_then(|v| {
            Some(v.as_object()?.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect())
        })
        .unwrap_or_default())
    }

    fn number(&self, key: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64, ConfigError> {
        let n = self.typed(key, super::Kind::Number)?.and_then(|v| v.as_i64()).unwrap_or(0);
        if n != 0 && !range.contains(&n) {
            return Err(self.fail(key, format!("is {n}; it must be from {} to {}", range.start(), range.end())));
        }
        Ok(n)
    }

    pub(super) fn on(&self, key: &str) -> Result<bool, ConfigError> {
        Ok(self.typed(key, super::Kind::Flag)?.and_then(|v| v.as_bool()).unwrap_or(false))
    }

    fn duration(&self, key: &str) -> Result<Duration, ConfigError> {
        let v = self.typed(key, super::Kind::Duration)?;
        Ok(Duration::from_nanos(v.and_then(|v| v.as_u64()).unwrap_or(0)))
    }

    fn service(&self) -> Result<ServiceDefinition, ConfigError> {
        self.only(SERVICE_KEYS)?;
        let mut checks = Vec::new();
        for key in ["check", "checks"] {
            if let Some(v) = self.get(key) {
                let path = format!("{}.{key}", self.path);
                each(v, self.origin, &path, &mut |object| {
                    checks.push(Reader::new(self.origin, &path, object).check(true)?);
                    Ok(())
                })?;
            }
        }
        let mut tagged = BTreeMap::new();
        if let Some(v) = self.get("tagged_addresses") {
            let path = format!("{}.tagged_addresses", self.path);
            each(v, self.origin, &path, &mut |object| {
                for (name, v) in object {
                    each(v, self.origin, &path, &mut |inner| {
                        let inner = Reader::new(self.origin, &format!("{path}.{name}"), inner);
                        inner.only(&["address", "port"])?;
                        let port = i32::try_from(inner.number("port", 0..=65535)?).unwrap_or(0);
                        tagged.insert(name.clone(), ServiceAddress { address: inner.text("address")?, port });
                        Ok(())
                    })?;
                }
                Ok(())
            })?;
        }
        let mut weights = None;
        if let Some(v) = self.get("weights") {
            let path = format!("{}.weights", self.path);
            each(v, self.origin, &path, &mut |object| {
                let inner = Reader::new(self.origin, &path, object);
                inner.only(&["passing", "warning"])?;
                let read = |key: &str| Ok(i32::try_from(inner.number(key, 0..=65535)?).unwrap_or(1));
                weights = Some(Weights { passing: read("passing")?, warning: read("warning")? });
                Ok(())
            })?;
        }
        let name = self.text("name")?;
        if name.is_empty() {
            return Err(self.fail("name", "is missing: a service needs a name"));
        }
        Ok(ServiceDefinition {
            id: self.text("id")?,
            name,
            tags: self.list("tags")?,
            address: self.text("address")?,
            port: i32::try_from(self.number("port", 0..=65535)?).unwrap_or(0),
            tagged_addresses: tagged,
            meta: self.map("meta")?,
            weights,
            enable_tag_override: self.on("enable_tag_override")?,
            kind: self.text("kind")?,
            socket_path: self.text("socket_path")?,
            token: Secret(self.text("token")?),
            checks,
        })
    }

    fn check(&self, of_service: bool) -> Result<CheckDefinition, ConfigError> {
        self.only(CHECK_KEYS)?;
        let status = self.text("status")?;
        let status = match status.as_str() {
            "" => None,
            s => Some(
                Status::parse(s)
                    .ok_or_else(|| self.fail("status", format!("is {s:?}; it must be passing, warning or critical")))?,
            ),
        };
        let small = |key: &str| Ok::<u32, ConfigError>(u32::try_from(self.number(key, 0..=1_000_000)?).unwrap_or(0));
        let id = match self.text("id")? {
            id if id.is_empty() => self.text("check_id")?,
            id => id,
        };
        let check = CheckDefinition {
            id,
            name: self.text("name")?,
            notes: self.text("notes")?,
            service_id: self.text("service_id")?,
            kind: self.kind()?,
            interval: self.duration("interval")?,
            timeout: self.duration("timeout")?,
            ttl: self.duration("ttl")?,
            status,
            success_before_passing: small("success_before_passing")?,
            failures_before_warning: small("failures_before_warning")?,
            failures_before_critical: small("failures_before_critical")?,
            deregister_critical_service_after: self.duration("deregister_critical_service_after")?,
            output_max_size: small("output_max_size")? as usize,
            token: Secret(self.text("token")?),
        };
        if !of_service && check.name.is_empty() && check.id.is_empty() {
            return Err(self.fail("name", "is missing: a check needs a name"));
        }
        match check.kind {
            CheckKind::Ttl if check.ttl.is_zero() => Err(ConfigError::new(
                self.origin,
                format!(
                    "key {:?} says nothing to do: set one of args, http, tcp, ttl, grpc, h2ping, udp, os_service, alias_service",
                    self.path
                ),
            )),
            CheckKind::Ttl | CheckKind::Alias { .. } => Ok(check),
            _ if check.interval.is_zero() => {
                Err(self.fail("interval", "is missing: say how often the check runs, such as \"10s\""))
            }
            _ => Ok(check),
        }
    }

    fn kind(&self) -> Result<CheckKind, ConfigError> {
        let args = match self.list("args")? {
            args if args.is_empty() => self.list("scriptargs")?,
            args => args,
        };
        let (script, http, tcp) = (self.text("script")?, self.text("http")?, self.text("tcp")?);
        let (udp, grpc) = (self.text("udp")?, self.text("grpc")?);
        let (alias_node, alias_service) = (self.text("alias_node")?, self.text("alias_service")?);
        let (h2ping, unit) = (self.text("h2ping")?, self.text("os_service")?);
        let tls = |on| {
            let (skip_verify, server_name) = (self.on("tls_skip_verify")?, self.text("tls_server_name")?);
            Ok::<_, ConfigError>(CheckTls { on, skip_verify, server_name })
        };
        let script = match (args.is_empty(), script.is_empty()) {
            (false, _) => Some(ScriptCheck::Args(args)),
            (true, false) => Some(ScriptCheck::Shell(script)),
            (true, true) => None,
        };
        Ok(if let Some(script) = script {
            match self.text("docker_container_id")? {
                container if container.is_empty() => CheckKind::Script(script),
                container => CheckKind::Docker { container, shell: self.text("shell")?, script },
            }
        } else if !http.is_empty() {
            let mut header = BTreeMap::new();
            if let Some(v) = self.get("header") {
                let object = v.as_object().ok_or_else(|| self.fail("header", "must be an object of lists"))?;
                let inner = Reader::new(self.origin, &format!("{}.header", self.path), object);
                for name in object.keys() {
                    header.insert(name.clone(), inner.list(name)?);
                }
            }
            CheckKind::Http(HttpCheck {
                url: http,
                method: self.text("method")?,
                header,
                body: self.text("body")?,
                tls_skip_verify: self.on("tls_skip_verify")?,
                tls_server_name: self.text("tls_server_name")?,
                disable_redirects: self.on("disable_redirects")?,
            })
        } else if !tcp.is_empty() {
            CheckKind::Tcp { address: tcp, tls: tls(self.on("tcp_use_tls")?)? }
        } else if !udp.is_empty() {
            CheckKind::Udp { address: udp }
        } else if !grpc.is_empty() {
            CheckKind::Grpc { address: grpc, tls: tls(self.on("grpc_use_tls")?)? }
        } else if !h2ping.is_empty() {
            // Unlike the others it speaks TLS where nothing is said.
            let on = self.get("h2ping_use_tls").is_none() || self.on("h2ping_use_tls")?;
            CheckKind::H2Ping { address: h2ping, tls: tls(on)? }
        } else if !unit.is_empty() {
            CheckKind::OsService { unit }
        } else if !alias_node.is_empty() || !alias_service.is_empty() {
            CheckKind::Alias { node: alias_node, service: alias_service }
        } else {
            CheckKind::Ttl
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_json(text: &str) -> Result<Definitions, ConfigError> {
        let mut settings = Settings::default();
        settings.read_text("x.json", text, false)?;
        read(&settings)
    }

    #[test]
    fn configurations_from_the_field() {
        let d = read_json(
            r#"{"service":{"name":"elasticsearch","port":9200,"check":{"script":"curl -s http://127.0.0.1:9200","interval":"10s"}}}"#,
        )
        .unwrap();
        assert_eq!(d.services[0].name, "elasticsearch");
        assert!(d.scripts);
        assert!(
            matches!(&d.services[0].checks[0].kind, CheckKind::Script(ScriptCheck::Shell(s)) if s.starts_with("curl"))
        );
        let d = read_json(
            r#"{"service":{"name":"galeradb","tags":["icinga-galera"],"check":{"id":"mysql","name":"Check mysql port listening","tcp":"localhost:3306","interval":"10s","timeout":"1s"}}}"#,
        )
        .unwrap();
        let check = &d.services[0].checks[0];
        assert_eq!((check.id.as_str(), check.timeout), ("mysql", Duration::from_secs(1)));
        assert!(!d.scripts);
    }

    #[test]
    fn both_spellings_of_several() {
        let d = read_json(
            r#"{"services":[{"name":"a","checks":[{"ttl":"5s"},{"tcp":"h:1","interval":"1s"}]},{"name":"b"}],"checks":[{"name":"c","ttl":"9s"}]}"#,
        )
        .unwrap();
        assert_eq!((d.services.len(), d.services[0].checks.len(), d.checks.len()), (2, 2, 1));
    }

    #[test]
    fn entries_in_either_spelling() {
        let entries = |text: &str, hcl| {
            let mut settings = Settings::default();
            settings.read_text("x", text, hcl).unwrap();
            config_entries(&settings).map(|(entries, _)| entries).map_err(|e| e.to_string())
        };
        let json = r#"{"config_entries":{"bootstrap":[{"Kind":"service-resolver","Name":"web","Failover":{"*":{"Datacenters":["dc2"]}}}]}}"#;
        let hcl = "config_entries { bootstrap = [ { kind = \"service-resolver\", name = \"web\", failover = { \"*\" = { datacenters = [\"dc2\"] } } } ] }";
        assert_eq!(entries(json, false).unwrap(), entries(hcl, true).unwrap());
        assert_eq!(entries(json, false).unwrap()[0].name, "web");
        let kept = entries(r#"{"config_entries":{"bootstrap":[{"Kind":"proxy-defaults","Name":"global"}]}}"#, false);
        assert_eq!(kept.unwrap()[0].kind, "proxy-defaults");
        let bad = entries(r#"{"config_entries":{"bootstrap":[{"Kind":"proxy-default","Name":"global"}]}}"#, false);
        assert!(bad.unwrap_err().contains("invalid config entry kind: proxy-default"));
    }

    #[test]
    fn what_has_no_effect_is_said_once_a_key() {
        let d = read_json(r#"{"service":{"name":"a","connect":{"native":true},"namespace":"default"}}"#).unwrap();
        assert_eq!(d.warnings.len(), 2, "{:?}", d.warnings);
        assert!(d.warnings[0].contains("x.json") && d.warnings[0].contains("service.connect"), "{:?}", d.warnings);
        let mut settings = Settings::default();
        let text = r#"config_entries { bootstrap = [{ kind = "proxy-defaults" name = "global" }, { kind = "service-resolver" name = "web" }] }"#;
        settings.read_text("x.hcl", text, true).unwrap();
        let (entries, warnings) = config_entries(&settings).unwrap();
        assert_eq!((entries.len(), warnings.len()), (2, 1));
        assert!(warnings[0].contains("proxy-defaults") && warnings[0].starts_with("x.hcl: "), "{warnings:?}");
    }

    #[test]
    fn keys_without_underscores() {
        let d = read_json(r#"{"check":{"name":"a","serviceid":"s","TTL":"1s","DeregisterCriticalServiceAfter":"1m"}}"#)
            .unwrap();
        assert_eq!((d.checks[0].service_id.as_str(), d.checks[0].ttl), ("s", Duration::from_secs(1)));
        assert_eq!(d.checks[0].deregister_critical_service_after, Duration::from_secs(60));
    }

    #[test]
    fn errors_name_the_key() {
        for (text, wanted) in [
            (r#"{"service":{"nam":"a"}}"#, r#"x.json: invalid config key "service.nam"; did you mean "name"?"#),
            (r#"{"service":{"port":1}}"#, r#"x.json: key "service.name" is missing: a service needs a name"#),
            (
                r#"{"service":{"name":"a","port":99999}}"#,
                r#"x.json: key "service.port" is 99999; it must be from 0 to 65535"#,
            ),
            (
                r#"{"service":{"name":"a","check":{"tcp":"h:1"}}}"#,
                r#"x.json: key "service.check.interval" is missing: say how often the check runs, such as "10s""#,
            ),
            (
                r#"{"check":{"name":"x","ttl":"soon"}}"#,
                r#"x.json: key "check.ttl" "soon" is not a duration; write it as "10s", "500ms" or "1h30m""#,
            ),
        ] {
            assert_eq!(read_json(text).unwrap_err().to_string(), wanted);
        }
    }
}
