//! The keys of certificates and of TLS, in their older and newer spelling.

use std::path::PathBuf;

use causeway_certs::link::{self, HttpsRules};
use causeway_certs::material::Files;

use super::table as t;
use super::{ConfigError, Def, Settings};

/// What is set for everything, for RPC and for HTTPS.
pub(super) fn files(s: &Settings) -> Result<(Files, Files, Files), ConfigError> {
    let paths = |defs: [&Def; 2]| -> Vec<PathBuf> {
        defs.into_iter().filter_map(|def| s.some_text(def)).map(PathBuf::from).collect()
    };
    let either = |a: &Def, b: &Def| s.some_text(a).or_else(|| s.some_text(b)).map(PathBuf::from);
    let pair = |files: &Files| match files.cert.is_some() == files.key.is_some() {
        true => Ok(()),
        false => Err(s.error(&t::CERT_FILE, "and \"key_file\" go together: set both or none")),
    };
    let mut common = Files {
        ca: paths([&t::CA_FILE, &t::CA_PATH]),
        cert: either(&t::CERT_FILE, &t::TLS_DEFAULTS_CERT_FILE),
        key: either(&t::KEY_FILE, &t::TLS_DEFAULTS_KEY_FILE),
    };
    common.ca.extend(paths([&t::TLS_DEFAULTS_CA_FILE, &t::TLS_DEFAULTS_CA_PATH]));
    pair(&common)?;
    let special = |ca: [&Def; 2], cert: &Def, key: &Def| -> Result<Files, ConfigError> {
        let own = Files {
            ca: paths(ca),
            cert: s.some_text(cert).map(PathBuf::from),
            key: s.some_text(key).map(PathBuf::from),
        };
        pair(&own)?;
        Ok(Files {
            ca: if own.ca.is_empty() { common.ca.clone() } else { own.ca },
            cert: own.cert.or_else(|| common.cert.clone()),
            key: own.key.or_else(|| common.key.clone()),
        })
    };
    let rpc = special(
        [&t::TLS_INTERNAL_RPC_CA_FILE, &t::TLS_INTERNAL_RPC_CA_PATH],
        &t::TLS_INTERNAL_RPC_CERT_FILE,
        &t::TLS_INTERNAL_RPC_KEY_FILE,
    )?;
    let https =
        special([&t::TLS_HTTPS_CA_FILE, &t::TLS_HTTPS_CA_PATH], &t::TLS_HTTPS_CERT_FILE, &t::TLS_HTTPS_KEY_FILE)?;
    Ok((common, rpc, https))
}

/// Versions and cipher suites of HTTPS; what is named and we do not have is a warning.
pub(super) fn https_rules(s: &mut Settings) -> Result<HttpsRules, ConfigError> {
    let first = |defs: [&'static Def; 3]| defs.into_iter().find(|def| s.some_text(def).is_some());
    let mut rules = HttpsRules { prefer_server: s.on(&t::TLS_PREFER_SERVER_CIPHER_SUITES), ..HttpsRules::default() };
    if let Some(def) = first([&t::TLS_HTTPS_TLS_MIN_VERSION, &t::TLS_DEFAULTS_TLS_MIN_VERSION, &t::TLS_MIN_VERSION]) {
        rules.only_13 = match s.text(def).to_ascii_lowercase().as_str() {
            // Older ones are gone; who asked for no more than them is served.
            "tls10" | "tls11" | "tls12" | "tlsv1_0" | "tlsv1_1" | "tlsv1_2" | "tls_auto" => false,
            "tls13" | "tlsv1_3" => true,
            other => return Err(s.error(def, format!("is {other:?}; it must be tls10, tls11, tls12 or tls13"))),
        };
    }
    let suites = [&t::TLS_HTTPS_TLS_CIPHER_SUITES, &t::TLS_DEFAULTS_TLS_CIPHER_SUITES, &t::TLS_CIPHER_SUITES];
    if let Some(def) = first(suites) {
        let (found, without) = link::suites(&s.text(def))
            .map_err(|name| s.error(def, format!("names {name:?}, which is no cipher suite")))?;
        if found.is_empty() && !rules.only_13 {
            return Err(s.error(def, "names only suites that Causeway does not have: use those with GCM or CHACHA20"));
        }
        if !without.is_empty() {
            let line = s.error(def, format!("names {}, which Causeway does not have", without.join(", "))).to_string();
            s.warn(line);
        }
        rules.suites = found;
    }
    Ok(rules)
}
