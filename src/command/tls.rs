//! `tls ca create`, `tls cert create`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use causeway_certs::tls::{self as certs_tls, CaOptions, CertOptions, TlsError};

use super::{Command, Input, flag, print_out};

/// `tls ca create`.
pub static CA_CREATE: Command = Command {
    name: "tls ca create",
    operands: "",
    about: "Creates the authority of a federation",
    more: "Writes DOMAIN-agent-ca.pem and DOMAIN-agent-ca-key.pem here. One authority serves all sites.",
    flags: &[
        flag("domain", "name", "Domain of the federation, \"consul\" by default."),
        flag("days", "number", "Days it is valid, 1825 by default."),
        flag("name-constraint", "", "Lets it sign names below the domain (and localhost) only."),
        flag("additional-name-constraint", "domain", "A further domain it may sign; may be repeated."),
    ],
    http: false,
    run: ca_create,
};
/// `tls cert create`.
pub static CERT_CREATE: Command = Command {
    name: "tls cert create",
    operands: "",
    about: "Creates a certificate for a server, gateway, agent or the command line",
    more: "Writes DC-KIND-DOMAIN-N.pem and its key here, signed by the authority that lies here too.",
    flags: &[
        flag("server", "", "For a server: server.DC.DOMAIN."),
        flag("gateway", "", "For a gateway: gateway.DC.DOMAIN."),
        flag("client", "", "For an agent: agent.DC.DOMAIN."),
        flag("cli", "", "For the command line."),
        flag("dc", "name", "Datacenter, \"dc1\" by default."),
        flag("domain", "name", "Domain, \"consul\" by default."),
        flag("ca", "path", "The authority; default: DOMAIN-agent-ca.pem."),
        flag("key", "path", "Its key; default: DOMAIN-agent-ca-key.pem."),
        flag("days", "number", "Days it is valid, 365 by default."),
        flag("additional-dnsname", "name", "A further name; may be repeated."),
        flag("additional-ipaddress", "ip", "A further address; may be repeated."),
        flag("node", "name", "With -server: the node's name, as a further name."),
    ],
    http: false,
    run: cert_create,
};

fn finish(outcome: Result<Vec<String>, TlsError>) -> ExitCode {
    match outcome {
        Ok(lines) => {
            print_out(&lines.iter().map(|l| format!("{l}\n")).collect::<String>());
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn only_flags(input: &Input) -> Result<(), TlsError> {
    match input.operands.as_slice() {
        [] => Ok(()),
        [word, ..] => Err(TlsError::Usage(format!("{word:?} is too much: this command takes flags alone"))),
    }
}

fn days(input: &Input, default: u32) -> Result<u32, TlsError> {
    let Some(text) = input.value("days") else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|d| (1..=36_500).contains(d))
        .ok_or_else(|| TlsError::Usage(format!("-days {text:?}: a number from 1 to 36500 is needed")))
}

fn ca_create(input: &Input) -> ExitCode {
    let defaults = CaOptions::default();
    let options = only_flags(input).and_then(|()| {
        Ok(CaOptions {
            domain: input.value("domain").map_or(defaults.domain, str::to_owned),
            days: days(input, defaults.days)?,
            name_constraint: input.on("name-constraint"),
            additional_name_constraints: input.values("additional-name-constraint").to_vec(),
        })
    });
    finish(options.and_then(|options| certs_tls::create_ca(Path::new("."), &options)))
}

fn cert_create(input: &Input) -> ExitCode {
    let options = only_flags(input).and_then(|()| {
        let kind = certs_tls::kind(input.on("server"), input.on("client"), input.on("cli"), input.on("gateway"))?;
        let defaults = CertOptions::new(kind);
        let mut ips = Vec::new();
        for text in input.values("additional-ipaddress") {
            let ip = text
                .parse()
                .map_err(|_| TlsError::Usage(format!("-additional-ipaddress {text:?} is no IP address")))?;
            ips.push(ip);
        }
        Ok(CertOptions {
            datacenter: input.value("dc").map_or_else(|| defaults.datacenter.clone(), str::to_owned),
            domain: input.value("domain").map_or_else(|| defaults.domain.clone(), str::to_owned),
            ca: input.value("ca").map(PathBuf::from),
            key: input.value("key").map(PathBuf::from),
            days: days(input, defaults.days)?,
            additional_dnsnames: input.values("additional-dnsname").to_vec(),
            additional_ipaddresses: ips,
            node: input.value("node").map(str::to_owned),
            ..defaults
        })
    });
    finish(options.and_then(|options| certs_tls::create_cert(Path::new("."), &options)))
}
