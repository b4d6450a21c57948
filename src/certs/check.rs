//! What `gantry check` finds in certificates without starting anything.

use std::path::Path;
use std::time::SystemTime;

use super::acme;
use super::client_auth::ClientCas;
use super::expiry::warning;
use super::files::scan;
use super::flaw::Flaw;
use super::pair::{Pair, Source};
use super::state::{file_name, no_pair};
use crate::config::{Config, PairFiles, Server};
use crate::outbound::connect::Connector;

/// Everything that is wrong with the certificates of a configuration, and everything that is suspicious, for
/// `gantry check`.
pub fn check(config: &Config) -> (Vec<Flaw>, Vec<Flaw>) {
    let (mut flaws, warnings) = check_server(&config.server);
    let upstream = Connector::of(&config.upstream).and_then(|connector| connector.for_workspace(&config.rocketchat.tls));
    flaws.extend(upstream.err().map(|bad| Flaw::new(bad.key, bad.why)));
    (flaws, warnings)
}

fn check_server(server: &Server) -> (Vec<Flaw>, Vec<Flaw>) {
    let Some(tls) = &server.tls else { return (Vec::new(), Vec::new()) };
    let (mut flaws, mut warnings) = (Vec::new(), Vec::new());
    let mut look = |name: &str, source: Source, files: &PairFiles| match Pair::read(name, source, files) {
        Ok(pair) => {
            let words = pair.warnings.iter().cloned().chain(warning(&pair, SystemTime::now()));
            warnings.extend(words.map(|why| Flaw::new(source.cert_key(), why)));
            Some(pair)
        }
        Err(flaw) => {
            flaws.push(flaw);
            None
        }
    };
    let mut covered = Vec::new();
    if let Some(files) = &tls.pair {
        covered.extend(look(&file_name(&files.cert), Source::Files, files));
    }
    let scanned = tls.cert_dir.as_deref().map(scan);
    if let Some(Ok(found)) = &scanned {
        for (name, files) in found {
            covered.extend(look(name, Source::Directory, files));
        }
    }
    let bad_pairs = !flaws.is_empty();
    match scanned {
        Some(Err(flaw)) => flaws.push(flaw),
        Some(Ok(found)) if found.is_empty() => {
            let empty = no_pair(tls.cert_dir.as_deref().unwrap_or(Path::new("")));
            if tls.pair.is_none() && server.acme.is_none() { flaws.push(empty) } else { warnings.push(empty) }
        }
        _ => {}
    }
    flaws.extend(ClientCas::read(&tls.client_auth).err());
    let host = server.public_url.host_str().unwrap_or_default();
    let by_acme = server.acme.as_ref().is_some_and(|acme| acme.domains.iter().any(|domain| domain == host));
    if !bad_pairs && !by_acme && !covered.is_empty() && !covered.iter().any(|pair| pair.covers(host)) {
        let names: Vec<&str> = covered.iter().flat_map(|pair| pair.names.iter().map(String::as_str)).collect();
        warnings.push(Flaw::new(
            "server.public_url",
            format!("no certificate is good for {host}, only for {}: browsers will refuse it", names.join(", ")),
        ));
    }
    if let Some(acme) = &server.acme {
        match acme::check(acme) {
            Ok(Some(warning)) => warnings.push(warning),
            Ok(None) => {}
            Err(flaw) => flaws.push(flaw),
        }
    }
    (flaws, warnings)
}
